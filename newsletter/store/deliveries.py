"""The ledger: one row an email, and every conditional write that keeps the promise.

Whoever writes to a row says what they believe it to be (state, owner, epoch) and looks at how many rows that
changed. `epoch` grows each time a row changes hands, so that a worker that was thought dead and comes back
changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.delivery import WITHDRAWABLE, DeliveryId, Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.domain.subscription import SubscriberId, SubscriptionId
from newsletter.store.statements import insert_or_nothing
from newsletter.store.tables import HAS_DETAILS, delivery, subscription, switch, worker
from newsletter.store.types import DatabaseNow, ordered_id

SENDING = "sending"
"""The switch that stops and starts all sending."""

OPEN_STATES = (State.PLANNED, State.CLAIMED, State.HANDING_OVER, State.HELD, State.UNCERTAIN)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One email, as the ledger has it.

    Attributes:
        due_at: the instant of its slot; business time.
        next_try_at: it is not tried before; business time.
        attempt: answered attempts since it was last planned; a relay that was down does not count.
        doubts: handovers that got no answer, 0 to 2.
        handing_over_at: by the database's clock.
        number: the n of "Letter n of m", once handed over.
    """

    id: DeliveryId
    kind: Kind
    subscriber_id: SubscriberId
    subscription_id: SubscriptionId | None
    sequence_key: str | None
    round: int | None
    step: str | None
    state: State
    received: bool
    due_at: datetime
    next_try_at: datetime
    attempt: int
    doubts: int
    epoch: int
    owner: str | None
    handing_over_at: datetime | None
    revision: int | None
    message_id: str | None
    message_date: datetime | None
    affirmation: str | None
    posts: list[str] | None
    number: int | None
    payload: dict[str, Any] | None
    created_at: datetime
    sent_at: datetime | None
    closed_at: datetime | None
    reply_code: int | None
    reply_text: str | None
    host: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What is written down before the first byte leaves. The repeat of an uncertain letter keeps it all."""

    revision: int
    message_id: str
    message_date: datetime
    affirmation: str | None = None
    posts: tuple[str, ...] = ()
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the mail server said, kept with the row."""

    code: int | None
    text: str
    host: str


