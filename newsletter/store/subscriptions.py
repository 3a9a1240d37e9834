"""Subscribers and their subscriptions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import lru_cache
from operator import attrgetter
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from newsletter.domain.cadence import Slot
from newsletter.domain.delivery import Kind
from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.progress import Place
from newsletter.domain.subscription import Action, State, SubscriberId, SubscriptionId, after
from newsletter.records import record_maker
from newsletter.store.prepared import Prepared, PreparedUpdate, among
from newsletter.store.tables import (
    delivery,
    passed_step,
    subscriber,
    subscription,
)
from newsletter.store.types import ordered_id

_GOING_ON = ("last_step", "anchor", "seen_revision", "next_due_at", "due_rule", "last_letter_at")
"""What of a subscription changes with each letter."""

_TURNING = ("state", "round", "resumed_at", "confirmed_at")
"""What changes seldom. A column that is set costs its indexes, whatever it is set to."""


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """One person, one address. `paused_until` is a local date of theirs."""

    id: SubscriberId
    address: str
    address_key: str
    slot: Slot
    pace: int
    country: str | None
    discreet: bool
    paused_until: date | None
    link_generation: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A subscriber's place in one sequence. Instants are UTC; steps are identities."""

    id: SubscriptionId
    subscriber_id: SubscriberId
    sequence_key: str
    state: State
    round: int
    last_step: str | None
    anchor: str | None
    seen_revision: int
    next_due_at: datetime | None
    due_rule: str | None
    last_letter_at: datetime | None
    resumed_at: datetime | None
    created_at: datetime
    confirmed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The affirmations and posts that a reader has been shown, the one shown longest ago first."""

    affirmations: dict[str, None]
    posts: dict[str, None]


def add_subscriber(
    connection: Connection,
    *,
    address: str,
    address_key: str,
    slot: Slot,
    country: str | None,
    discreet: bool,
    now: datetime,
) -> Subscriber:
    """A new subscriber; the caller has made sure that the address is not known."""
    record = Subscriber(
        id=SubscriberId(uuid4()),
        address=address,
        address_key=address_key,
        slot=slot,
        pace=1,
        country=country,
        discreet=discreet,
        paused_until=None,
        link_generation=1,
        created_at=now,
    )
    connection.execute(
        insert(subscriber).values(
            id=record.id,
            address=address,
            address_key=address_key,
            **_slot_values(slot),
            country=country,
            discreet=discreet,
            created_at=now,
        )
    )
    return record


def find_subscriber(connection: Connection, *, address_key: str, lock: bool = False) -> Subscriber | None:
    """The subscriber of that address; `lock` keeps the row until the transaction ends."""
    return _one_subscriber(connection, subscriber.c.address_key == address_key, lock=lock)


def get_subscriber(connection: Connection, identifier: UUID, *, lock: bool = False) -> Subscriber | None:
    """The subscriber of that id; `lock` keeps the row until the transaction ends."""
    return _one_subscriber(connection, subscriber.c.id == identifier, lock=lock)


def get_subscribers(connection: Connection, identifiers: Collection[UUID]) -> dict[UUID, Subscriber]:
    """The subscribers of those ids."""
    return {record.id: record for record in _SUBSCRIBERS.fetch(connection, {"ids": identifiers})}


def lock_subscribers(connection: Connection, identifiers: Collection[UUID]) -> dict[UUID, Subscriber]:
    """The subscribers of those ids, their rows kept until the transaction ends; locked in one order everywhere."""
    return {record.id: record for record in _LOCKED_SUBSCRIBERS.fetch(connection, {"ids": identifiers})}


def with_readers(
    connection: Connection, identifiers: Collection[UUID], *, lock: bool = False
) -> dict[UUID, tuple[Subscriber, Subscription]]:
    """The subscriptions of those ids, each with its subscriber.

    Args:
        lock: keep both rows until the transaction ends; the subscribers' are locked in one order everywhere.
    """
    statement = _LOCKED_TOGETHER if lock else _TOGETHER
    return {pair[1].id: pair for pair in statement.fetch(connection, {"ids": identifiers})}


def list_subscribers(
    connection: Connection, *, after: str = "", limit: int, state: State | None = None
) -> list[Subscriber]:
    """A page of subscribers in order of their address key, from behind `after`."""
    statement = select(subscriber).where(subscriber.c.address_key > after)
    if state is not None:
        in_state = exists().where(subscription.c.subscriber_id == subscriber.c.id, subscription.c.state == state)
        statement = statement.where(in_state)
    rows = connection.execute(statement.order_by(subscriber.c.address_key).limit(limit))
    return [_to_subscriber(row) for row in rows]


def set_reader(
    connection: Connection, identifier: SubscriberId, *, slot: Slot, country: str | None, discreet: bool
) -> None:
    """Another slot, country or mode."""
    connection.execute(
        update(subscriber)
        .where(subscriber.c.id == identifier)
        .values(**_slot_values(slot), country=country, discreet=discreet)
    )


def set_paused_until(connection: Connection, identifier: SubscriberId, until: date | None) -> None:
    """The local date on which letters come again; None: not paused, or until the reader says so."""
    connection.execute(update(subscriber).where(subscriber.c.id == identifier).values(paused_until=until))


def add_subscription(
    connection: Connection,
    *,
    subscriber_id: SubscriberId,
    sequence_key: str,
    state: State,
    seen_revision: int,
    now: datetime,
    next_due_at: datetime | None = None,
    due_rule: str | None = None,
    last_letter_at: datetime | None = None,
) -> Subscription:
    """A new subscription; the caller has made sure that the subscriber has none to this sequence."""
    record = Subscription(
        id=SubscriptionId(ordered_id()),
        subscriber_id=subscriber_id,
        sequence_key=sequence_key,
        state=state,
        round=1,
        last_step=None,
        anchor=None,
        seen_revision=seen_revision,
        next_due_at=next_due_at,
        due_rule=due_rule,
        last_letter_at=last_letter_at,
        resumed_at=None,
        created_at=now,
        confirmed_at=None if state is State.PENDING else now,
    )
    values = {column.name: getattr(record, column.name) for column in subscription.columns}
    connection.execute(insert(subscription).values(values))
    return record


def get_subscription(connection: Connection, identifier: UUID) -> Subscription | None:
    """The subscription of that id."""
    row = connection.execute(select(subscription).where(subscription.c.id == identifier)).one_or_none()
    return None if row is None else _to_subscription(row)


def get_subscriptions(connection: Connection, identifiers: Collection[UUID]) -> dict[UUID, Subscription]:
    """The subscriptions of those ids."""
    return {record.id: record for record in _SUBSCRIPTIONS.fetch(connection, {"ids": identifiers})}


def subscriptions_of(connection: Connection, subscriber_id: UUID) -> list[Subscription]:
    """All subscriptions of one subscriber, the oldest first."""
    return subscriptions_of_many(connection, [subscriber_id]).get(subscriber_id, [])


def subscriptions_of_many(connection: Connection, subscriber_ids: Collection[UUID]) -> dict[UUID, list[Subscription]]:
    """All subscriptions of several subscribers, each one's oldest first."""
    found: dict[UUID, list[Subscription]] = {}
    rows = connection.execute(
        select(subscription)
        .where(subscription.c.subscriber_id.in_(subscriber_ids))
        .order_by(subscription.c.created_at, subscription.c.id)
    )
    for row in rows:
        found.setdefault(row.subscriber_id, []).append(_to_subscription(row))
    return found


