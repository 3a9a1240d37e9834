"""Which step comes next for a subscription, under every edit of its sequence.

The rules (numbers as in the guide):

1. The next step is the first in the live order that was, in this round, neither received nor passed by.
2. A step that is new in a revision and stands before the last step received passes the subscription by, unless
   the operator named it to be delivered late. Where the last step received is gone, its nearest surviving
   predecessor in the preceding revision stands for it. Moving a step passes nobody by.
3. Nothing is received twice in one round: steps are remembered by identity, which survives renaming.

Passing by is worked out for a subscription when it is next looked at, one revision after the other, and not for
everybody at publishing: what a subscription had received cannot change in between without looking at it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from newsletter.domain.sequence import Sequence as LetterSequence
from newsletter.domain.sequence import Step


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The order of one sequence in one revision.

    Attributes:
        revision: the number of the revision.
        steps: identities, in order.
        deliver_late: identities of new steps that are sent even to readers who are past them.
    """

    revision: int
    steps: tuple[str, ...]
    deliver_late: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a subscription stands in its sequence.

    Attributes:
        round: which pass through the sequence, counted from 1.
        anchor: the last step received in this round, whether it is still there or not; None before the first.
        seen_revision: the revision up to which `passed` is worked out.
        received: identities received in this round.
        passed: identities that passed it by in this round.
    """

    round: int = 1
    anchor: str | None = None
    seen_revision: int = 0
    received: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        """Worked out once: many readers stand in the same place, and each letter asks what is next there."""
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash((self.round, self.anchor, self.seen_revision, self.received, self.passed))
            self.__dict__["_hash"] = known
        return known


def next_step(sequence: LetterSequence, *, received: Collection[str], passed: Collection[str]) -> Step | None:
    """The first step in order that is neither received nor passed by; None at the end."""
    return next(
        (step for step in sequence.steps if step.identity not in received and step.identity not in passed),
        None,
    )


def steps_ahead(sequence: LetterSequence, *, received: Collection[str], passed: Collection[str]) -> int:
    """How many steps are still ahead, the next one included."""
    return len(sequence.identities.difference(received, passed))


def standing(anchor: str | None, outlines: Sequence[Outline]) -> str | None:
    """Behind which step of the last of `outlines` somebody stands who last received `anchor`.

    That is `anchor` itself where it is still there, or there again. Where it is gone it is its nearest predecessor
    in the preceding revision that survived; where that goes later, that one's; None where none survived.
    """
    newest = next((at for at in reversed(range(len(outlines))) if anchor in outlines[at].steps), None)
    if newest is None:
        return None
    place = anchor
    for before, now in pairwise(outlines[newest:]):
        place = _survivor(place, before=before.steps, now=now.steps)
    return place


def newly_passed(anchor: str | None, *, before: Outline, now: Outline) -> frozenset[str]:
    """What is new in `now` and stands before `anchor`, less what is delivered late."""
    if anchor is None or anchor not in now.steps:
        return frozenset()
    known = set(before.steps)
    ahead_of_anchor = now.steps[: now.steps.index(anchor)]
    return frozenset(step for step in ahead_of_anchor if step not in known) - now.deliver_late


def catch_up(place: Place, outlines: Sequence[Outline]) -> Place:
    """`place` brought up to the last of `outlines`.

    Args:
        place: where the subscription stood at `place.seen_revision`.
        outlines: all outlines of its sequence, in order of revision.
    """
    if not outlines or outlines[-1].revision <= place.seen_revision:
        return place
    known = [outline for outline in outlines if outline.revision <= place.seen_revision]
    later = outlines[len(known) :]
    passed = place.passed
    for outline in later:
        if known:
            anchor = standing(place.anchor, [*known, outline])
            passed |= newly_passed(anchor, before=known[-1], now=outline) - place.received
            passed -= outline.deliver_late
        known.append(outline)
    return replace(place, seen_revision=later[-1].revision, passed=passed)


@lru_cache(maxsize=4096)
def receive(place: Place, step: str) -> Place:
    """`place` after `step` was received."""
    return Place(
        round=place.round,
        anchor=step,
        seen_revision=place.seen_revision,
        received=place.received | {step},
        passed=place.passed,
    )


def begin_round(place: Place) -> Place:
    """`place` at the beginning of the next round: everything is ahead again."""
    return replace(place, round=place.round + 1, anchor=None, received=frozenset(), passed=frozenset())


def _survivor(step: str | None, *, before: Sequence[str], now: Collection[str]) -> str | None:
    """`step`, or where it is gone its nearest predecessor in `before` that is still there, or None."""
    if step is None or step in now:
        return step
    earlier = before[: before.index(step)]
    return next((one for one in reversed(earlier) if one in now), None)
