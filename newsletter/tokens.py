"""Links that prove themselves, and addresses remembered without being kept.

Every link carries the id of the key that signed it, a purpose that it is good for and nothing else, and the
signature of itsdangerous (HMAC-SHA256). `SECRET_KEY` is a list: the first signs, all verify.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from itsdangerous import BadSignature, Signer

from newsletter.errors import TokenExpired, TokenForged

_KEY_ID_LENGTH = 6
_FORMAT = ">16sIH"  # id, expiry in seconds since 1970 (0: never), generation
_PACK = struct.Struct(_FORMAT).pack
_LONGEST_TOKEN = 200


class Purpose(StrEnum):
    """What a link is good for."""

    CONFIRM = "confirm"
    PREFERENCES = "preferences"
    UNSUBSCRIBE = "unsubscribe"


@dataclass(frozen=True, kw_only=True)
class Token:
    """What a link says. `generation`: links of an earlier one may have been called off by the reader."""

    id: UUID
    generation: int = 0


def key_id(secret_key: str) -> str:
    """Six characters that name a key and tell nothing about it."""
    return hashlib.sha256(b"newsletter key id\0" + secret_key.encode()).hexdigest()[:_KEY_ID_LENGTH]


DEVELOPMENT_KEY = "development-only-not-a-secret"
"""The key of somebody who is trying things out; nothing public is served or sent with it."""

DEVELOPMENT_KEY_ID = key_id(DEVELOPMENT_KEY)


class TokenSigner:
    """Signs and verifies links, and hashes addresses.

    Args:
        secret_keys: the first signs, all verify; at least one.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        self._keys = {key_id(secret_key): secret_key for secret_key in secret_keys}
        self.key_id = key_id(secret_keys[0])
        self._begins = f"{self.key_id}-".encode("ascii")
        self._macs: dict[Purpose, hmac.HMAC] = {}

    @property
    def key_ids(self) -> frozenset[str]:
        """The ids of all the keys that verify."""
        return frozenset(self._keys)

    def sign(
        self, purpose: Purpose, identifier: UUID, *, expires_at: datetime | None = None, generation: int = 0
    ) -> str:
        """A token for a link: about 80 characters, safe in a URL path."""
        expiry = 0 if expires_at is None else int(expires_at.timestamp())
        payload = _encode(_PACK(identifier.bytes, expiry, generation))
        # As `Signer.sign` does it, which derives its key again for every link, and looks at the type of each part.
        mac = (self._macs.get(purpose) or self._mac(purpose)).copy()
        mac.update(payload)
        return b"".join((self._begins, payload, b".", _encode(mac.digest()))).decode("ascii")

    def verify(self, purpose: Purpose, token: str, *, now: datetime) -> Token:
        """What `token` says.

        Raises:
            TokenForged: malformed, tampered with, signed by no key of ours, or made for another purpose.
            TokenExpired: ours, and too old.
        """
        identifier, separator, signed = token.partition("-")
        if not separator or identifier not in self._keys or len(token) > _LONGEST_TOKEN or not token.isascii():
            raise TokenForged(_FORGED)
        try:
            payload = self._signer(identifier, purpose).unsign(signed)
            raw, expiry, generation = struct.unpack(_FORMAT, _decode(payload.decode()))
        except (BadSignature, struct.error, ValueError, binascii.Error) as error:
            raise TokenForged(_FORGED) from error
        if expiry and now >= datetime.fromtimestamp(expiry, UTC):
            raise TokenExpired(_EXPIRED)
        return Token(id=UUID(bytes=raw), generation=generation)

    def hash_address(self, address_key: str) -> str:
        """The keyed hash under which an address is remembered: `key id:hex digest`."""
        return _hash_address(self.key_id, self._keys[self.key_id], address_key)

    def address_hashes(self, address_key: str) -> tuple[str, ...]:
        """Every hash under which an address may be remembered, one for each key."""
        return tuple(_hash_address(name, secret, address_key) for name, secret in self._keys.items())

    def _mac(self, purpose: Purpose) -> hmac.HMAC:
        mac = hmac.new(self._signer(self.key_id, purpose).derive_key(), digestmod="sha256")
        return self._macs.setdefault(purpose, mac)

    def _signer(self, name: str, purpose: Purpose) -> Signer:
        return Signer(
            self._keys[name],
            salt=f"newsletter/{purpose}",
            sep=".",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )


_SAFE_IN_PATHS = bytes.maketrans(b"+/", b"-_")
_FORGED = "This link was not made here, or a part of it is missing. Open it again from the mail it came in."
_EXPIRED = "This link has expired. Ask for a new one on the first page."


def _hash_address(name: str, secret: str, address_key: str) -> str:
    derived = hmac.digest(secret.encode(), b"newsletter/address", "sha256")
    return f"{name}:{hmac.new(derived, address_key.encode(), 'sha256').hexdigest()}"


def _encode(raw: bytes) -> bytes:
    # As `base64.urlsafe_b64encode` does it, which takes twice as long for so few bytes.
    return binascii.b2a_base64(raw, newline=False).translate(_SAFE_IN_PATHS, b"=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