def due_subscribers(connection: Connection, *, now: datetime, limit: int) -> list[SubscriberId]:
    """Lock subscribers for whom a subscription is due; those whom another process has locked are left to it."""
    statement = (
        select(subscriber.c.id)
        .join(subscription, subscription.c.subscriber_id == subscriber.c.id)
        .where(subscription.c.next_due_at <= now)
        .order_by(subscription.c.next_due_at, subscription.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=subscriber)
    )
    return list(dict.fromkeys(connection.scalars(statement)))


def earliest_due(connection: Connection) -> datetime | None:
    """The next due instant of all subscriptions; None while nothing is due to anybody."""
    earliest: datetime | None = connection.scalar(select(func.min(subscription.c.next_due_at)))
    return earliest


def followers(
    connection: Connection, sequence_keys: Collection[str], *, after: UUID | None, limit: int
) -> list[Subscription]:
    """A page of the open subscriptions to some sequences, in order of id."""
    statement = select(subscription).where(
        subscription.c.sequence_key.in_(sequence_keys),
        subscription.c.state.in_([State.ACTIVE, State.PAUSED, State.WAITING]),
    )
    if after is not None:
        statement = statement.where(subscription.c.id > after)
    rows = connection.execute(statement.order_by(subscription.c.id).limit(limit))
    return [_to_subscription(row) for row in rows]


def save_subscription(connection: Connection, before: Subscription, record: Subscription) -> bool:
    """Write what changed between `before` and `record`, if nobody else moved the subscription in between.

    Returns:
        Whether it was written; False where state or due instant are no longer what `before` says.
    """
    changed = {
        column.name: getattr(record, column.name)
        for column in subscription.columns
        if getattr(record, column.name) != getattr(before, column.name)
    }
    if not changed:
        return True
    unmoved = and_(
        subscription.c.id == before.id,
        subscription.c.state == before.state,
        subscription.c.next_due_at.is_not_distinct_from(before.next_due_at),
    )
    return connection.execute(update(subscription).where(unmoved).values(changed)).rowcount == 1


