"""The tokens of a reader's own links."""

from __future__ import annotations

from newsletter.store.subscriptions import Subscriber
from newsletter.tokens import Purpose, TokenSigner

LINK_IS_GONE = "This link has been used, or what it was for is gone. Ask for a new one on the first page."


def own_page_token(signer: TokenSigner, reader: Subscriber) -> str:
    """The token of a reader's preferences page; it works until the reader calls their links off."""
    return signer.sign(Purpose.PREFERENCES, reader.id, generation=reader.link_generation)
