"""DKIM signatures: who answers for a letter, and that nobody has altered it since.

rsa-sha256 (RFC 6376, key sizes of RFC 8301) and ed25519-sha256 (RFC 8463), both relaxed/relaxed, without `l=`.
Signed by `cryptography`: RSA in pure Python takes 25 times as long. Whoever imports this module imports
`cryptography` too, so a program that signs nothing leaves it alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from newsletter.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

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

SHORTEST_RSA_BITS = 2048
"""What a signer should use at least. Source: RFC 8301, section 3.2."""

LINE_LENGTH = 76

_NAMES = dict.fromkeys(name.encode("ascii") for name in SIGNED_HEADERS)  # a set that keeps its order
_OVERSIGNED = frozenset(name.encode("ascii") for name in OVERSIGNED_HEADERS)
_RUN = re.compile(rb"  +")  # begins with two literal bytes, which are searched for 15 times as fast as a class
_PKCS1_V1_5 = PKCS1v15()
_SHA256 = SHA256()

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


class DkimSigner:
    """Signs with one key. It keeps no state: threads may share it.

    Args:
        domain: the signing domain (d=), in ASCII.
        selector: the key's public half is at `selector._domainkey.domain` in the DNS (s=).
        private_key: RSA or Ed25519.
    """

    def __init__(self, domain: str, selector: str, private_key: PrivateKey) -> None:
        self._key = private_key
        algorithm = "rsa-sha256" if isinstance(private_key, RSAPrivateKey) else "ed25519-sha256"
        tags = f" v=1; a={algorithm}; c=relaxed/relaxed; d={domain}; s={selector};"
        self._tags = tuple(b" " + tag for tag in tags.encode("ascii").split())

    def sign(self, content: bytes) -> bytes:
        """The message with a DKIM-Signature in front.

        The time of signing (t=) is the message's own Date, and both algorithms are deterministic: the same
        message always gives the same bytes.

        Args:
            content: header and body, every line ended by CRLF, as in `Envelope.content`.

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
        body_hash = base64.b64encode(hashlib.sha256(relaxed_body(body)).digest())
        unsigned = _unsigned(self._tags, _timestamp(fields[b"date"][-1]), tuple(names)) % body_hash
        # The signature's own field is hashed last, without its b= and without a line end.
        signed.append(b"dkim-signature:" + _unfolded(unsigned).partition(b": ")[2])
        signature = base64.b64encode(self._signature(b"\r\n".join(signed)))
        return b"".join((unsigned, *_continued(signature, unsigned), b"\r\n", content))

    def _signature(self, data: bytes) -> bytes:
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(data, _PKCS1_V1_5, _SHA256)
        return self._key.sign(hashlib.sha256(data).digest())  # RFC 8463, section 3: the hash is what is signed


def load_key(file: Path, *, kind: Literal["rsa", "ed25519"], setting: str) -> PrivateKey:
    """Read a private key from a PEM file.

    Args:
        kind: what it has to be.
        setting: the setting that names the file, for the errors.

    Raises:
        SettingsError: it cannot be read, is no such key, needs a passphrase, or is an RSA key below 2048 bits.
            The text holds nothing of the file's content.
    """
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        message = f"{setting}: {file} cannot be read ({error.strerror}); name the PEM file of a private key."
        raise SettingsError(message) from None
    except TypeError:
        message = f"{setting}: {file} has a passphrase; write the key without one: openssl pkey -in FILE -out FILE2"
        raise SettingsError(message) from None
    except (ValueError, UnsupportedAlgorithm):
        message = f"{setting}: {file} holds no private key in PEM form; {_ADVICE[kind]}"
        raise SettingsError(message) from None
    if kind == "rsa" and isinstance(key, RSAPrivateKey):
        if key.key_size >= SHORTEST_RSA_BITS:
            return key
        message = f"{setting}: {file} holds an RSA key of {key.key_size} bits, which is too short; {_ADVICE[kind]}"
        raise SettingsError(message)
    if kind == "ed25519" and isinstance(key, Ed25519PrivateKey):
        return key
    message = f"{setting}: {file} holds a key of another kind; {_ADVICE[kind]}"
    raise SettingsError(message)


_ADVICE = MappingProxyType(
    {
        "rsa": "make one with: openssl genrsa -out FILE 2048",
        "ed25519": "make one with: openssl genpkey -algorithm ed25519 -out FILE",
    }
)


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
    for field in _unfolded(head).split(b"\r\n"):
        name, colon, value = field.partition(b":")
        name = name.rstrip(b" ").lower()
        if name in _NAMES and colon:
            fields.setdefault(name, []).append(b"%b:%b" % (name, value.strip(b" ")))
    return fields


def _unfolded(head: bytes) -> bytes:
    return _reduced(head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" "))


def _reduced(text: bytes) -> bytes:
    """Every run of spaces and tabs as one space."""
    return _RUN.sub(b" ", text.replace(b"\t", b" "))


@lru_cache(maxsize=64)
def _unsigned(tags: tuple[bytes, ...], timestamp: int, names: tuple[bytes, ...]) -> bytes:
    """The field without its signature, with a place for the hash of the body; the same for all letters of a moment."""
    listed = [b" h=" + names[0] + b":", *(name + b":" for name in names[1:-1]), names[-1] + b";"]
    written = _folded(b"DKIM-Signature:", [*tags, b" t=%d;" % timestamp, b" bh=%b;" % _ANY_HASH, *listed, b" b="])
    return written.replace(b"%", b"%%").replace(_ANY_HASH, b"%b")


_ANY_HASH = base64.b64encode(bytes(range(hashlib.sha256().digest_size)))


@lru_cache(maxsize=64)
def _timestamp(date_field: bytes) -> int:
    """Seconds since 1970 of a Date field in canonical form."""
    date = parsedate_to_datetime(date_field.partition(b":")[2].decode("ascii", "replace"))
    # "-0000" says UTC and nothing about the place (RFC 5322, section 3.3); the library calls that naive.
    return int((date.replace(tzinfo=UTC) if date.tzinfo is None else date).timestamp())


def _folded(line: bytes, tags: Iterable[bytes]) -> bytes:
    """`line` and the tags behind it; a tag that would pass column 76 begins a new line."""
    lines = []
    for tag in tags:
        if len(line) + len(tag) > LINE_LENGTH:
            lines.append(line)
            line = b" " + tag.lstrip(b" ")
        else:
            line += tag
    lines.append(line)
    return b"\r\n".join(lines)


def _continued(signature: bytes, before: bytes) -> Iterable[bytes]:
    """The signature in pieces: what the last line has room for, then lines of its own."""
    room = max(0, LINE_LENGTH - (len(before) - before.rfind(b"\n") - 1))
    yield signature[:room]
    for start in range(room, len(signature), LINE_LENGTH - 1):
        yield b"\r\n " + signature[start : start + LINE_LENGTH - 1]