def save_subscriptions(connection: Connection, changes: Sequence[tuple[Subscription, Subscription]]) -> set[UUID]:
    """`save_subscription` for many, each (before, record), in one statement.

    Returns:
        The ids of those that were written.
    """
    going_on: list[tuple[object, ...]] = []
    turning: list[tuple[object, ...]] = []
    for before, record in changes:
        row = (before.id, before.state.value, before.next_due_at, *_going_on(record))
        if _turning(before) == _turning(record):
            going_on.append(row)
        else:
            turning.append((*row, record.state.value, *_turning(record)[1:]))
    return _GO_ON.run(connection, going_on) | _TURN.run(connection, turning)


def leave(connection: Connection, record: Subscription) -> bool:
    """End a subscription where its state allows it; whether it did."""
    state = after(record.state, Action.LEAVE)
    if state is None:
        return False
    return save_subscription(connection, record, replace(record, state=state, next_due_at=None, due_rule=None))


def places(connection: Connection, subscriptions: Sequence[Subscription]) -> dict[UUID, Place]:
    """Where each of the subscriptions stands in its present round."""
    received: dict[UUID, list[str]] = {}
    passed: dict[UUID, list[str]] = {}
    for identifier, step, was_received in _STEPS.fetch(connection, {"ids": [item.id for item in subscriptions]}):
        (received if was_received else passed).setdefault(identifier, []).append(step)
    return {
        item.id: _place(
            item.round,
            item.anchor,
            item.seen_revision,
            frozenset(received.get(item.id, ())),
            frozenset(passed.get(item.id, ())),
        )
        for item in subscriptions
    }


def save_passed(connection: Connection, identifier: SubscriptionId, *, before: Place, now: Place) -> None:
    """Write which steps passed a subscription by, or do so no more, within one round."""
    more = now.passed - before.passed
    fewer = before.passed - now.passed
    if more:
        rows = [{"subscription_id": identifier, "round": now.round, "step": step} for step in sorted(more)]
        connection.execute(insert(passed_step), rows)
    if fewer:
        gone = and_(passed_step.c.subscription_id == identifier, passed_step.c.round == now.round)
        connection.execute(delete(passed_step).where(gone, passed_step.c.step.in_(fewer)))


def unconfirmed_since(connection: Connection, *, before: datetime, limit: int) -> list[Subscription]:
    """Subscriptions that were asked for before an instant and never confirmed."""
    statement = select(subscription).where(subscription.c.confirmed_at.is_(None), subscription.c.created_at < before)
    return [
        _to_subscription(row) for row in connection.execute(statement.order_by(subscription.c.created_at).limit(limit))
    ]


def shown_to(connection: Connection, subscriber_ids: Collection[UUID]) -> dict[UUID, Shown]:
    """What each reader has been shown in letters they received."""
    found = {identifier: Shown(affirmations={}, posts={}) for identifier in subscriber_ids}
    for identifier, affirmation, posts in _SHOWN.fetch(connection, {"ids": subscriber_ids}):
        shown = found[identifier]
        for latest, keys in ((shown.affirmations, [affirmation] if affirmation else []), (shown.posts, posts or [])):
            for key in keys:
                latest.pop(key, None)
                latest[key] = None
    return found


def _one_subscriber(connection: Connection, condition: Any, *, lock: bool) -> Subscriber | None:  # noqa: ANN401
    statement = select(subscriber).where(condition)
    if lock:
        statement = statement.with_for_update()
    row = connection.execute(statement).one_or_none()
    return None if row is None else _to_subscriber(row)


def _slot_values(slot: Slot) -> Mapping[str, Any]:
    return {"timezone": slot.timezone, "weekday": slot.weekday, "at": slot.at.strftime("%H:%M")}


def _to_subscriber(row: Sequence[Any]) -> Subscriber:
    # Written out, as below: to pair names and values takes three times as long.
    (
        identifier, address, address_key, timezone, weekday, at, pace, country, discreet, paused_until,
        link_generation, created_at,
    ) = row  # fmt: skip
    return _subscriber(
        {
            "id": identifier,
            "address": address,
            "address_key": address_key,
            "slot": _slot(weekday, at, timezone),
            "pace": pace,
            "country": country,
            "discreet": discreet,
            "paused_until": paused_until,
            "link_generation": link_generation,
            "created_at": created_at,
        }
    )


@lru_cache(maxsize=4096)
def _slot(weekday: int, at: str, timezone: str) -> Slot:
    hour, minute = at.split(":")
    return Slot(weekday=weekday, at=time(int(hour), int(minute)), timezone=timezone)


