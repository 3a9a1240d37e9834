"""From "due" to a row in the ledger: one delivery for each subscription whose instant has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from newsletter.domain.cadence import first_slot, first_slot_in_later_week, is_late, local_week, waking_from
from newsletter.domain.progress import Place
from newsletter.domain.sequence import Finish, Step
from newsletter.domain.subscription import Action, State, SubscriberId, after
from newsletter.service import progression
from newsletter.service.correcting import ClockWatch
from newsletter.service.editions import Edition, Editions
from newsletter.store import deliveries, events, subscriptions
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Letter
from newsletter.store.subscriptions import Subscriber, Subscription

_BATCH = 200


class Planning:
    """Plans what is due.

    Args:
        skip_late: a letter more than two hours behind its slot is not sent; that week passes, the step is kept.
    """

    def __init__(self, *, database: Database, editions: Editions, skip_late: bool) -> None:
        self._database = database
        self._editions = editions
        self._skip_late = skip_late
        self._watch = ClockWatch(database=database, editions=editions)

    def plan_due(
        self,
        *,
        now: datetime,
        stop: Callable[[], bool] = lambda: False,
        announce: Callable[[Connection], object] = lambda _: None,
    ) -> int:
        """Plan every letter that is due.

        Doing it twice, or in two processes at once, changes nothing: the subscriber's row is locked, the
        delivery's key is unique, and the due instant moves only where it is still what was read.

        Args:
            stop: asked between batches; the rest is planned another time.
            announce: called in each transaction that has planned something.

        Returns:
            How many letters were planned.
        """
        planned = 0
        self._watch.look(now=now, stop=stop)
        while not stop():
            began = time.monotonic()
            with self._database.write() as connection:
                edition = self._editions.live(connection)
                if edition is None:
                    return planned
                readers = subscriptions.due_subscribers(connection, now=now, limit=_BATCH)
                if not readers:
                    return planned
                batch = _Batch(connection, edition, readers, skip_late=self._skip_late, now=now).plan()
                if batch:
                    announce(connection)
                planned += batch
            if self._database.is_sqlite:
                # One writer and no queue for it: half of the time is left to those who send. Where a million were
                # due, batch upon batch, nothing could leave before the last of them was planned.
                time.sleep(time.monotonic() - began)
        return planned


class _Batch:
    """The due subscriptions of some locked subscribers, in one transaction."""

    def __init__(
        self, connection: Connection, edition: Edition, readers: list[SubscriberId], *, skip_late: bool,
        now: datetime,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._edition = edition
        self._skip_late = skip_late
        self._now = now
        self._readers = subscriptions.get_subscribers(connection, readers)
        self._held = subscriptions.subscriptions_of_many(connection, readers)
        self._open = set(deliveries.open_letters(connection, readers))
        due = [record for records in self._held.values() for record in records if self._is_due(record)]
        self._places = subscriptions.places(connection, due)
        self._changes: list[tuple[Subscription, Subscription]] = []
        self._letters: list[Letter] = []

    def plan(self) -> int:
        """Plan for each reader in turn, then write it all down; how many letters."""
        for identifier in sorted(self._readers):
            self._plan_reader(self._readers[identifier])
        moved = subscriptions.save_subscriptions(self._connection, self._changes)
        # A subscription that somebody else has moved on in between has no letter to be planned.
        letters = [letter for letter in self._letters if letter.subscription_id in moved]
        return deliveries.plan_letters(self._connection, letters, now=self._now)

    def _is_due(self, record: Subscription) -> bool:
        return record.next_due_at is not None and record.next_due_at <= self._now

    def _plan_reader(self, reader: Subscriber) -> None:
        records = self._held[reader.id]
        if any(record.state is State.PAUSED and self._is_due(record) for record in records):
            records = [self._resume(reader, record) for record in records]
            subscriptions.set_paused_until(self._connection, reader.id, None)
            reader = replace(reader, paused_until=None)
        due = sorted(filter(self._is_due, records), key=self._urgency)
        missing = [record for record in due if record.id not in self._places]
        if missing:
            self._places |= subscriptions.places(self._connection, missing)
        for record in due:
            self._plan_one(reader, record, records, self._places)

    def _urgency(self, record: Subscription) -> tuple[bool, bool, datetime]:
        """Finite series first, then the one longest unserved."""
        sequence = self._edition.revision.sequence(record.sequence_key)
        endless = sequence is not None and sequence.on_finish.finish in (Finish.REPEAT, Finish.HOLD)
        return endless, record.last_letter_at is not None, record.last_letter_at or record.created_at

    def _resume(self, reader: Subscriber, record: Subscription) -> Subscription:
        state = after(record.state, Action.RESUME)
        if state is None:
            return record
        resumed = replace(record, state=state, resumed_at=self._now)
        self._tell(record, "resumed", reason="the pause was over", until=str(reader.paused_until))
        subscriptions.save_subscription(self._connection, record, resumed)
        if resumed.next_due_at is None and record.id not in self._open:
            # It had run out during the pause, or was held without a date.
            awake = replace(reader, paused_until=None)
            return progression.reschedule(self._connection, self._edition, awake, resumed, now=self._now)
        return resumed

    def _plan_one(
        self,
        reader: Subscriber,
        record: Subscription,
        siblings: list[Subscription],
        places: Mapping[UUID, Place],
    ) -> None:
        if record.id in self._open or record.next_due_at is None:
            self._changes.append((record, replace(record, next_due_at=None)))
            return
        current, place = progression.catch_up(self._connection, self._edition, record, places[record.id])
        step = self._edition.upcoming(current.sequence_key, place)
        if step is None:
            current = progression.move_on(self._connection, self._edition, reader, current, place, now=self._now)
        elif self._skip_late and is_late(record.next_due_at, now=self._now):
            current = self._move(current, first_slot(reader.slot, not_before=self._now), "skipped", "late")
        elif step.after is None and self._week_is_taken(reader, record, siblings):
            week = local_week(self._now, reader.slot.timezone)
            later = first_slot_in_later_week(reader.slot, week=week, not_before=self._now)
            current = self._move(current, later, "moved", "cap")
        else:
            current = self._plan_letter(reader, record, current, step)
        self._changes.append((record, current))

    def _plan_letter(self, reader: Subscriber, record: Subscription, current: Subscription, step: Step) -> Subscription:
        due_at = record.next_due_at or self._now
        next_try_at = due_at
        if is_late(due_at, now=self._now):
            next_try_at = waking_from(self._now, reader.slot.timezone)
            self._tell(record, "late", step=step.key, due_at=due_at.isoformat(), leaves_from=next_try_at.isoformat())
        self._letters.append(
            Letter(
                subscriber_id=reader.id,
                subscription_id=record.id,
                sequence_key=record.sequence_key,
                round=current.round,
                step=step.identity,
                due_at=due_at,
                next_try_at=next_try_at,
            )
        )
        self._open.add(record.id)
        return replace(current, next_due_at=None)

    def _week_is_taken(self, reader: Subscriber, record: Subscription, siblings: list[Subscription]) -> bool:
        """Whether another sequence has this reader's letter of the local week."""
        zone = reader.slot.timezone
        week = local_week(self._now, zone)
        return any(
            other.id in self._open
            or (other.last_letter_at is not None and local_week(other.last_letter_at, zone) == week)
            for other in siblings
            # What a successor brings along is its predecessor's letter, not one of its own.
            if other.id != record.id
        )

    def _move(self, record: Subscription, to: datetime, kind: str, reason: str) -> Subscription:
        was = record.next_due_at
        self._tell(record, kind, reason=reason, was=was.isoformat() if was else None, to=to.isoformat())
        return replace(record, next_due_at=to, due_rule=reason)

    def _tell(self, record: Subscription, kind: str, **detail: object) -> None:
        events.tell(
            self._connection, kind, subscriber_id=record.subscriber_id, subscription_id=record.id, now=self._now,
            sequence=record.sequence_key, **detail,
        )  # fmt: skip