def plan_letter(
    connection: Connection,
    *,
    subscriber_id: SubscriberId,
    subscription_id: SubscriptionId,
    sequence_key: str,
    round: int,  # noqa: A002  (the field's word)
    step: str,
    due_at: datetime,
    next_try_at: datetime,
    now: datetime,
) -> bool:
    """One letter to be sent, or the same row again where it was withdrawn or failed.

    Returns:
        Whether there is a planned row now; False where the step is open or received already.
    """
    dedup_key = f"letter:{subscription_id}:{round}:{step}"
    inserted = insert_or_nothing(
        connection,
        delivery,
        {
            "id": ordered_id(),
            "kind": Kind.LETTER,
            "dedup_key": dedup_key,
            "subscriber_id": subscriber_id,
            "subscription_id": subscription_id,
            "sequence_key": sequence_key,
            "round": round,
            "step": step,
            "state": State.PLANNED,
            "due_at": due_at,
            "next_try_at": next_try_at,
            "created_at": now,
        },
    )
    if inserted:
        return True
    again = and_(delivery.c.dedup_key == dedup_key, delivery.c.state.in_([State.WITHDRAWN, State.FAILED]))
    # A withdrawn letter that was once handed over without an answer stays uncertain: its repeat is its last.
    state = case((delivery.c.doubts == 1, State.UNCERTAIN.value), else_=State.PLANNED.value)
    statement = (
        update(delivery)
        .where(again, delivery.c.doubts < 2)  # noqa: PLR2004  (the promise: never more than twice)
        .values(
            state=state, due_at=due_at, next_try_at=next_try_at, attempt=0, epoch=delivery.c.epoch + 1,
            closed_at=None, reason=None, reply_code=None, reply_text=None,
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def plan_notice(
    connection: Connection,
    kind: Kind,
    *,
    dedup_key: str,
    subscriber_id: SubscriberId,
    subscription_id: SubscriptionId | None,
    payload: dict[str, Any],
    now: datetime,
) -> DeliveryId | None:
    """One email that is not a letter; None where the same one was planned already."""
    identifier = DeliveryId(ordered_id())
    inserted = insert_or_nothing(
        connection,
        delivery,
        {
            "id": identifier,
            "kind": kind,
            "dedup_key": dedup_key,
            "subscriber_id": subscriber_id,
            "subscription_id": subscription_id,
            "state": State.PLANNED,
            "due_at": now,
            "next_try_at": now,
            "payload": payload,
            "created_at": now,
        },
    )
    return identifier if inserted else None


def get_delivery(connection: Connection, identifier: UUID) -> Delivery | None:
    """The email of that id."""
    return _one(connection, delivery.c.id == identifier)


def set_payload(connection: Connection, identifier: DeliveryId, payload: dict[str, Any]) -> None:
    """Replace what an email that is not a letter carries."""
    connection.execute(update(delivery).where(delivery.c.id == identifier).values(payload=payload))


def deliveries_of(connection: Connection, subscriber_id: UUID, *, limit: int = 200) -> list[Delivery]:
    """The newest emails of one subscriber, the oldest of them first."""
    statement = select(*_COLUMNS).where(delivery.c.subscriber_id == subscriber_id)
    rows = connection.execute(statement.order_by(delivery.c.id.desc()).limit(limit)).all()
    return [_to_delivery(row) for row in reversed(rows)]


def open_letters(connection: Connection, subscriber_ids: Collection[UUID]) -> dict[UUID, Delivery]:
    """By subscription: the letter it waits for, of all subscriptions of some subscribers."""
    rows = connection.execute(select(*_COLUMNS).where(delivery.c.subscriber_id.in_(subscriber_ids), _IS_OPEN))
    return {row.subscription_id: _to_delivery(row) for row in rows}


def stopped(connection: Connection, *, state: State, limit: int, after: UUID | None = None) -> list[Delivery]:
    """Held or uncertain emails in order of id, from behind `after`."""
    statement = select(*_COLUMNS).where(delivery.c.state == state)
    if after is not None:
        statement = statement.where(delivery.c.id > after)
    return [_to_delivery(row) for row in connection.execute(statement.order_by(delivery.c.id).limit(limit))]


def letter_totals(connection: Connection, subscription_id: UUID) -> int:
    """How many letters a subscription has received over all its rounds."""
    statement = (
        select(func.count())
        .select_from(delivery)
        .where(delivery.c.subscription_id == subscription_id, delivery.c.kind == Kind.LETTER, delivery.c.received)
    )
    return connection.scalar(statement) or 0


def last_accepted_at(connection: Connection, subscription_id: UUID) -> datetime | None:
    """When the mail server last said that it has a letter of this subscription."""
    mine = and_(delivery.c.subscription_id == subscription_id, delivery.c.kind == Kind.LETTER)
    latest: datetime | None = connection.scalar(select(func.max(delivery.c.sent_at)).where(mine))
    return latest


# Workers and their leases


def enrol_worker(connection: Connection, identifier: str, *, host: str, lease: timedelta) -> None:
    """Enter a worker with a lease that runs from now, by the database's clock."""
    connection.execute(
        insert(worker).values(id=identifier, host=host, lease_until=DatabaseNow(lease), started_at=DatabaseNow())
    )


def renew_lease(connection: Connection, identifier: str, *, lease: timedelta) -> bool:
    """Let a worker's lease run anew; False where the worker was struck off."""
    statement = update(worker).where(worker.c.id == identifier).values(lease_until=DatabaseNow(lease))
    return connection.execute(statement).rowcount == 1


def strike_off_worker(connection: Connection, identifier: str) -> bool:
    """Remove a worker that has ended, unless it still owns something; whether it is gone."""
    owns = connection.scalar(select(exists().where(_OWNED, delivery.c.owner == identifier)))
    if owns:
        return False
    connection.execute(delete(worker).where(worker.c.id == identifier))
    return True


def other_workers(connection: Connection, identifier: str) -> list[tuple[str, bool]]:
    """Every worker but one, and whether its lease has run out by the database's clock."""
    statement = select(worker.c.id, (worker.c.lease_until < DatabaseNow()).label("expired"))
    rows = connection.execute(statement.where(worker.c.id != identifier))
    return [(row.id, bool(row.expired)) for row in rows]


# The way of a delivery


def claim_due(connection: Connection, *, owner: str, letters: bool, now: datetime, limit: int) -> list[Delivery]:
    """Take what is due, letters or what people wait for.

    Nothing while sending is stopped, or while the claimer has no living lease: its rows could not leave.

    The state is repeated in the outer condition: without it two workers were seen to claim the same row on
    PostgreSQL.
    """
    waiting = delivery.c.state.in_([State.PLANNED, State.UNCERTAIN])
    candidates = (
        select(delivery.c.id)
        .where(_LEAVING, _LETTERS if letters else _FOR_PEOPLE, delivery.c.next_try_at <= now)
        .order_by(delivery.c.next_try_at, delivery.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    lives = exists().where(worker.c.id == owner, worker.c.lease_until > DatabaseNow())
    statement = (
        update(delivery)
        .where(delivery.c.id.in_(candidates.scalar_subquery()), waiting, lives, ~_sending_is_stopped())
        .values(state=State.CLAIMED, owner=owner, epoch=delivery.c.epoch + 1)
        .returning(*_COLUMNS)
    )
    claimed = [_to_delivery(row) for row in connection.execute(statement)]
    return sorted(claimed, key=lambda item: (item.next_try_at, item.id))


def count_due(connection: Connection, *, now: datetime) -> int:
    """How many emails are due and not closed: planned, or in the hands of some worker."""
    waiting = and_(_LEAVING, delivery.c.next_try_at <= now)
    waits = connection.scalar(select(func.count()).select_from(delivery).where(waiting)) or 0
    return waits + (connection.scalar(select(func.count()).select_from(delivery).where(_OWNED)) or 0)


def earliest_try(connection: Connection) -> datetime | None:
    """When the next email that waits may leave; None where none waits."""
    earliest: datetime | None = connection.scalar(select(func.min(delivery.c.next_try_at)).where(_LEAVING))
    return earliest


def hand_over(
    connection: Connection,
    item: Delivery,
    handover: Handover,
    *,
    now: datetime,
    min_gap: timedelta,
    renew: bool = False,
) -> bool:
    """Say that the bytes of a claimed email are about to leave; everything is checked once more.

    `renew`: it was said already, and the bytes did not leave at once.

    The row must still be ours under a living lease, sending must not be stopped, a letter's subscription must be
    active and `min_gap` must have passed since its last letter, a confirmation's must still want confirming.

    Returns:
        Whether it may leave. Where not, nothing was changed.
    """
    lives = exists().where(worker.c.id == item.owner, worker.c.lease_until > DatabaseNow())
    believed = State.HANDING_OVER if renew else State.CLAIMED
    statement = (
        update(delivery)
        .where(
            _is_ours(item, believed),
            lives,
            ~_sending_is_stopped(),
            _wanted(item, now=now, min_gap=min_gap),
        )
        .values(
            state=State.HANDING_OVER,
            handing_over_at=DatabaseNow(),
            revision=handover.revision,
            message_id=handover.message_id,
            message_date=handover.message_date,
            affirmation=handover.affirmation,
            posts=list(handover.posts),
            number=handover.number,
        )
    )
    return connection.execute(statement).rowcount == 1


def record_accepted(connection: Connection, item: Delivery, answer: Answer, *, now: datetime) -> bool:
    """The mail server has it. False where the row is no longer ours."""
    return _close(connection, item, State.SENT, now=now, answer=answer, received=True, sent_at=now)


def record_failed(connection: Connection, item: Delivery, answer: Answer, *, reason: str, now: datetime) -> bool:
    """Refused for good, or its retries are used up. False where the row is no longer ours."""
    return _close(connection, item, State.FAILED, now=now, answer=answer, reason=reason)


def record_deferred(
    connection: Connection, item: Delivery, answer: Answer, *, next_try_at: datetime, counts: bool
) -> bool:
    """It goes back to wait; `counts` says whether the attempt does. False where the row is no longer ours."""
    statement = (
        update(delivery)
        .where(_is_ours(item, State.HANDING_OVER))
        .values(
            state=_waiting_state(), owner=None, handing_over_at=None, next_try_at=next_try_at,
            attempt=delivery.c.attempt + (1 if counts else 0), epoch=delivery.c.epoch + 1, **_answered(answer),
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def hold(connection: Connection, item: Delivery, *, believed: State, reason: str, answer: Answer | None = None) -> bool:
    """An operator has to look at it; the reader waits. False where the row is no longer ours in that state."""
    statement = (
        update(delivery)
        .where(_is_ours(item, believed))
        .values(
            state=State.HELD, owner=None, handing_over_at=None, reason=reason, epoch=delivery.c.epoch + 1,
            **({} if answer is None else _answered(answer)),
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def record_doubt(
    connection: Connection,
    item: Delivery,
    *,
    reason: str,
    repeat: bool,
    now: datetime,
    answer: Answer | None = None,
) -> State | None:
    """It was handed over and no answer came.

    Returns:
        UNCERTAIN where it is repeated once more; HELD where it is not, and then it counts as received; None where
        the row is no longer what `item` says.
    """
    repeats = repeat and item.doubts == 0
    statement = (
        update(delivery)
        .where(_is_ours(item, State.HANDING_OVER))
        .values(
            state=State.UNCERTAIN if repeats else State.HELD,
            received=not repeats,
            doubts=item.doubts + 1,
            owner=None,
            handing_over_at=None,
            next_try_at=now,
            closed_at=None if repeats else now,
            reason=reason,
            epoch=delivery.c.epoch + 1,
            **({} if answer is None else _answered(answer)),
        )
    )
    if connection.execute(statement).rowcount != 1:
        return None
    return State.UNCERTAIN if repeats else State.HELD


def release_claimed(connection: Connection, items: Sequence[Delivery], *, next_try_at: datetime | None = None) -> int:
    """Give claimed rows back that were not handed over, to be tried again at once or at `next_try_at`."""
    changes: dict[str, Any] = {"state": _waiting_state(), "owner": None, "epoch": delivery.c.epoch + 1}
    if next_try_at is not None:
        changes["next_try_at"] = next_try_at
    released = 0
    for item in sorted(items, key=lambda each: each.id):
        statement = update(delivery).where(_is_ours(item, State.CLAIMED)).values(changes)
        released += connection.execute(statement).rowcount
    return released


def withdraw_claimed(connection: Connection, item: Delivery, *, reason: str, now: datetime) -> bool:
    """Take back one claimed row. False where it is no longer ours."""
    statement = (
        update(delivery)
        .where(_is_ours(item, State.CLAIMED))
        .values(state=State.WITHDRAWN, owner=None, reason=reason, closed_at=now, epoch=delivery.c.epoch + 1)
    )
    return connection.execute(statement).rowcount == 1


def withdraw(
    connection: Connection,
    *,
    reason: str,
    now: datetime,
    subscriber_id: UUID | None = None,
    subscription_id: UUID | None = None,
    steps: Collection[str] | None = None,
    sequence_key: str | None = None,
    letters_only: bool = True,
) -> list[Delivery]:
    """Take back what waits, is claimed or is held, in id order; what is being handed over is not touched.

    Returns:
        What was taken back, as it was before.
    """
    states = [*WITHDRAWABLE, State.HELD]
    chosen: ColumnElement[bool] = and_(delivery.c.state.in_(states), ~delivery.c.received)
    # Of one reader there are few rows; of a sequence only those are looked at that a partial index knows.
    parts = [true()] if subscriber_id or subscription_id else [_LEAVING, _OWNED, _HELD]
    if letters_only:
        chosen = and_(chosen, delivery.c.kind == Kind.LETTER)
    if subscriber_id is not None:
        chosen = and_(chosen, delivery.c.subscriber_id == subscriber_id)
    if subscription_id is not None:
        chosen = and_(chosen, delivery.c.subscription_id == subscription_id)
    if sequence_key is not None:
        chosen = and_(chosen, delivery.c.sequence_key == sequence_key)
    if steps is not None:
        chosen = and_(chosen, delivery.c.step.in_(steps))
    found = [row for part in parts for row in connection.execute(select(delivery.c.id).where(chosen, part))]
    ids = [row.id for row in found]
    rows = connection.execute(
        select(*_COLUMNS).where(delivery.c.id.in_(ids)).order_by(delivery.c.id).with_for_update()
    ).all()
    taken = [_to_delivery(row) for row in rows]
    # Row by row and under the same condition: between the look and the lock a row may have been handed over.
    return [
        item
        for item in taken
        if connection.execute(
            update(delivery)
            .where(delivery.c.id == item.id, delivery.c.state.in_(states), ~delivery.c.received)
            .values(state=State.WITHDRAWN, owner=None, reason=reason, closed_at=now, epoch=delivery.c.epoch + 1)
        ).rowcount
        == 1
    ]


# Rescue


def abandoned(connection: Connection, *, dead: Collection[str], silent_for: timedelta, limit: int) -> list[Delivery]:
    """What no living worker is at work on.

    Claimed rows whose owner is dead, gone or without a lease; rows being handed over whose owner is known dead,
    or that have been so for longer than a mail server may take to answer.
    """
    leased = exists().where(worker.c.id == delivery.c.owner, worker.c.lease_until >= DatabaseNow())
    owner_dead = delivery.c.owner.in_(list(dead))
    claimed = and_(delivery.c.state == State.CLAIMED, or_(owner_dead, not_(leased)))
    handing = and_(
        delivery.c.state == State.HANDING_OVER,
        or_(owner_dead, delivery.c.handing_over_at < DatabaseNow(-silent_for)),
    )
    statement = select(*_COLUMNS).where(_OWNED, or_(claimed, handing)).order_by(delivery.c.id).limit(limit)
    return [_to_delivery(row) for row in connection.execute(statement)]


# What an operator does


def reopen_held(
    connection: Connection,
    *,
    now: datetime,
    identifiers: Collection[UUID] | None = None,
    letters_only: bool = False,
) -> int:
    """Let held emails be tried again: all those whose reader waits, or some."""
    chosen: ColumnElement[bool] = and_(delivery.c.state == State.HELD, ~delivery.c.received)
    if identifiers is not None:
        chosen = and_(chosen, delivery.c.id.in_(identifiers))
    if letters_only:
        chosen = and_(chosen, delivery.c.kind == Kind.LETTER)
    statement = (
        update(delivery)
        .where(chosen)
        .values(
            state=_waiting_state(), attempt=0, next_try_at=now, epoch=delivery.c.epoch + 1, reason=None,
            reply_code=None, reply_text=None,
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount


def repeat_doubtful(connection: Connection, item: Delivery, *, now: datetime) -> bool:
    """Send a held letter again that may have arrived; only where it was handed over once."""
    statement = (
        update(delivery)
        .where(delivery.c.id == item.id, delivery.c.state == State.HELD, delivery.c.received, delivery.c.doubts == 1)
        .values(
            state=State.UNCERTAIN, received=False, closed_at=None, attempt=0, next_try_at=now,
            epoch=delivery.c.epoch + 1,
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def settle(connection: Connection, item: Delivery, *, arrived: bool, now: datetime) -> bool:
    """Write down what an operator knows of a held or uncertain email: it arrived, or it never will."""
    outcome: dict[str, Any]
    if arrived:
        outcome = {
            "state": State.SENT,
            "received": True,
            "sent_at": item.message_date or now,
            "closed_at": now,
        }
    else:
        # It never arrived, so that nothing is in doubt any more and the planner may reopen the row.
        outcome = {"state": State.FAILED, "received": False, "doubts": 0, "closed_at": now}
    statement = (
        update(delivery)
        .where(
            delivery.c.id == item.id,
            delivery.c.epoch == item.epoch,
            delivery.c.state.in_([State.HELD, State.UNCERTAIN]),
        )
        .values(**outcome, reason="settled by the operator", epoch=delivery.c.epoch + 1)
    )
    return connection.execute(statement).rowcount == 1


def set_switch(connection: Connection, name: str, *, is_on: bool, now: datetime) -> None:
    """Turn a switch of the whole installation."""
    values = {"name": name, "is_on": is_on, "at": now}
    if not insert_or_nothing(connection, switch, values):
        connection.execute(update(switch).where(switch.c.name == name).values(is_on=is_on, at=now))


def switch_is_on(connection: Connection, name: str) -> bool:
    """Whether a switch is on; every switch is until it is turned off."""
    is_on = connection.scalar(select(switch.c.is_on).where(switch.c.name == name))
    return is_on is None or is_on


def empty_old_details(connection: Connection, *, before: datetime, limit: int) -> int:
    """Forget the replies and hosts of what was closed before an instant; what a reader received stays."""
    old = select(delivery.c.id).where(_HAS_DETAILS, delivery.c.closed_at < before).limit(limit)
    cleared = {"reply_text": None, "reply_code": None, "host": None, "payload": null()}
    statement = update(delivery).where(delivery.c.id.in_(old.scalar_subquery())).values(cleared)
    return connection.execute(statement).rowcount


def still_wanted(connection: Connection, item: Delivery, *, now: datetime) -> bool:
    """Whether what an email is for still stands; for a letter see `hand_over`."""
    return bool(connection.scalar(select(_wanted(item, now=now, min_gap=timedelta()))))


_COLUMNS = [column for column in delivery.columns if column.name != "dedup_key"]
_IS_OPEN = and_(
    delivery.c.subscription_id.is_not(None),
    delivery.c.kind == Kind.LETTER,
    delivery.c.state.in_(OPEN_STATES),
    ~delivery.c.received,
)


_HAS_DETAILS: ColumnElement[bool] = literal_column(f"({HAS_DETAILS})")

# Written out, so that both databases see that the partial indexes serve.
_LEAVING: ColumnElement[bool] = literal_column("delivery.state IN ('planned', 'uncertain')")
_OWNED: ColumnElement[bool] = literal_column("delivery.state IN ('claimed', 'handing_over')")
_HELD: ColumnElement[bool] = literal_column("delivery.state = 'held'")
_LETTERS: ColumnElement[bool] = literal_column("delivery.kind = 'letter'")
_FOR_PEOPLE: ColumnElement[bool] = literal_column("delivery.kind <> 'letter'")


def _is_ours(item: Delivery, state: State) -> ColumnElement[bool]:
    return and_(
        delivery.c.id == item.id,
        delivery.c.state == state,
        delivery.c.owner.is_not_distinct_from(item.owner),
        delivery.c.epoch == item.epoch,
    )


def _sending_is_stopped() -> ColumnElement[bool]:
    return exists().where(switch.c.name == SENDING, not_(switch.c.is_on))


def _wanted(item: Delivery, *, now: datetime, min_gap: timedelta) -> ColumnElement[bool]:
    its_own = subscription.c.id == item.subscription_id
    match item.kind:
        case Kind.LETTER:
            rested = or_(subscription.c.last_letter_at.is_(None), subscription.c.last_letter_at <= now - min_gap)
            return exists().where(its_own, subscription.c.state == SubscriptionState.ACTIVE, rested)
        case Kind.CONFIRMATION:
            unconfirmed = [SubscriptionState.PENDING, SubscriptionState.LEFT, SubscriptionState.FINISHED]
            return exists().where(its_own, subscription.c.state.in_(unconfirmed))
        case _:
            return true()


def _waiting_state() -> ColumnElement[str]:
    """PLANNED, or UNCERTAIN for what was once handed over without an answer."""
    return case((delivery.c.doubts > 0, State.UNCERTAIN.value), else_=State.PLANNED.value)


def _answered(answer: Answer) -> dict[str, Any]:
    return {"reply_code": answer.code, "reply_text": answer.text, "host": answer.host}


def _close(
    connection: Connection,
    item: Delivery,
    state: State,
    *,
    now: datetime,
    answer: Answer,
    received: bool = False,
    sent_at: datetime | None = None,
    reason: str | None = None,
) -> bool:
    statement = (
        update(delivery)
        .where(_is_ours(item, State.HANDING_OVER))
        .values(
            state=state, received=received, sent_at=sent_at, closed_at=now, owner=None, handing_over_at=None,
            reason=reason, attempt=delivery.c.attempt + 1, epoch=delivery.c.epoch + 1, **_answered(answer),
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def _one(connection: Connection, condition: ColumnElement[bool]) -> Delivery | None:
    statement: Select[Any] = select(*_COLUMNS).where(condition)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _to_delivery(row)


def _to_delivery(row: Row[Any]) -> Delivery:
    values = dict(row._mapping)
    return Delivery(**{**values, "state": State(row.state), "kind": Kind(row.kind)})
