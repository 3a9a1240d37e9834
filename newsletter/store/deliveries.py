"""The ledger: one row an email.

Whoever writes to a row says what they believe it to be (state, owner, epoch) and looks at how many rows that
changed. `epoch` grows each time a row changes hands, so that a worker that was thought dead and comes back
changes nothing. What a worker does with a row that it claimed is in `handovers`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Select, and_, case, func, literal_column, null, select, true, update
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.delivery import WITHDRAWABLE, DeliveryId, Kind, State
from newsletter.domain.subscription import SubscriberId, SubscriptionId
from newsletter.store import tables
from newsletter.store.prepared import PreparedInsert
from newsletter.store.statements import insert_or_nothing
from newsletter.store.subscriptions import Subscription
from newsletter.store.tables import HAS_DETAILS, WAITING_TO_LEAVE, delivery
from newsletter.store.types import ordered_id

# Written out, so that both databases see that the partial indexes serve.
LEAVING: ColumnElement[bool] = literal_column(f"delivery.{WAITING_TO_LEAVE}")
OWNED: ColumnElement[bool] = literal_column("delivery.owner IS NOT NULL")
HELD: ColumnElement[bool] = literal_column(f"delivery.{tables.HELD}")
_HAS_DETAILS: ColumnElement[bool] = literal_column(f"({HAS_DETAILS})")

COLUMNS = [column for column in delivery.columns if column.name not in ("dedup_key", "waits_for")]
_IS_OPEN = and_(delivery.c.kind == Kind.LETTER, delivery.c.closed_at.is_(None))


class Delivery(NamedTuple):
    """One email, as the ledger has it: its columns in their order, but for those that serve an index.

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
class Letter:
    """A letter that is to be planned."""

    subscriber_id: SubscriberId
    subscription_id: SubscriptionId
    sequence_key: str
    round: int
    step: str
    due_at: datetime
    next_try_at: datetime


def plan_letters(connection: Connection, letters: Sequence[Letter], *, now: datetime) -> int:
    """Letters to be sent, each a row of its own, or the same row again where it was withdrawn or failed.

    Returns:
        How many are planned now; those whose step is open or received already are not.
    """
    rows = [
        (
            *(ordered_id(), Kind.LETTER.value, letter.subscriber_id, letter.subscription_id),
            *(letter.sequence_key, letter.round, letter.step, State.PLANNED.value),
            *(letter.due_at, letter.next_try_at, now),
        )
        for letter in letters
    ]
    inserted = _PLAN.run(connection, rows)
    known = [letter for letter, row in zip(letters, rows, strict=True) if row[0] not in inserted]
    return len(inserted) + sum(_plan_again(connection, letter) for letter in known)


