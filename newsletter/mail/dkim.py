"""DKIM signatures: who answers for a letter, and that nobody has altered it since.

rsa-sha256 (RFC 6376, key sizes of RFC 8301) and ed25519-sha256 (RFC 8463), both relaxed/relaxed, without `l=`.
Signed by `cryptography`: RSA in pure Python takes 25 times as long. Whoever imports this module imports
`cryptography` too, so a program that signs nothing leaves it alone.
"""

from __future__ import annotations

import base64
import hashlib
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
from newsletter.mail.canonical import essence_of, unfolded

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from newsletter.mail.canonical import Essence

SHORTEST_RSA_BITS = 2048
"""What a signer should use at least. Source: RFC 8301, section 3.2."""

LINE_LENGTH = 76

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
        return self.field(essence_of(content)) + content

    def field(self, essence: Essence) -> bytes:
        """The DKIM-Signature of a message of which only this is known, with its line end."""
        body_hash = base64.b64encode(hashlib.sha256(essence.body).digest())
        written, signed = _unsigned(self._tags, essence.timestamp, essence.names)
        # The signature's own field is hashed last, without its b= and without a line end.
        signature = base64.b64encode(self._signature(essence.fields + signed % body_hash))
        unsigned = written % body_hash
        return b"".join((unsigned, *_continued(signature, unsigned), b"\r\n"))

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


@lru_cache(maxsize=64)
def _unsigned(tags: tuple[bytes, ...], timestamp: int, names: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """The field without its signature, as it is written and as it is signed; the same for all letters of a moment.

    Both have a place for the hash of the body.
    """
    listed = [b" h=" + names[0] + b":", *(name + b":" for name in names[1:-1]), names[-1] + b";"]
    written = _folded(b"DKIM-Signature:", [*tags, b" t=%d;" % timestamp, b" bh=%b;" % _ANY_HASH, *listed, b" b="])
    signed = b"dkim-signature:" + unfolded(written).partition(b": ")[2]
    return _with_place(written), _with_place(signed)


def _with_place(field: bytes) -> bytes:
    return field.replace(b"%", b"%%").replace(_ANY_HASH, b"%b")


_ANY_HASH = base64.b64encode(bytes(range(hashlib.sha256().digest_size)))


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
