"""What the command line and the pages show. Reads only; writing is the services' business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, func, select

from newsletter.domain import delivery as deliveries
from newsletter.domain import subscription as subscriptions
from newsletter.domain.subscription import SubscriptionId
from newsletter.store import destinations
from newsletter.store.deliveries import Delivery, deliveries_of, letter_totals, open_letters, stopped
from newsletter.store.destinations import warm_up_progress
from newsletter.store.events import Event, story
from newsletter.store.subscriptions import (
    Subscriber,
    Subscription,
    find_subscriber,
    get_subscribers,
    list_subscribers,
    subscriptions_of,
    subscriptions_of_many,
)
from newsletter.store.switches import SENDING, switch_is_on
from newsletter.store.tables import delivery, subscription, worker
from newsletter.store.types import DatabaseNow

__all__ = [
    "Delivery",
    "Dossier",
    "Event",
    "KeptBack",
    "SequenceCount",
    "Status",
    "Subscriber",
    "Subscription",
    "dossier",
    "find_all",
    "list_stopped",
    "open_letters",
    "sequence_counts",
    "status",
    "warm_up_progress",
]

_MOST_KEPT_BACK = 20


@dataclass(frozen=True, kw_only=True)
class Status:
    """How things stand.

    Attributes:
        lag_seconds: how far the email that waits longest is behind, in business time; 0 where none waits.
        next_due_at: when the next letter is due, or an email that waits is tried.
        workers: those with a living lease.
        kept_back: destinations that are slowed, or whose circuit is open, the worst first.
    """

    sending: bool
    deliveries: dict[str, int]
    subscriptions: dict[str, int]
    due: int
    lag_seconds: float
    next_due_at: datetime | None
    possibly_doubled: int
    workers: int
    kept_back: list[KeptBack]


@dataclass(frozen=True, kw_only=True)
class KeptBack:
    """A destination that gets fewer letters than are due, or none; its instants are real time.

    Attributes:
        name: a domain, or "relay": the mail server itself.
        refuses_since: its circuit is open since; None where it is only slowed.
        until: when something is tried again; None where something may leave.
        reply: what it said last, without addresses.
    """

    name: str
    refuses_since: datetime | None
    until: datetime | None
    reply: str


@dataclass(frozen=True, kw_only=True)
class SequenceCount:
    """How many subscriptions of a sequence are in each state, and behind which step the open ones stand."""

    states: dict[str, int]
    behind: dict[str | None, int]


@dataclass(frozen=True, kw_only=True)
class Dossier:
    """Everything about one subscriber: the newest deliveries and events, but all letters received are counted."""

    subscriber: Subscriber
    subscriptions: list[Subscription]
    received: dict[SubscriptionId, int]
    waiting: dict[UUID, Delivery]
    deliveries: list[Delivery]
    events: list[Event]


def status(connection: Connection, *, now: datetime) -> Status:
    """Count everything, by state."""
    by_delivery = _counts(connection, select(delivery.c.state, func.count()).group_by(delivery.c.state))
    by_subscription = _counts(connection, select(subscription.c.state, func.count()).group_by(subscription.c.state))
    waiting = delivery.c.state.in_([deliveries.State.PLANNED, deliveries.State.UNCERTAIN])
    due = and_(waiting, delivery.c.next_try_at <= now)
    later = select(func.min(delivery.c.next_try_at)).where(waiting, delivery.c.next_try_at > now)
    coming = (connection.scalar(select(func.min(subscription.c.next_due_at))), connection.scalar(later))
    oldest = connection.scalar(select(func.min(delivery.c.next_try_at)).where(due))
    living = select(func.count()).select_from(worker).where(worker.c.lease_until > DatabaseNow())
    doubled = select(func.count()).select_from(delivery).where(delivery.c.doubts > 0)
    return Status(
        sending=switch_is_on(connection, SENDING),
        deliveries={state.value: by_delivery.get(state.value, 0) for state in deliveries.State},
        subscriptions={state.value: by_subscription.get(state.value, 0) for state in subscriptions.State},
        due=connection.scalar(select(func.count()).select_from(delivery).where(due)) or 0,
        lag_seconds=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
        next_due_at=min((at for at in coming if at is not None), default=None),
        possibly_doubled=connection.scalar(doubled) or 0,
        workers=connection.scalar(living) or 0,
        kept_back=_kept_back(connection),
    )


def _kept_back(connection: Connection) -> list[KeptBack]:
    at = destinations.database_now(connection)
    return [
        KeptBack(name=each.name, refuses_since=each.opened_at, until=each.kept_until(now=at), reply=each.reply)
        for each in destinations.list_kept_back(connection, limit=_MOST_KEPT_BACK)
    ]


def sequence_counts(connection: Connection) -> dict[str, SequenceCount]:
    """By sequence: how many people, in which state, behind which step."""
    found: dict[str, SequenceCount] = {}
    columns = [subscription.c.sequence_key, subscription.c.state, subscription.c.last_step]
    for row in connection.execute(select(*columns, func.count().label("people")).group_by(*columns)):
        counts = found.setdefault(row.sequence_key, SequenceCount(states={}, behind={}))
        counts.states[row.state] = counts.states.get(row.state, 0) + row.people
        if row.state in ("active", "paused", "waiting"):
            counts.behind[row.last_step] = counts.behind.get(row.last_step, 0) + row.people
    return found


def dossier(connection: Connection, *, address_key: str, limit: int = 200) -> Dossier | None:
    """Everything about the subscriber of an address, or None."""
    reader = find_subscriber(connection, address_key=address_key)
    if reader is None:
        return None
    records = subscriptions_of(connection, reader.id)
    return Dossier(
        subscriber=reader,
        subscriptions=records,
        received={record.id: letter_totals(connection, record) for record in records},
        waiting=open_letters(connection, [reader.id]),
        deliveries=deliveries_of(connection, reader.id, limit=limit),
        events=story(connection, reader.id, limit=limit),
    )


def find_all(
    connection: Connection, *, state: subscriptions.State | None, after: str, limit: int
) -> list[tuple[Subscriber, list[Subscription]]]:
    """A page of subscribers with their subscriptions, in order of address, from behind `after`."""
    readers = list_subscribers(connection, after=after, limit=limit, state=state)
    records = subscriptions_of_many(connection, [reader.id for reader in readers])
    return [(reader, records.get(reader.id, [])) for reader in readers]


def list_stopped(connection: Connection, *, limit: int) -> list[tuple[Delivery, str]]:
    """Held and uncertain emails, each with its subscriber's address."""
    items = [
        item
        for state in (deliveries.State.HELD, deliveries.State.UNCERTAIN)
        for item in stopped(connection, state=state, limit=limit)
    ]
    readers = get_subscribers(connection, {item.subscriber_id for item in items})
    return [(item, readers[item.subscriber_id].address) for item in items if item.subscriber_id in readers]


def _counts(connection: Connection, statement: Any) -> dict[str, int]:  # noqa: ANN401  (a select of two columns)
    return {row[0]: row[1] for row in connection.execute(statement)}
