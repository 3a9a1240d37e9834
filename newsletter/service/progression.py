"""How a subscription moves: caught up with new revisions, on to its next step, into its next round, to its end.

Every function runs inside the caller's transaction, with the subscriber's row locked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from newsletter.domain import progress
from newsletter.domain.cadence import Due, local_date, next_due, resume_due
from newsletter.domain.progress import Place
from newsletter.domain.sequence import Finish, Step
from newsletter.domain.subscription import Action, State, after
from newsletter.records import changed
from newsletter.service.editions import Edition
from newsletter.store import events, subscriptions
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery
from newsletter.store.subscriptions import Subscriber, Subscription

Seen = Mapping[UUID, tuple[Subscription, Place]]
NOTHING_SEEN: Seen = MappingProxyType({})


def catch_up(
    connection: Connection, edition: Edition, record: Subscription, place: Place
) -> tuple[Subscription, Place]:
    """Bring a subscription up to the live revision: which new steps pass it by."""
    current = _catch_up(connection, edition, record, place)
    return changed(record, seen_revision=current.seen_revision), current


def _catch_up(connection: Connection, edition: Edition, record: Subscription, place: Place) -> Place:
    current = progress.catch_up(place, edition.outlines.get(record.sequence_key, ()))
    if current.passed != place.passed:
        subscriptions.save_passed(connection, record.id, before=place, now=current)
    return current


def move_on(
    connection: Connection,
    edition: Edition,
    reader: Subscriber,
    record: Subscription,
    place: Place,
    *,
    now: datetime,
) -> Subscription:
    """Set when the next step is due, or do what the sequence says about its end.

    Returns:
        The subscription as it shall be; the caller saves it. A successor is saved here.
    """
    if record.state is State.LEFT:
        return changed(record, next_due_at=None, due_rule=None)
    step = edition.upcoming(record.sequence_key, place)
    if step is not None:
        return _with_due(record, when_due(reader, record, step, now=now))
    return _finish(connection, edition, reader, record, place, now=now)


def reschedule(
    connection: Connection, edition: Edition, reader: Subscriber, record: Subscription, *, now: datetime
) -> Subscription:
    """Set anew when a subscription's next step is due, none being open, and save it."""
    place = subscriptions.places(connection, [record])[record.id]
    current, place = catch_up(connection, edition, record, place)
    moved = move_on(connection, edition, reader, current, place, now=now)
    subscriptions.save_subscription(connection, record, moved)
    return moved


def when_due(reader: Subscriber, record: Subscription, step: Step | None, *, now: datetime) -> Due | None:
    """When `step` is due for a reader; None while they are paused until they say so."""
    if record.state is State.PAUSED:
        if reader.paused_until is None:
            return None
        return resume_due(
            reader.slot,
            on=reader.paused_until,
            now=now,
            last_letter_at=record.last_letter_at,
            pace=reader.pace,
        )
    return next_due(
        reader.slot,
        now=now,
        last_letter_at=record.last_letter_at,
        after=None if step is None else step.after,
        pace=reader.pace,
    )


def receive(
    connection: Connection,
    edition: Edition,
    known: Mapping[UUID, tuple[Subscriber, Subscription]],
    letters: Collection[Delivery],
    *,
    now: datetime,
    seen: Seen = NOTHING_SEEN,
) -> None:
    """Move subscriptions on behind letters that were accepted, or that count as received.

    Args:
        known: by subscription, its reader and itself, read under the lock; one letter a reader, since the end of a
            sequence may begin another.
        seen: by subscription, what it was when its letter was composed, and its place then.
    """
    moving: list[tuple[Delivery, Subscriber, Subscription, Place | None]] = []
    for letter in letters:
        found = known.get(letter.subscription_id) if letter.subscription_id else None
        if found is not None:
            before = seen.get(found[1].id)
            # What has been received in a round, and what has passed by, changes together with the subscription's row.
            is_same = before is not None and (before[0] is found[1] or before[0] == found[1])
            moving.append((letter, *found, before[1] if before is not None and is_same else None))
    unknown = [record for _, _, record, place in moving if place is None]
    places = subscriptions.places(connection, unknown) if unknown else {}
    changes = []
    for letter, reader, record, remembered in moving:
        # First the edits, judged by what had been received before this letter; then the letter.
        place = _catch_up(connection, edition, record, remembered or places[record.id])
        last_step, anchor = record.last_step, record.anchor
        # The late verdict on a letter of an earlier round only sets the distance to the next one.
        if letter.round == record.round and letter.step is not None:
            place = progress.receive(place, letter.step)
            last_step = anchor = letter.step
        # No letter is accepted before its slot: a clock that says so is behind.
        accepted_at = max(now, letter.due_at)
        moved = changed(
            record, last_letter_at=accepted_at, next_due_at=None, seen_revision=place.seen_revision,
            last_step=last_step, anchor=anchor,
        )  # fmt: skip
        changes.append((record, move_on(connection, edition, reader, moved, place, now=now)))
    subscriptions.save_subscriptions(connection, changes)


