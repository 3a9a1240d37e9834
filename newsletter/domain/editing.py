"""What publishing changes: which step is which, and what differs between two revisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from newsletter.domain.progress import Outline
from newsletter.domain.sequence import Revision, Sequence, Step

StepNames = Mapping[tuple[str, str], str]
"""By sequence and step key: the identity that the key last stood for."""


class Change(StrEnum):
    """What happened to a step or a sequence."""

    NEW = "new"
    CHANGED = "changed"  # another text
    RENAMED = "renamed"  # another key, the same step
    MOVED = "moved"  # another place in the order
    RETIMED = "retimed"  # another `after`
    REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class StepChange:
    """What happened to one step: what a reader or an operator would call it, and all that changed."""

    sequence_key: str
    key: str
    identity: str
    changes: tuple[Change, ...]


def identify(content: Revision, *, live: Revision | None, names: StepNames) -> Revision:
    """`content` with every step's identity filled in.

    A key that the live revision has keeps its identity; `formerly` hands one over; a key that comes back takes up
    the one it had; anything else is new.
    """
    return replace(
        content, sequences=tuple(_identify_sequence(sequence, live, names) for sequence in content.sequences)
    )


def names_of(revision: Revision) -> dict[tuple[str, str], str]:
    """What the step keys of a revision stand for."""
    return {(sequence.key, step.key): step.identity for sequence in revision.sequences for step in sequence.steps}


def outlines_of(revision: Revision, *, number: int) -> dict[str, Outline]:
    """The order of every sequence, for `progress`."""
    return {
        sequence.key: Outline(
            revision=number,
            steps=tuple(step.identity for step in sequence.steps),
            deliver_late=frozenset(sequence.deliver_late),
        )
        for sequence in revision.sequences
    }


def without_orders(revision: Revision) -> Revision:
    """`revision` without what says how to publish it: two revisions of the same content are equal."""
    return replace(revision, sequences=tuple(replace(item, deliver_late=()) for item in revision.sequences))


def compare(before: Sequence | None, now: Sequence | None) -> list[StepChange]:
    """Every step that differs, in the order of `now`, the removed ones last."""
    old = {step.identity: step for step in before.steps} if before else {}
    new = {step.identity: step for step in now.steps} if now else {}
    kept_before = [identity for identity in old if identity in new]
    kept_now = [identity for identity in new if identity in old]
    moved = _moved(kept_before, kept_now)
    found = []
    for identity, step in new.items():
        changes = [Change.NEW] if identity not in old else _changes(old[identity], step)
        if identity in moved:
            changes.append(Change.MOVED)
        if changes:
            found.append(_step_change(now, step, changes))
    found += [_step_change(before, step, [Change.REMOVED]) for identity, step in old.items() if identity not in new]
    return found


def renamed_without_saying(before: Sequence, now: Sequence) -> list[tuple[Step, Step]]:
    """Removed and added steps with the same body: most likely a renaming, which needs `formerly`."""
    old = {step.identity: step for step in before.steps}
    new = {step.identity: step for step in now.steps}
    removed = {step.body.strip(): step for identity, step in old.items() if identity not in new}
    added = [step for identity, step in new.items() if identity not in old]
    return [(removed[step.body.strip()], step) for step in added if step.body.strip() in removed]


def _identify_sequence(sequence: Sequence, live: Revision | None, names: StepNames) -> Sequence:
    before = live.sequence(sequence.key) if live else None
    live_identities = {step.key: step.identity for step in before.steps} if before else {}
    known = {name: identity for (key, name), identity in names.items() if key == sequence.key}
    identified: dict[str, Step] = {}
    taken: set[str] = set()

    def take(step: Step, identity: str | None) -> None:
        if step.key not in identified and identity is not None and identity not in taken:
            taken.add(identity)
            identified[step.key] = replace(step, identity=identity)

    # In three turns over all steps, so that nobody is left without what they have by whoever stands before them.
    for step in sequence.steps:
        take(step, live_identities.get(step.key))
    for step in sequence.steps:
        if step.formerly is not None:
            take(step, live_identities.get(step.formerly) or known.get(step.formerly))
    for step in sequence.steps:
        take(step, known.get(step.key))
        take(step, _fresh(step.key, taken.union(known.values())))
    return replace(sequence, steps=tuple(identified[step.key] for step in sequence.steps))


def _fresh(key: str, taken: set[str]) -> str:
    if key not in taken:
        return key
    number = 2
    while f"{key}~{number}" in taken:
        number += 1
    return f"{key}~{number}"


def _changes(before: Step, now: Step) -> list[Change]:
    changes = []
    if before.key != now.key:
        changes.append(Change.RENAMED)
    if before.after != now.after:
        changes.append(Change.RETIMED)
    place = {"key", "identity", "number", "path", "body_line", "head_lines", "formerly", "after"}
    told = [name for name in Step.__dataclass_fields__ if name not in place]
    if any(getattr(before, name) != getattr(now, name) for name in told):
        changes.append(Change.CHANGED)
    return changes


def _moved(before: list[str], now: list[str]) -> set[str]:
    """The fewest steps whose moving explains the new order: all but a longest common subsequence."""
    lengths = [[0] * (len(now) + 1) for _ in range(len(before) + 1)]
    for row in range(len(before) - 1, -1, -1):
        for column in range(len(now) - 1, -1, -1):
            same = before[row] == now[column]
            longest = max(lengths[row + 1][column], lengths[row][column + 1])
            lengths[row][column] = lengths[row + 1][column + 1] + 1 if same else longest
    moved, row, column = set(now), 0, 0
    while row < len(before) and column < len(now):
        if before[row] == now[column]:
            moved.discard(now[column])
            row, column = row + 1, column + 1
        elif lengths[row + 1][column] >= lengths[row][column + 1]:
            row += 1
        else:
            column += 1
    return moved


def _step_change(sequence: Sequence | None, step: Step, changes: list[Change]) -> StepChange:
    return StepChange(
        sequence_key=sequence.key if sequence else "",
        key=step.key,
        identity=step.identity,
        changes=tuple(changes),
    )
