"""Readers whom nobody has met: what publishing tries a step on."""

from __future__ import annotations

from datetime import date
from itertools import cycle, product
from typing import TYPE_CHECKING

from newsletter.domain.sequence import FALLBACK_COUNTRY
from newsletter.rendering.facts import LetterFacts, Links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.domain.sequence import Affirmation, RelatedPost, Revision, Step

_PLACES: tuple[tuple[int, int | None], ...] = ((1, 9), (9, 9), (1, 1), (40, None))
_DAY = date(2026, 9, 23)


def readers(revision: Revision, step: Step, *, base_url: str) -> Iterator[LetterFacts]:
    """Readers of every country, at the beginning and the end of a series and in one without, and discreet ones.

    Not every combination: a letter's text is tried on each value of each kind, which is what can break it, and an
    operator waits for this at every publication.
    """
    base = base_url.rstrip("/")
    links = Links(
        unsubscribe=f"{base}/unsubscribe/imagined",
        preferences=f"{base}/preferences/imagined",
        pause=f"{base}/preferences/imagined#pause",
        too_much=f"{base}/too-much",
    )
    countries = [country for country in revision.help_lines if country != FALLBACK_COUNTRY]
    cases = [
        *product((False, True), (None,), _PLACES),
        *((False, country, place) for country, place in zip(countries, cycle(_PLACES), strict=False)),
    ]
    for discreet, country, (number, total) in cases:
        yield LetterFacts(
            number=number,
            total=total,
            affirmation=_affirmation(revision, step),
            posts=_posts(revision, step, discreet=discreet),
            country=country,
            discreet=discreet,
            welcome_back=number > 1,
            local_date=_DAY,
            links=links,
        )


def _affirmation(revision: Revision, step: Step) -> Affirmation | None:
    if step.affirmation == "next":
        return max(revision.affirmations, key=lambda item: len(item.text), default=None)
    return revision.affirmation(step.affirmation) if step.affirmation else None


def _posts(revision: Revision, step: Step, *, discreet: bool) -> tuple[RelatedPost, ...]:
    related = step.related
    if discreet and step.related_discreet is not None:
        related = step.related_discreet
    if related == ("newest",):
        return revision.related_posts[:1]
    return tuple(post for post in map(revision.related_post, related) if post is not None)