def finish_retired(connection: Connection, record: Subscription, *, now: datetime) -> Subscription:
    """The end of a subscription whose sequence was taken back."""
    state = after(record.state, Action.FINISH)
    if state is None:
        return record
    events.tell(
        connection, "finished", subscriber_id=record.subscriber_id, subscription_id=record.id, now=now,
        sequence=record.sequence_key, reason="the sequence was retired",
    )  # fmt: skip
    return changed(record, state=state, next_due_at=None, due_rule=None)


def _finish(
    connection: Connection,
    edition: Edition,
    reader: Subscriber,
    record: Subscription,
    place: Place,
    *,
    now: datetime,
) -> Subscription:
    sequence = edition.revision.sequence(record.sequence_key)
    if sequence is None:
        return finish_retired(connection, record, now=now)
    match sequence.on_finish.finish:
        case Finish.REPEAT:
            grown = after(record.state, Action.GROW) or record.state
            begun = changed(record, state=grown, round=record.round + 1, anchor=None)
            _tell(connection, record, "round_begun", now=now, round=begun.round)
            first = edition.upcoming(begun.sequence_key, progress.begin_round(place))
            return _with_due(begun, when_due(reader, begun, first, now=now))
        case Finish.HOLD:
            held = record.state is State.PAUSED and reader.paused_until is None
            state = None if held else after(record.state, Action.RUN_OUT)
            if state is not None:
                _tell(connection, record, "waiting", now=now, reason="all letters received; the sequence may grow")
            return changed(record, state=state or record.state, next_due_at=None, due_rule=None)
        case Finish.STOP:
            pass
        case Finish.CONTINUE_WITH:
            successor = sequence.on_finish.continue_with
            if successor is not None:
                _continue_with(connection, edition, reader, record, successor, now=now)
    state = after(record.state, Action.FINISH)
    _tell(connection, record, "finished", now=now, reason="all letters received")
    return changed(record, state=state or record.state, next_due_at=None, due_rule=None)


def _continue_with(
    connection: Connection,
    edition: Edition,
    reader: Subscriber,
    record: Subscription,
    successor: str,
    *,
    now: datetime,
) -> None:
    """Subscribe to the successor in the same transaction, unless the reader has it or ever left it."""
    sequence = edition.revision.sequence(successor)
    had = {other.sequence_key: other for other in subscriptions.subscriptions_of(connection, reader.id)}.get(successor)
    if sequence is None or (had is not None and had.state is not State.PENDING):
        return
    state = State.PAUSED if record.state is State.PAUSED else State.ACTIVE
    # min_gap is kept across, so the predecessor's last letter comes along.
    if had is None:
        taken = subscriptions.add_subscription(
            connection,
            subscriber_id=reader.id,
            sequence_key=successor,
            state=state,
            seen_revision=edition.number,
            last_letter_at=record.last_letter_at,
            now=now,
        )
    else:
        taken = changed(had, state=state, confirmed_at=now, last_letter_at=record.last_letter_at)
        subscriptions.save_subscription(connection, had, taken)
    due = when_due(reader, taken, sequence.steps[0], now=now)
    subscriptions.save_subscription(connection, taken, _with_due(taken, due))
    _tell(connection, taken, "continued", now=now, reason=f"{record.sequence_key} was finished")


def grow(connection: Connection, reader: Subscriber, record: Subscription, *, now: datetime) -> Subscription:
    """There is something to send again: active, or paused where the reader's other letters are."""
    state = after(record.state, Action.GROW)
    if state is None:
        return record
    siblings = subscriptions.subscriptions_of(connection, reader.id)
    today = local_date(now, reader.slot.timezone)
    resting = reader.paused_until is not None and today < reader.paused_until
    if resting or any(sibling.state is State.PAUSED for sibling in siblings):
        state = after(state, Action.PAUSE) or state
    return changed(record, state=state)


def _with_due(record: Subscription, due: Due | None) -> Subscription:
    if due is None or record.state not in (State.ACTIVE, State.PAUSED):
        return changed(record, next_due_at=None, due_rule=None)
    return changed(record, next_due_at=due.at, due_rule=due.rule)


def _tell(connection: Connection, record: Subscription, kind: str, *, now: datetime, **detail: object) -> None:
    events.tell(
        connection, kind, subscriber_id=record.subscriber_id, subscription_id=record.id, now=now,
        sequence=record.sequence_key, **detail,
    )  # fmt: skip
