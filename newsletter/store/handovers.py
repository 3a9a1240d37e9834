"""The way of an email from the moment a worker claims it: every conditional write that keeps the promise.

Each of them names the state, owner and epoch that the worker believes in, and says whether the row was so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Update,
    Uuid,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.delivery import DeliveryId, Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.store.deliveries import COLUMNS, LEAVING, OWNED, Delivery, to_delivery, waiting_state
from newsletter.store.switches import sending_is_stopped
from newsletter.store.tables import delivery, subscription, worker
from newsletter.store.types import DatabaseNow, UtcDateTime

_LETTERS: ColumnElement[bool] = literal_column("delivery.kind = 'letter'")
_FOR_PEOPLE: ColumnElement[bool] = literal_column("delivery.kind <> 'letter'")


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


def claim_due(connection: Connection, *, owner: str, letters: bool, now: datetime, limit: int) -> list[Delivery]:
    """Take what is due, letters or what people wait for.

    Nothing while sending is stopped, or while the claimer has no living lease: its rows could not leave.

    The state is repeated in the outer condition: without it two workers were seen to claim the same row on
    PostgreSQL.
    """
    statement = _CLAIM_LETTERS if letters else _CLAIM_FOR_PEOPLE
    found = connection.execute(statement, {"b_owner": owner, "b_now": now, "b_limit": limit})
    claimed = [to_delivery(row) for row in found]
    return sorted(claimed, key=lambda item: (item.next_try_at, item.id))


def count_due(connection: Connection, *, now: datetime) -> int:
    """How many emails are due and not closed: planned, or in the hands of some worker."""
    waiting = and_(LEAVING, delivery.c.next_try_at <= now)
    waits = connection.scalar(select(func.count()).select_from(delivery).where(waiting)) or 0
    return waits + (connection.scalar(select(func.count()).select_from(delivery).where(OWNED)) or 0)


def earliest_try(connection: Connection) -> datetime | None:
    """When the next email that waits may leave; None where none waits."""
    earliest: datetime | None = connection.scalar(select(func.min(delivery.c.next_try_at)).where(LEAVING))
    return earliest


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """A claimed email whose bytes are about to leave.

    Attributes:
        min_gap: what must have passed since the last letter of its subscription.
    """

    item: Delivery
    handover: Handover
    min_gap: timedelta


def hand_over(
    connection: Connection, leaving: Sequence[Leaving], *, now: datetime, renew: bool = False
) -> set[DeliveryId]:
    """Say that the bytes of claimed emails are about to leave; everything is checked once more.

    `renew`: it was said already, and the bytes did not leave at once.

    Each row must still be ours under a living lease, sending must not be stopped, a letter's subscription must be
    active and `min_gap` must have passed since its last letter, a confirmation's must still want confirming.

    Returns:
        Those that may leave. Of the others nothing was changed.
    """
    believed = State.HANDING_OVER if renew else State.CLAIMED
    granted: set[DeliveryId] = set()
    for kind, statement in _HAND_OVER.items():
        rows = [
            _handover_values(each, believed, now=now)
            for each in leaving
            if (each.item.kind if each.item.kind in _HAND_OVER else None) is kind
        ]
        if renew or len(rows) == 1:
            granted |= {row["b_id"] for row in rows if connection.execute(statement, row).rowcount == 1}
        elif rows and connection.execute(statement, rows).rowcount == len(rows):
            granted |= {row["b_id"] for row in rows}
        elif rows:
            granted |= _in_state(connection, rows, State.HANDING_OVER, epochs_later=0)
    return granted


def record_accepted(
    connection: Connection, accepted: Sequence[tuple[Delivery, Answer]], *, now: datetime
) -> set[DeliveryId]:
    """The mail server has them.

    Returns:
        Those that were still ours. Of the others nothing was changed.
    """
    rows = [
        {
            "b_id": item.id,
            "b_state": State.HANDING_OVER,
            "b_owner": item.owner,
            "b_epoch": item.epoch,
            "b_now": now,
            **_answered(answer),
        }
        for item, answer in accepted
    ]
    if not rows:
        return set()
    if connection.execute(_ACCEPTED, rows).rowcount == len(rows):
        return {item.id for item, _ in accepted}
    return _in_state(connection, rows, State.SENT, epochs_later=1)


def record_failed(connection: Connection, item: Delivery, answer: Answer, *, reason: str, now: datetime) -> bool:
    """Refused for good, or its retries are used up. False where the row is no longer ours."""
    statement = (
        update(delivery)
        .where(_is_ours(item, State.HANDING_OVER))
        .values(
            state=State.FAILED, closed_at=now, owner=None, handing_over_at=None, reason=reason,
            attempt=delivery.c.attempt + 1, epoch=delivery.c.epoch + 1, **_answered(answer),
        )
    )  # fmt: skip
    return connection.execute(statement).rowcount == 1


def record_deferred(
    connection: Connection, item: Delivery, answer: Answer, *, next_try_at: datetime, counts: bool
) -> bool:
    """It goes back to wait; `counts` says whether the attempt does. False where the row is no longer ours."""
    statement = (
        update(delivery)
        .where(_is_ours(item, State.HANDING_OVER))
        .values(
            state=waiting_state(), owner=None, handing_over_at=None, next_try_at=next_try_at,
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
    changes: dict[str, Any] = {"state": waiting_state(), "owner": None, "epoch": delivery.c.epoch + 1}
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
    statement = select(*COLUMNS).where(OWNED, or_(claimed, handing)).order_by(delivery.c.id).limit(limit)
    return [to_delivery(row) for row in connection.execute(statement)]


def still_wanted(connection: Connection, item: Delivery) -> bool:
    """Whether what an email that is no letter is for still stands."""
    if item.kind is not Kind.CONFIRMATION:
        return True
    return bool(connection.scalar(select(_UNCONFIRMED), {"b_subscription_id": item.subscription_id}))


def _handover_values(leaving: Leaving, believed: State, *, now: datetime) -> dict[str, Any]:
    item, handover = leaving.item, leaving.handover
    return {
        "b_id": item.id,
        "b_state": believed,
        "b_owner": item.owner,
        "b_epoch": item.epoch,
        "b_subscription_id": item.subscription_id,
        "b_rested_before": now - leaving.min_gap,
        "revision": handover.revision,
        "message_id": handover.message_id,
        "message_date": handover.message_date,
        "affirmation": handover.affirmation,
        "posts": list(handover.posts),
        "number": handover.number,
    }


def _is_ours(item: Delivery, state: State) -> ColumnElement[bool]:
    return and_(
        delivery.c.id == item.id,
        delivery.c.state == state,
        delivery.c.owner.is_not_distinct_from(item.owner),
        delivery.c.epoch == item.epoch,
    )


def _answered(answer: Answer) -> dict[str, Any]:
    return {"reply_code": answer.code, "reply_text": answer.text, "host": answer.host}


def _in_state(
    connection: Connection, rows: Sequence[Mapping[str, Any]], state: State, *, epochs_later: int
) -> set[DeliveryId]:
    """Which of some rows are in the state that was written just now."""
    epochs = {row["b_id"]: row["b_epoch"] + epochs_later for row in rows}
    found = connection.execute(
        select(delivery.c.id, delivery.c.epoch).where(delivery.c.id.in_(list(epochs)), delivery.c.state == state)
    )
    return {row.id for row in found if row.epoch == epochs[row.id]}


# The statements that run for each group of letters: built once, since building one takes as long as running it.

_OURS = and_(
    delivery.c.id == bindparam("b_id"),
    delivery.c.state == bindparam("b_state"),
    delivery.c.owner == bindparam("b_owner"),
    delivery.c.epoch == bindparam("b_epoch"),
)
_LIVES = exists().where(worker.c.id == bindparam("b_owner"), worker.c.lease_until > DatabaseNow())
_ITS_OWN = subscription.c.id == bindparam("b_subscription_id", type_=Uuid())
_RESTED = exists().where(
    _ITS_OWN,
    subscription.c.state == SubscriptionState.ACTIVE,
    or_(
        subscription.c.last_letter_at.is_(None),
        subscription.c.last_letter_at <= bindparam("b_rested_before", type_=UtcDateTime()),
    ),
)
_UNCONFIRMED = exists().where(
    _ITS_OWN,
    subscription.c.state.in_([SubscriptionState.PENDING, SubscriptionState.LEFT, SubscriptionState.FINISHED]),
)
_HAND_OVER: dict[Kind | None, Update] = {
    kind: update(delivery)
    .where(_OURS, _LIVES, ~sending_is_stopped(), wanted)
    .values(
        state=State.HANDING_OVER,
        handing_over_at=DatabaseNow(),
        **{
            name: bindparam(name)
            for name in ("revision", "message_id", "message_date", "affirmation", "posts", "number")
        },
    )
    for kind, wanted in {Kind.LETTER: _RESTED, Kind.CONFIRMATION: _UNCONFIRMED, None: true()}.items()
}
"""By kind what must hold for an email to leave; None for all other kinds."""

_ACCEPTED = (
    update(delivery)
    .where(_OURS)
    .values(
        state=State.SENT, received=True, owner=None, handing_over_at=None, reason=None,
        sent_at=bindparam("b_now", type_=UtcDateTime()), closed_at=bindparam("b_now", type_=UtcDateTime()),
        attempt=delivery.c.attempt + 1, epoch=delivery.c.epoch + 1,
        **{name: bindparam(name) for name in ("reply_code", "reply_text", "host")},
    )
)  # fmt: skip


def _claiming(which: ColumnElement[bool]) -> ReturningUpdate[Any]:
    candidates = (
        select(delivery.c.id)
        .where(LEAVING, which, delivery.c.next_try_at <= bindparam("b_now", type_=UtcDateTime()))
        .order_by(delivery.c.next_try_at, delivery.c.id)
        .limit(bindparam("b_limit", type_=Integer()))
        .with_for_update(skip_locked=True)
    )
    waiting = delivery.c.state.in_([State.PLANNED, State.UNCERTAIN])
    return (
        update(delivery)
        .where(delivery.c.id.in_(candidates.scalar_subquery()), waiting, _LIVES, ~sending_is_stopped())
        .values(state=State.CLAIMED, owner=bindparam("b_owner"), epoch=delivery.c.epoch + 1)
        .returning(*COLUMNS)
    )


_CLAIM_LETTERS = _claiming(_LETTERS)
_CLAIM_FOR_PEOPLE = _claiming(_FOR_PEOPLE)
