"""A posted form is read whole or refused whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from newsletter.web.forms import MAX_BODY_BYTES, MAX_FIELDS, MAX_VALUE_LENGTH, read_form
from newsletter.web.public import PostedForm

if TYPE_CHECKING:
    from starlette.types import Message

URLENCODED = "application/x-www-form-urlencoded"


def echo(form: PostedForm) -> Response:
    return JSONResponse(dict(form))


@pytest.fixture
def client() -> TestClient:
    application = FastAPI()
    application.add_api_route("/", echo, methods=["POST"], response_model=None)
    return TestClient(application)


def multipart(*parts: tuple[str, bytes], boundary: str = "b0und") -> tuple[bytes, str]:
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def test_both_kinds_of_form_say_the_same(client: TestClient) -> None:
    """Umlauts, blanks, plus signs and empty fields arrive as typed in either encoding."""
    sent = {"email": "jörg+x@example.org", "time": "08:00", "country": ""}
    body, kind = multipart(*((name, value.encode()) for name, value in sent.items()))
    assert client.post("/", data=sent).json() == sent
    assert client.post("/", content=body, headers={"content-type": kind}).json() == sent


def test_ends_are_trimmed_and_line_ends_are_not(client: TestClient) -> None:
    """A blank after a pasted address is no fault; a line end is one, for whoever reads the address."""
    form = client.post("/", data={"email": " maria@example.org\t", "other": "a\r\n"}).json()
    assert form == {"email": "maria@example.org", "other": "a\r\n"}


@pytest.mark.parametrize("kind", [None, "", URLENCODED, "text/plain", "multipart/form-data", "nonsense"])
def test_an_empty_body_is_an_empty_form_whatever_its_type(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/", content=b"", headers=headers)
    assert (answer.status_code, answer.json()) == (200, {})


def test_a_body_without_a_type_is_read_as_a_form(client: TestClient) -> None:
    """Some mail services send their one-click unsubscribe without a type."""
    assert client.post("/", content=b"List-Unsubscribe=One-Click").json() == {"List-Unsubscribe": "One-Click"}


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream", "text/html"])
def test_other_types_are_refused(client: TestClient, kind: str) -> None:
    assert client.post("/", content=b"{}", headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b"email=a%00b",
        b"em%00ail=a",
        b"email=a\x00b",
        b"email=%FF",
        b"email=\xff",
        b"email=%ED%A0%80",  # half of a surrogate pair
        b"email=a&email=b",
        b"email=a&email=a",
        b"email=" + b"a" * (MAX_VALUE_LENGTH + 1),
        b"a" * (MAX_VALUE_LENGTH + 1) + b"=1",
        b"&".join(b"f%d=1" % number for number in range(MAX_FIELDS + 1)),
        b"&".join(b"f%d=1" % number for number in range(5_000)),
    ],
    ids=str,
)
def test_malformed_forms_are_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/", content=body, headers={"content-type": URLENCODED}).status_code == 400


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        multipart(("email", b"a\x00b")),
        multipart(("email", b"\xff")),
        multipart(("email", b"a"), ("email", b"b")),
        multipart(("email", b"a" * (MAX_VALUE_LENGTH + 1))),
        multipart(*((f"f{number}", b"1") for number in range(MAX_FIELDS + 1))),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--\r\n", "multipart/form-data"),
        (b"--x\r\n\r\nno disposition\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"no boundary at all", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.txt"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=["nul", "utf8", "twice", "long", "many", "unbounded", "undisposed", "chatter", "file"],
)
def test_malformed_multipart_forms_are_refused(client: TestClient, body: bytes, kind: str) -> None:
    assert client.post("/", content=body, headers={"content-type": kind}).status_code == 400


def test_a_long_body_is_refused_by_its_announced_length(client: TestClient) -> None:
    """Not a byte of it is read."""

    async def never() -> Message:
        pytest.fail("it was read")

    assert client.post("/", content=b"a" * (MAX_BODY_BYTES + 1)).status_code == 413
    length = str(MAX_BODY_BYTES + 1).encode()
    request = Request({"type": "http", "headers": [(b"content-length", length)]}, never)
    with start_blocking_portal() as portal, pytest.raises(HTTPException) as refused:
        portal.call(read_form, request)
    assert refused.value.status_code == 413


def test_a_long_body_is_refused_while_it_streams() -> None:
    """Without a Content-Length, reading stops at the first chunk too many."""
    taken = 0

    async def endless() -> Message:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"a" * 1024, "more_body": True}

    request = Request({"type": "http", "headers": [(b"content-type", URLENCODED.encode())]}, endless)
    with start_blocking_portal() as portal, pytest.raises(HTTPException) as refused:
        portal.call(read_form, request)
    assert refused.value.status_code == 413
    assert taken == MAX_BODY_BYTES // 1024 + 1


def test_a_body_of_just_the_limit_is_read(client: TestClient) -> None:
    size = (MAX_BODY_BYTES - MAX_FIELDS * len("&f00=") + 1) // MAX_FIELDS
    body = b"&".join(b"f%02d=" % number + b"a" * size for number in range(MAX_FIELDS))
    body += b"a" * (MAX_BODY_BYTES - len(body))
    answer = client.post("/", content=body, headers={"content-type": URLENCODED})
    assert (answer.status_code, len(answer.json())) == (200, MAX_FIELDS)
