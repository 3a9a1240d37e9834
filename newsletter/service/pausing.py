"""Holding a reader's letters, and letting them come again. The reader's row is locked by the caller."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

from newsletter.domain.cadence import local_date
from newsletter.domain.subscription import Action, State, after
from newsletter.errors import InvalidChoice, NotAllowed
from newsletter.service import progression
from newsletter.service.editions import Edition
from newsletter.store import deliveries, events, subscriptions
from newsletter.store.database import Connection
from newsletter.store.subscriptions import Subscriber

LONGEST_PAUSE = timedelta(days=366)


def pause_reader(connection: Connection, reader: Subscriber, *, until: date | None, now: datetime) -> None:
    """Hold all of a locked reader's sequences until a local date, or with None until they are resumed.

    Raises:
        InvalidChoice: a date that is past or more than a year away.
        NotAllowed: there is nothing to hold.
    """
    today = local_date(now, reader.slot.timezone)
    if until is not None and not today < until <= today + LONGEST_PAUSE:
        raise InvalidChoice("Choose a day after today, within a year.", field="until")
    records = subscriptions.subscriptions_of(connection, reader.id)
    if not any(record.state in (State.ACTIVE, State.PAUSED) for record in records):
        raise NotAllowed("No letters are coming, so there is nothing to pause.")
    deliveries.withdraw(connection, subscriber_id=reader.id, reason="paused", now=now)
    subscriptions.set_paused_until(connection, reader.id, until)
    reader = replace(reader, paused_until=until)
    for record in records:
        state = after(record.state, Action.PAUSE)
        if state is not None:
            held = replace(record, state=state, next_due_at=None, due_rule=None)
            due = progression.when_due(reader, held, None, now=now)
            if due is not None:
                held = replace(held, next_due_at=due.at, due_rule="paused")
            subscriptions.save_subscription(connection, record, held)
    events.tell(
        connection,
        "paused",
        subscriber_id=reader.id,
        now=now,
        until=None if until is None else until.isoformat(),
    )


def resume_reader(connection: Connection, edition: Edition | None, reader: Subscriber, *, now: datetime) -> bool:
    """End a locked reader's pause; whether there was one."""
    records = subscriptions.subscriptions_of(connection, reader.id)
    paused = [record for record in records if record.state is State.PAUSED]
    subscriptions.set_paused_until(connection, reader.id, None)
    reader = replace(reader, paused_until=None)
    for record in paused:
        active = replace(record, state=State.ACTIVE, resumed_at=now, next_due_at=None)
        subscriptions.save_subscription(connection, record, active)
        if edition is not None:
            progression.reschedule(connection, edition, reader, active, now=now)
    if paused:
        events.tell(connection, "resumed", subscriber_id=reader.id, now=now, reason="the reader's wish")
    return bool(paused)
