"""The links of one reader."""

from __future__ import annotations

from uuid import UUID

from newsletter.rendering.facts import Links
from newsletter.rendering.plates import folded, is_plain
from newsletter.store.subscriptions import Subscriber
from newsletter.tokens import Purpose, TokenSigner

LINK_IS_GONE = "This link has been used, or what it was for is gone. Ask for a new one on the first page."

_LONGEST_PLAIN_BASE = 200


def own_page_token(signer: TokenSigner, reader: Subscriber) -> str:
    """The token of a reader's preferences page; it works until the reader calls their links off."""
    return signer.sign(Purpose.PREFERENCES, reader.id, generation=reader.link_generation)


class LinkMaker:
    """Makes the links in a reader's letters, absolute. Leaving never expires.

    Attributes:
        are_plain: they read the same in a header, in HTML and in quoted-printable, so that `encoded` makes them.
    """

    def __init__(self, signer: TokenSigner, *, base_url: str) -> None:
        self._signer = signer
        self._base_url = base_url
        self._unsubscribe = f"{base_url}/unsubscribe/".encode()
        self._preferences = f"{base_url}/preferences/".encode()
        self._too_much = folded(f"{base_url}/too-much".encode())
        # A token is letters, digits, "-", "_" and one "." between them.
        self.are_plain = is_plain(base_url + "/") and len(base_url) <= _LONGEST_PLAIN_BASE

    def links(self, reader: Subscriber, subscription_id: UUID) -> Links:
        """The links of one reader's letter."""
        settings = own_page_token(self._signer, reader)
        return Links(
            unsubscribe=f"{self._base_url}/unsubscribe/{self._signer.sign(Purpose.UNSUBSCRIBE, subscription_id)}",
            preferences=f"{self._base_url}/preferences/{settings}",
            pause=f"{self._base_url}/preferences/{settings}#pause",
            too_much=f"{self._base_url}/too-much",
        )

    def encoded(self, reader: Subscriber, subscription_id: UUID) -> dict[str, bytes]:
        """The same as they fill a `Form`, where they are plain."""
        unsubscribe = self._unsubscribe + self._signer.sign(Purpose.UNSUBSCRIBE, subscription_id).encode()
        preferences = self._preferences + own_page_token(self._signer, reader).encode()
        return {
            "unsubscribe_url": unsubscribe,
            "unsubscribe": folded(unsubscribe),
            "preferences": folded(preferences),
            "pause": folded(preferences + b"#pause"),
            "too_much": self._too_much,
        }
