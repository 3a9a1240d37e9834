"""Reads a posted form strictly: what is malformed is refused whole, before anything is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 40
MAX_VALUE_LENGTH = 2_000

URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

Form = Mapping[str, str]
"""A posted form: every field once, text without NUL, its ends trimmed."""


async def read_form(request: Request) -> Form:
    """The posted form; an empty body is a form without fields, whatever its type is said to be.

    A body without a type is taken for `application/x-www-form-urlencoded`, because some mail services send
    their one-click unsubscribe so.

    Raises:
        HTTPException: 413 a body over `MAX_BODY_BYTES`, 415 neither type of form, 400 malformed.
    """
    body = await _read_body(request)
    if not body:
        return {}
    kind = request.headers.get("content-type", URLENCODED).partition(";")[0].strip().lower()
    if kind not in {URLENCODED, MULTIPART}:
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    try:
        text = body.decode("utf-8")
        pairs = _read_urlencoded(text) if kind == URLENCODED else await _read_multipart(request.headers, body)
    except (ValueError, MultiPartException) as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST) from error
    return _checked(pairs)


async def _read_body(request: Request) -> bytes:
    # Starlette's own limit answers in plain text, past our headers and our page; hence this count.
    # A length that is announced is refused at once, one that is not as soon as it grows too long.
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return bytes(body)


def _read_urlencoded(text: str) -> Iterable[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)


async def _read_multipart(headers: Headers, body: bytes) -> Iterable[tuple[str, str]]:
    # The whole body was UTF-8, so each of its parts is: Starlette's fallback to Latin-1 never happens.
    limits = {"max_files": 0, "max_fields": MAX_FIELDS, "max_part_size": MAX_BODY_BYTES}
    form = await MultiPartParser(headers, _once(body), **limits).parse()
    return [(name, value) for name, value in form.multi_items() if isinstance(value, str)]


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _checked(pairs: Iterable[tuple[str, str]]) -> Form:
    form: dict[str, str] = {}
    for name, value in pairs:
        fault = _fault(name, value) if name not in form else "One of its fields was sent twice."
        if fault:
            raise HTTPException(HTTPStatus.BAD_REQUEST, fault)
        form[name] = value.strip(" \t")
    return form


def _fault(name: str, value: str) -> str | None:
    if "\0" in name or "\0" in value:
        return "It holds a character that no form can send."
    if len(name) > MAX_VALUE_LENGTH or len(value) > MAX_VALUE_LENGTH:
        return "One of its fields is far too long."
    return None
