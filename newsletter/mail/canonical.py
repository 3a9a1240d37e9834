"""What of a message a DKIM signature covers, in the relaxed canonical form: the same for all keys that sign it.

Source: RFC 6376, section 3.4.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

SIGNED_HEADERS = (
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "list-unsubscribe",  # with its Post inside the signature, or no provider offers one-click: RFC 8058, section 4
    "list-unsubscribe-post",
    "list-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "feedback-id",
    "auto-submitted",
)
"""What is signed where it is present. The rest of a header may be added to or lost on the way."""

OVERSIGNED_HEADERS = frozenset({"from", "to", "subject", "date"})
"""Signed once more than they are present: a second one breaks the signature. Source: RFC 6376, section 8.15."""

_NAMES = dict.fromkeys(name.encode("ascii") for name in SIGNED_HEADERS)  # a set that keeps its order
_OVERSIGNED = frozenset(name.encode("ascii") for name in OVERSIGNED_HEADERS)
_RUN = re.compile(rb"  +")  # begins with two literal bytes, which are searched for 15 times as fast as a class


class Essence(NamedTuple):
    """What of a message is signed.

    Attributes:
        names: of the signed fields, as `h=` lists them.
        timestamp: of its Date, in seconds since 1970.
        fields: the signed fields in canonical form, with their line ends.
        body: in canonical form.
    """

    names: tuple[bytes, ...]
    timestamp: int
    fields: bytes
    body: bytes


def essence_of(content: bytes) -> Essence:
    """What of a message is signed, by whichever key.

    Raises:
        ValueError: the message has no From, or no Date that can be read.
    """
    head, _, body = content.partition(b"\r\n\r\n")
    fields = _signed_fields(head)
    if b"from" not in fields or b"date" not in fields:
        message = "Only a letter with From and Date can be signed."
        raise ValueError(message)
    names: list[bytes] = []
    signed: list[bytes] = []
    for name in _NAMES:
        present = fields.get(name, ())
        names += [name] * (len(present) + (name in _OVERSIGNED))
        signed += reversed(present)  # a name that is listed twice means the last field first
    lines = b"".join(field + b"\r\n" for field in signed)
    return Essence(tuple(names), _timestamp(fields[b"date"][-1]), lines, relaxed_body(body))


def relaxed_body(body: bytes) -> bytes:
    """A body in the relaxed canonical form. Source: RFC 6376, section 3.4.4."""
    reduced = _reduced(body).replace(b" \r\n", b"\r\n").rstrip(b" ")
    end = len(reduced)
    while reduced.endswith(b"\r\n", 0, end):
        end -= 2
    return reduced[:end] + b"\r\n" if end else b""


def _signed_fields(head: bytes) -> dict[bytes, list[bytes]]:
    """The fields that are to be signed, by name and in their order, in the relaxed canonical form.

    Source: RFC 6376, section 3.4.2.
    """
    fields: dict[bytes, list[bytes]] = {}
    for field in unfolded(head).split(b"\r\n"):
        name, colon, value = field.partition(b":")
        name = name.rstrip(b" ").lower()
        if name in _NAMES and colon:
            fields.setdefault(name, []).append(b"%b:%b" % (name, value.strip(b" ")))
    return fields


def unfolded(head: bytes) -> bytes:
    """Folded lines in one, and every run of spaces as one space."""
    return _reduced(head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" "))


def _reduced(text: bytes) -> bytes:
    """Every run of spaces and tabs as one space."""
    return _RUN.sub(b" ", text.replace(b"\t", b" "))


@lru_cache(maxsize=64)
def _timestamp(date_field: bytes) -> int:
    """Seconds since 1970 of a Date field in canonical form."""
    date = parsedate_to_datetime(date_field.partition(b":")[2].decode("ascii", "replace"))
    # "-0000" says UTC and nothing about the place (RFC 5322, section 3.3); the library calls that naive.
    return int((date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp())
