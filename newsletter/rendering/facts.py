"""What a letter is told about the site and one reader, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import date

    from newsletter.domain.sequence import Affirmation, RelatedPost


@dataclass(frozen=True, kw_only=True)
class Site:
    """The site in whose name the letters go out.

    Attributes:
        name: as printed in letters.
        site_url: the publication's own site, the base of related posts' paths.
        base_url: where this program serves its pages.
        from_name: the sender's name where a sequence has no author.
        from_address: the sender's address, ASCII.
        reply_to: where replies go, or None for the sender's address.
        postal_address: one or several lines.
        replies_read: whether a person reads replies.
        leave_url: where the pages' "Leave this page now" leads.
    """

    name: str
    site_url: str
    base_url: str
    from_name: str
    from_address: str
    reply_to: str | None
    postal_address: str
    replies_read: bool
    leave_url: str


class Links(NamedTuple):
    """One reader's own links, absolute."""

    unsubscribe: str
    preferences: str
    pause: str
    too_much: str


class LetterFacts(NamedTuple):
    """All that a letter knows about its reader.

    Attributes:
        number: the letters received in this round plus one.
        total: `number` plus the letters still ahead; None for a sequence without an end.
        posts: the related posts chosen for this reader.
        country: ISO code chosen by the reader, or None.
        welcome_back: this is the first letter after a pause.
        local_date: the reader's date on which the letter is due.
    """

    number: int
    total: int | None
    affirmation: Affirmation | None
    posts: tuple[RelatedPost, ...]
    country: str | None
    discreet: bool
    welcome_back: bool
    local_date: date
    links: Links


@dataclass(frozen=True, kw_only=True)
class NoticeFacts:
    """What an email that is no letter is told. It never holds anything that a visitor typed.

    Attributes:
        action_url: the confirm page, or the preferences page of somebody who is on the list already.
        expires_text: until when the link works, in words ("until 19 March, 08:00"), or None where it stays.
    """

    action_url: str
    discreet: bool = False
    expires_text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A letter as its reader will see it.

    Attributes:
        reply_to: where a reply goes, or None for the sender's address.
    """

    subject: str
    html: str
    text: str
    from_name: str
    reply_to: str | None


class Encoded(NamedTuple):
    """The same letter with its two parts in quoted-printable, no line of which begins with a dot.

    `message.compose` makes it travel.
    """

    subject: str
    html: bytes
    text: bytes
    from_name: str
    reply_to: str | None

    def __repr__(self) -> str:
        """Without the letter, which tells who reads it."""
        return f"Encoded(subject={self.subject!r})"
