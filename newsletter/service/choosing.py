"""What a letter shows its reader: an affirmation, related posts, and which letter of how many it is."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date

from newsletter.domain import progress
from newsletter.domain.sequence import Affirmation, RelatedPost, Revision, Sequence, Step
from newsletter.service.editions import Edition

NEXT = "next"
NEWEST = "newest"
NAMED_ONLY = "named-only"
"""A post with this tag is shown only where a letter names it."""


def choose_affirmation(revision: Revision, step: Step, *, had: Collection[str]) -> Affirmation | None:
    """The affirmation of a letter: the named one, or the next that this reader has not had.

    Args:
        had: what the reader has had, the one had longest ago first.
    """
    if step.affirmation != NEXT:
        return revision.affirmation(step.affirmation) if step.affirmation else None
    fresh = next((item for item in revision.affirmations if item.key not in had), None)
    if fresh is not None:
        return fresh
    return next((item for key in had if (item := revision.affirmation(key)) is not None), None)


def choose_posts(revision: Revision, step: Step, *, shown: Collection[str], discreet: bool) -> tuple[RelatedPost, ...]:
    """The related posts of a letter: the named ones, or the newest that this reader has not been shown.

    Args:
        shown: what the reader has been shown, the one shown longest ago first.
    """
    named = step.related_discreet if discreet and step.related_discreet is not None else step.related
    if named == (NEWEST,):
        fit = [post for post in revision.related_posts if NAMED_ONLY not in post.tags]
        fit = [post for post in fit if not (discreet and post.hide_when_discreet)]
        fresh = sorted((post for post in fit if post.key not in shown), key=lambda post: post.published or date.min)
        if fresh:
            return (fresh[-1],)
        again = [post for key in shown for post in fit if post.key == key]
        return tuple(again[:1])
    posts = [post for key in named if (post := revision.related_post(key)) is not None]
    return tuple(post for post in posts if not (discreet and post.hide_when_discreet))


def chooses_by_reader(step: Step | None) -> bool:
    """Whether what a letter shows depends on what its reader has been shown."""
    if step is None:
        return False
    return step.affirmation == NEXT or (NEWEST,) in (step.related, step.related_discreet)


def position(
    edition: Edition, sequence: Sequence, place: progress.Place, *, step: str | None
) -> tuple[int, int | None]:
    """The n and m of "Letter n of m"; no m for a sequence without an end."""
    place = progress.catch_up(place, edition.outlines.get(sequence.key, ()))
    received = place.received - {step}
    number = len(received) + 1
    if sequence.endless:
        return number, None
    ahead = progress.steps_ahead(sequence, received=received, passed=place.passed - {step})
    return number, len(received) + ahead