@lru_cache(maxsize=4096)
def _place(
    round_: int, anchor: str | None, seen_revision: int, received: frozenset[str], passed: frozenset[str]
) -> Place:
    # One for all who stand there: what was worked out for it once is found at once.
    return Place(round=round_, anchor=anchor, seen_revision=seen_revision, received=received, passed=passed)


def _to_pair(row: Sequence[Any]) -> tuple[Subscriber, Subscription]:
    return _to_subscriber(row[:_SUBSCRIBER_WIDTH]), _to_subscription(row[_SUBSCRIBER_WIDTH:])


def _to_subscription(row: Sequence[Any]) -> Subscription:
    (
        identifier, subscriber_id, sequence_key, state, round_, last_step, anchor, seen_revision, next_due_at,
        due_rule, last_letter_at, resumed_at, created_at, confirmed_at,
    ) = row  # fmt: skip
    return _subscription(
        {
            "id": identifier,
            "subscriber_id": subscriber_id,
            "sequence_key": sequence_key,
            "state": _STATES[state],
            "round": round_,
            "last_step": last_step,
            "anchor": anchor,
            "seen_revision": seen_revision,
            "next_due_at": next_due_at,
            "due_rule": due_rule,
            "last_letter_at": last_letter_at,
            "resumed_at": resumed_at,
            "created_at": created_at,
            "confirmed_at": confirmed_at,
        }
    )


_STATES = {state.value: state for state in State}
_subscriber = record_maker(Subscriber)
_subscription = record_maker(Subscription)
_SUBSCRIBER_WIDTH = len(subscriber.columns)

# What runs for each group of letters.

_KEPT = 2048
_SUBSCRIBERS = Prepared(select(subscriber).where(among(subscriber.c.id, "ids")), _to_subscriber)
_LOCKED_SUBSCRIBERS = Prepared(
    select(subscriber).where(among(subscriber.c.id, "ids")).order_by(subscriber.c.id).with_for_update(),
    _to_subscriber,
)
_PAIRS = (
    select(*subscriber.columns, *subscription.columns)
    .join(subscription, subscription.c.subscriber_id == subscriber.c.id)
    .where(among(subscription.c.id, "ids"))
)
_TOGETHER = Prepared(_PAIRS, _to_pair, keep=_KEPT)
# Both rows: PostgreSQL looks again, after it has waited, only at what is locked.
_LOCKED_TOGETHER = Prepared(_PAIRS.order_by(subscriber.c.id).with_for_update(), _to_pair, like=_TOGETHER)
_SUBSCRIPTIONS = Prepared(select(subscription).where(among(subscription.c.id, "ids")), _to_subscription)
_STEPS = Prepared(
    select(subscription.c.id, delivery.c.step, literal_column("1"))
    .join(
        delivery,
        and_(
            delivery.c.subscriber_id == subscription.c.subscriber_id,
            delivery.c.subscription_id == subscription.c.id,
            delivery.c.round == subscription.c.round,
        ),
    )
    .where(among(subscription.c.id, "ids"), delivery.c.kind == Kind.LETTER, delivery.c.received)
    .union_all(
        select(passed_step.c.subscription_id, passed_step.c.step, literal_column("0"))
        .join(subscription, subscription.c.id == passed_step.c.subscription_id)
        .where(among(subscription.c.id, "ids"), passed_step.c.round == subscription.c.round)
    ),
    tuple,
)
"""What each subscription has received in its present round, and what has passed it by."""
_SHOWN = Prepared(
    select(delivery.c.subscriber_id, delivery.c.affirmation, delivery.c.posts)
    .where(
        among(delivery.c.subscriber_id, "ids"),
        delivery.c.kind == Kind.LETTER,
        or_(delivery.c.received, delivery.c.state == DeliveryState.UNCERTAIN),
    )
    .order_by(case((delivery.c.sent_at.is_(None), delivery.c.due_at), else_=delivery.c.sent_at), delivery.c.id),
    tuple,
)


def _saving(names: Sequence[str]) -> PreparedUpdate:
    """Sets columns of a subscription that is as it was believed to be."""
    return PreparedUpdate(
        lambda given: (
            update(subscription)
            .where(
                subscription.c.id == given["id"],
                subscription.c.state == given["believed"],
                subscription.c.next_due_at.is_not_distinct_from(given["expected_at"]),
            )
            .values({name: given[name] for name in names})
        ),
        {
            "id": subscription.c.id.type,
            "believed": subscription.c.state.type,
            "expected_at": subscription.c.next_due_at.type,
            **{name: subscription.c[name].type for name in names},
        },
        key=subscription.c.id,
    )


_going_on = attrgetter(*_GOING_ON)
_turning = attrgetter(*_TURNING)
_GO_ON = _saving(_GOING_ON)
_TURN = _saving((*_GOING_ON, *_TURNING))
