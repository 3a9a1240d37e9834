"""The way of an email from the moment a worker claims it: every conditional write that keeps the promise.

Each of them names the state, owner and epoch that the worker believes in, and says whether the row was so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Connection,
    Integer,
    Uuid,
    and_,
    bindparam,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.delivery import Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.store.deliveries import COLUMNS, LEAVING, OWNED, Delivery, to_delivery, waiting_state
from newsletter.store.prepared import Prepared, PreparedUpdate, fetch
from newsletter.store.switches import sending_is_stopped
from newsletter.store.tables import delivery, subscription, worker
from newsletter.store.types import DatabaseNow, UtcDateTime

_LETTERS: ColumnElement[bool] = literal_column("delivery.kind = 'letter'")
_FOR_PEOPLE: ColumnElement[bool] = literal_column("delivery.kind <> 'letter'")
_STILL_LEAVING: ColumnElement[bool] = literal_column("delivery.state || '' IN ('planned', 'uncertain')")
"""Not the column itself: PostgreSQL would hold the index of what waits for short, and compare every row of it with
every candidate instead of finding the candidates by their keys."""

_IN_THE_ORDER_OF_THE_INDEX = (
    "SELECT set_config('enable_bitmapscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)"
)
"""How PostgreSQL is to plan a claim. Its statistics are never right about rows that change their state within moments:
it would take what is due for a handful of rows, read and sort all of it for each claim, and before that look for the
end of the index among those that have gone, which takes as long as the claim."""


class Handover(NamedTuple):
    """What is written down before the first byte leaves. The repeat of an uncertain letter keeps it all."""

    revision: int
    message_id: str
    message_date: datetime
    affirmation: str | None = None
    posts: tuple[str, ...] = ()
    number: int | None = None


class Answer(NamedTuple):
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
    if connection.dialect.name == "postgresql":
        fetch(connection, _IN_THE_ORDER_OF_THE_INDEX, None)
    claimed = statement.fetch(connection, {"b_owner": owner, "b_now": now, "b_limit": limit})
    # Ids compare by a call of Python's each, whole numbers do not.
    return sorted(claimed, key=lambda item: (item.next_try_at, item.id.int))


def claimed_by(connection: Connection, owner: str, *, letters: bool) -> list[Delivery]:
    """What a worker has claimed and not handed over, letters or what people wait for."""
    which = _LETTERS if letters else _FOR_PEOPLE
    mine = (OWNED, delivery.c.owner == owner, delivery.c.state == State.CLAIMED, which)
    return [to_delivery(row) for row in connection.execute(select(*COLUMNS).where(*mine))]


def count_due(connection: Connection, *, now: datetime) -> int:
    """How many emails are due and not closed: planned, or in the hands of some worker."""
    waiting = and_(LEAVING, delivery.c.next_try_at <= now)
    waits = connection.scalar(select(func.count()).select_from(delivery).where(waiting)) or 0
    return waits + (connection.scalar(select(func.count()).select_from(delivery).where(OWNED)) or 0)


def earliest_try(connection: Connection) -> datetime | None:
    """When the next email that waits may leave; None where none waits."""
    earliest: datetime | None = connection.scalar(select(func.min(delivery.c.next_try_at)).where(LEAVING))
    return earliest


class Leaving(NamedTuple):
    """A claimed email whose bytes are about to leave.

    Attributes:
        min_gap: what must have passed since the last letter of its subscription.
    """

    item: Delivery
    handover: Handover
    min_gap: timedelta


def hand_over(connection: Connection, leaving: Sequence[Leaving], *, now: datetime, renew: bool = False) -> set[UUID]:
    """Say that the bytes of claimed emails are about to leave; everything is checked once more.

    `renew`: it was said already, and the bytes did not leave at once.

    Each row must still be ours under a living lease, sending must not be stopped, a letter's subscription must be
    active and `min_gap` must have passed since its last letter, a confirmation's must still want confirming.

    Returns:
        Those that may leave. Of the others nothing was changed.
    """
    granted: set[UUID] = set()
    owners = {each.item.owner for each in leaving}
    # Once for all of them: a lease that runs out behind this look is judged by the epoch.
    able = {owner for owner in owners if _MAY_SEND.fetch(connection, {"b_owner": owner}) == [True]}
    shared = {"believed": (State.HANDING_OVER if renew else State.CLAIMED).value}
    rows: dict[PreparedUpdate, list[tuple[Any, ...]]] = {}
    rested_before = {gap: now - gap for gap in {each.min_gap for each in leaving}}
    for item, handover, gap in leaving:
        if item.owner in able:
            statement = _HAND_OVER.get(item.kind, _HAND_OVER_OTHER)
            row = (item.id, item.owner, item.epoch, item.subscription_id, rested_before[gap], *handover)
            rows.setdefault(statement, []).append(row)
    for statement, given in rows.items():
        granted |= statement.run(connection, given, shared)
    return granted


def record_accepted(connection: Connection, accepted: Sequence[tuple[Delivery, Answer]], *, now: datetime) -> set[UUID]:
    """The mail server has them.

    Returns:
        Those that were still ours. Of the others nothing was changed.
    """
    rows = [(item.id, item.owner, item.epoch, *answer) for item, answer in accepted]
    return _ACCEPTED.run(connection, rows, {"now": now})


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
    """Give claimed rows back that were not handed over, to be tried again at once or at `next_try_at`; how many."""
    return put_off(connection, [(item, next_try_at or item.next_try_at) for item in items])


def put_off(connection: Connection, turns: Sequence[tuple[Delivery, datetime]]) -> int:
    """Give claimed rows back, each to be tried at an instant of its own (business time); how many were still ours."""
    in_order = sorted(turns, key=lambda turn: turn[0].id)
    rows = [(item.id, item.owner, item.epoch, at) for item, at in in_order]
    return len(_RELEASED.run(connection, rows))


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
    # Sorted here: asked for an order, SQLite reads the whole ledger by its primary key instead of the few owned rows.
    statement = select(*COLUMNS).where(OWNED, or_(claimed, handing)).limit(limit)
    return sorted((to_delivery(row) for row in connection.execute(statement)), key=lambda item: item.id)


def still_wanted(connection: Connection, item: Delivery) -> bool:
    """Whether what an email that is no letter is for still stands."""
    if item.kind is not Kind.CONFIRMATION:
        return True
    return bool(connection.scalar(select(_unconfirmed(literal(item.subscription_id, Uuid())))))


def _is_ours(item: Delivery, state: State) -> ColumnElement[bool]:
    return and_(
        delivery.c.id == item.id,
        delivery.c.state == state,
        delivery.c.owner.is_not_distinct_from(item.owner),
        delivery.c.epoch == item.epoch,
    )


def _answered(answer: Answer) -> dict[str, Any]:
    return {"reply_code": answer.code, "reply_text": answer.text, "host": answer.host}


# The statements that run for each group of letters.

_Given = Mapping[str, ColumnElement[Any]]
_BELIEVED = {name: delivery.c[name].type for name in ("id", "owner", "epoch")}
_HANDED = Handover._fields
_ANSWERED = ("reply_code", "reply_text", "host")  # as in `Answer`
_UNCONFIRMED = (SubscriptionState.PENDING, SubscriptionState.LEFT, SubscriptionState.FINISHED)


def _ours(given: _Given, state: ColumnElement[str]) -> ColumnElement[bool]:
    return and_(
        delivery.c.id == given["id"],
        delivery.c.state == state,
        # Not the column itself: PostgreSQL would see that the index of what is owned serves, hold it for short, and
        # read everything that was owned since the last vacuum instead of a few rows by their key.
        delivery.c.owner.concat(literal_column("''")) == given["owner"],
        delivery.c.epoch == given["epoch"],
    )


def _lives(owner: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(worker.c.id == owner, worker.c.lease_until > DatabaseNow())


_OWNER: ColumnElement[str] = bindparam("b_owner", type_=delivery.c.owner.type)
_MAY_SEND = Prepared(select(and_(_lives(_OWNER), ~sending_is_stopped())), lambda row: bool(row[0]))


def _rested(given: _Given) -> ColumnElement[bool]:
    last = subscription.c.last_letter_at
    return exists().where(
        subscription.c.id == given["subscription_id"],
        subscription.c.state == SubscriptionState.ACTIVE,
        or_(last.is_(None), last <= given["rested_before"]),
    )


def _unconfirmed(identifier: ColumnElement[Any]) -> ColumnElement[bool]:
    return exists().where(
        subscription.c.id == identifier, or_(*(subscription.c.state == each for each in _UNCONFIRMED))
    )


def _handing_over(wanted: Callable[[_Given], ColumnElement[bool]]) -> PreparedUpdate:
    believed: ColumnElement[str] = bindparam("believed", type_=delivery.c.state.type)
    return PreparedUpdate(
        lambda given: update(delivery)
        .where(_ours(given, believed), wanted(given))
        .values(
            state=State.HANDING_OVER, handing_over_at=DatabaseNow(), **{name: given[name] for name in _HANDED}
        ),
        {
            **_BELIEVED,
            "subscription_id": delivery.c.subscription_id.type,
            "rested_before": subscription.c.last_letter_at.type,
            **{name: delivery.c[name].type for name in _HANDED},
        },
        key=delivery.c.id,
    )  # fmt: skip


_HAND_OVER = {
    Kind.LETTER: _handing_over(_rested),
    Kind.CONFIRMATION: _handing_over(lambda given: _unconfirmed(given["subscription_id"])),
}
_HAND_OVER_OTHER = _handing_over(lambda _given: true())
"""By kind what must hold for an email to leave."""

_ACCEPTED = PreparedUpdate(
    lambda given: update(delivery)
    .where(_ours(given, literal(State.HANDING_OVER.value)))
    .values(
        state=State.SENT, received=True, owner=None, handing_over_at=None, reason=None,
        sent_at=bindparam("now", type_=UtcDateTime()), closed_at=bindparam("now", type_=UtcDateTime()),
        attempt=delivery.c.attempt + 1, epoch=delivery.c.epoch + 1, **{name: given[name] for name in _ANSWERED},
    ),
    {**_BELIEVED, **{name: delivery.c[name].type for name in _ANSWERED}},
    key=delivery.c.id,
)  # fmt: skip


_RELEASED = PreparedUpdate(
    lambda given: update(delivery)
    .where(_ours(given, literal(State.CLAIMED.value)))
    .values(
        state=waiting_state(), owner=None, epoch=delivery.c.epoch + 1, next_try_at=given["next_try_at"]
    ),
    {**_BELIEVED, "next_try_at": delivery.c.next_try_at.type},
    key=delivery.c.id,
)  # fmt: skip


def _claiming(which: ColumnElement[bool]) -> Prepared[Delivery]:
    candidates = (
        select(delivery.c.id)
        .where(LEAVING, which, delivery.c.next_try_at <= bindparam("b_now", type_=UtcDateTime()))
        .order_by(delivery.c.next_try_at, delivery.c.id)
        .limit(bindparam("b_limit", type_=Integer()))
        .with_for_update(skip_locked=True)
        # Looked for once, whatever PostgreSQL plans: as a plain subquery it ran for each row, each time with others.
        .cte("candidates")
    )
    return Prepared(
        update(delivery)
        .where(delivery.c.id.in_(select(candidates.c.id)), _STILL_LEAVING, _lives(_OWNER), ~sending_is_stopped())
        .values(state=State.CLAIMED, owner=_OWNER, epoch=delivery.c.epoch + 1)
        .returning(*COLUMNS),
        to_delivery,
    )


_CLAIM_LETTERS = _claiming(_LETTERS)
_CLAIM_FOR_PEOPLE = _claiming(_FOR_PEOPLE)