def _plan_again(connection: Connection, letter: Letter) -> bool:
    again = and_(
        delivery.c.subscriber_id == letter.subscriber_id,
        delivery.c.subscription_id == letter.subscription_id,
        delivery.c.round == letter.round,
        delivery.c.step == letter.step,
        delivery.c.state.in_([State.WITHDRAWN, State.FAILED]),
    )
    # A withdrawn letter that was once handed over without an answer stays uncertain: its repeat is its last.
    state = case((delivery.c.doubts == 1, State.UNCERTAIN.value), else_=State.PLANNED.value)
    statement = (
        update(delivery)
        .where(again, delivery.c.doubts < 2)  # noqa: PLR2004  (the promise: never more than twice)
        .values(
            state=state, due_at=letter.due_at, next_try_at=letter.next_try_at, attempt=0, epoch=delivery.c.epoch + 1,
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
    statement = select(*COLUMNS).where(delivery.c.subscriber_id == subscriber_id)
    rows = connection.execute(statement.order_by(delivery.c.id.desc()).limit(limit)).all()
    return [to_delivery(row) for row in reversed(rows)]


def open_letters(connection: Connection, subscriber_ids: Collection[UUID]) -> dict[UUID, Delivery]:
    """By subscription: the letter it waits for, of all subscriptions of some subscribers."""
    rows = connection.execute(select(*COLUMNS).where(delivery.c.subscriber_id.in_(subscriber_ids), _IS_OPEN))
    return {row.subscription_id: to_delivery(row) for row in rows}


def stopped(connection: Connection, *, state: State, limit: int, after: UUID | None = None) -> list[Delivery]:
    """Held or uncertain emails in order of id, from behind `after`."""
    # Said again as the indexes say it: whatever is stopped is found among few rows.
    statement = select(*COLUMNS).where(delivery.c.state == state, HELD if state is State.HELD else LEAVING)
    if after is not None:
        statement = statement.where(delivery.c.id > after)
    return [to_delivery(row) for row in connection.execute(statement.order_by(delivery.c.id).limit(limit))]


def letter_totals(connection: Connection, record: Subscription) -> int:
    """How many letters a subscription has received over all its rounds."""
    statement = select(func.count()).select_from(delivery).where(_letters_of(record), delivery.c.received)
    return connection.scalar(statement) or 0


def last_accepted_at(connection: Connection, record: Subscription) -> datetime | None:
    """When the mail server last said that it has a letter of this subscription."""
    latest: datetime | None = connection.scalar(select(func.max(delivery.c.sent_at)).where(_letters_of(record)))
    return latest


def _letters_of(record: Subscription) -> ColumnElement[bool]:
    mine = and_(delivery.c.subscriber_id == record.subscriber_id, delivery.c.subscription_id == record.id)
    return and_(mine, delivery.c.kind == Kind.LETTER)


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

    Args:
        subscription_id: only of this one of the subscriber's.

    Returns:
        What was taken back, as it was before.
    """
    states = [*WITHDRAWABLE, State.HELD]
    chosen: ColumnElement[bool] = and_(delivery.c.state.in_(states), ~delivery.c.received)
    # Of one reader there are few rows; of a sequence only those are looked at that a partial index knows.
    parts = [true()] if subscriber_id else [LEAVING, OWNED, HELD]
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
        select(*COLUMNS).where(delivery.c.id.in_(ids)).order_by(delivery.c.id).with_for_update()
    ).all()
    taken = [to_delivery(row) for row in rows]
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


def reopen_held(
    connection: Connection,
    *,
    now: datetime,
    identifiers: Collection[UUID] | None = None,
    letters_only: bool = False,
) -> int:
    """Let held emails be tried again: all those whose reader waits, or some."""
    chosen: ColumnElement[bool] = and_(HELD, ~delivery.c.received)
    if identifiers is not None:
        chosen = and_(chosen, delivery.c.id.in_(identifiers))
    if letters_only:
        chosen = and_(chosen, delivery.c.kind == Kind.LETTER)
    statement = (
        update(delivery)
        .where(chosen)
        .values(
            state=waiting_state(), attempt=0, next_try_at=now, epoch=delivery.c.epoch + 1, reason=None,
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


def empty_old_details(connection: Connection, *, before: datetime, limit: int) -> int:
    """Forget the replies and hosts of what was closed before an instant; what a reader received stays."""
    old = select(delivery.c.id).where(_HAS_DETAILS, delivery.c.closed_at < before).limit(limit)
    cleared = {"reply_text": None, "reply_code": None, "host": None, "payload": null()}
    statement = update(delivery).where(delivery.c.id.in_(old.scalar_subquery())).values(cleared)
    return connection.execute(statement).rowcount


def waiting_state() -> ColumnElement[str]:
    """PLANNED, or UNCERTAIN for what was once handed over without an answer."""
    return case((delivery.c.doubts > 0, State.UNCERTAIN.value), else_=State.PLANNED.value)


def to_delivery(row: Sequence[Any]) -> Delivery:
    """A row of `COLUMNS` as what it says."""
    identifier, kind, subscriber_id, subscription_id, sequence_key, round_, step, state, *others = row
    return _delivery(
        Delivery,
        (
            *(identifier, _KINDS[kind], subscriber_id, subscription_id, sequence_key, round_, step, _STATES[state]),
            *others,
        ),
    )


_PLAN = PreparedInsert(
    delivery,
    (
        "id", "kind", "subscriber_id", "subscription_id", "sequence_key", "round", "step", "state",
        "due_at", "next_try_at", "created_at",
    ),
    key=delivery.c.id,
)  # fmt: skip

_delivery = tuple.__new__
_KINDS = {kind.value: kind for kind in Kind}
_STATES = {state.value: state for state in State}


def _one(connection: Connection, condition: ColumnElement[bool]) -> Delivery | None:
    statement: Select[Any] = select(*COLUMNS).where(condition)
    row = connection.execute(statement).one_or_none()
    return None if row is None else to_delivery(row)
