"""What is remembered of destinations and of a warm-up, for all workers together.

Whoever changes a destination has locked its row before: the mail server's first, then all its domains at once, so
that nobody waits for somebody who waits for them. These rows come after all others of a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    delete,
    exists,
    literal_column,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from newsletter.domain.destination import RELAY, Destination
from newsletter.domain.rates import Line, Progress
from newsletter.store.deliveries import LEAVING
from newsletter.store.statements import insert_or_nothing
from newsletter.store.tables import TROUBLED, delivery, destination, subscriber, warm_up
from newsletter.store.types import DatabaseNow

# Written out, so that both databases see that the partial index serves.
_TROUBLED: ColumnElement[bool] = literal_column(f"({TROUBLED})")
_COLUMNS = [column for column in destination.columns if column.name != "name"]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Whether any destination has to be minded: the mail server, and any domain."""

    relay: bool
    domains: bool


def find_trouble(connection: Connection) -> Trouble:
    """Look whether any destination has to be minded."""
    row = connection.execute(_FIND_TROUBLE).one()
    return Trouble(relay=bool(row.relay), domains=bool(row.domains))


def list_kept_back(connection: Connection, *, limit: int) -> list[Destination]:
    """Destinations that are slowed, or whose circuit is open: the mail server first, then those that are open."""
    order = (destination.c.name != RELAY, destination.c.opened_at.is_(None), destination.c.level.desc())
    kept = or_(destination.c.opened_at.is_not(None), destination.c.level > 0)
    statement = select(destination).where(_TROUBLED, kept).order_by(*order, destination.c.name).limit(limit)
    return [_to_destination(row) for row in connection.execute(statement)]


def lock_destinations(
    connection: Connection, names: Collection[str], *, create: Collection[str] = ()
) -> tuple[dict[str, Destination], datetime]:
    """Lock what is known of some destinations.

    Args:
        create: those of them that become known now, where they are not.

    Returns:
        The known ones by name, and the present instant by the database's clock.
    """
    found: dict[str, Destination] = {}
    for those in ({RELAY} & set(names), set(names) - {RELAY}):
        # Nobody has locked a row of these when they insert one: somebody else may be inserting the same.
        for name in sorted((those & set(create)) - _known(connection, those & set(create))):
            insert_or_nothing(connection, destination, {"name": name})
        found |= _locked(connection, those)
    return found, database_now(connection)


def save_destinations(connection: Connection, changed: Iterable[Destination]) -> None:
    """Write down destinations that were locked in this transaction."""
    rows = [{"b_name": each.name, **_values(each)} for each in changed]
    if rows:
        connection.execute(_SAVE, rows)


def forget_destinations(connection: Connection, *, calm_for: timedelta, troubled_for: timedelta) -> int:
    """Forget destinations with no open circuit that are without trouble and without letters, or were not heard of."""
    calm = and_(
        not_(_TROUBLED),
        or_(destination.c.free_at.is_(None), destination.c.free_at < DatabaseNow(-calm_for)),
        or_(destination.c.queued_until.is_(None), destination.c.queued_until < DatabaseNow(-calm_for)),
    )
    unheard = destination.c.changed_at < DatabaseNow(-troubled_for)
    forgotten = select(destination.c.name).where(destination.c.opened_at.is_(None), or_(calm, unheard))
    # What somebody is at work on is forgotten another time.
    names = forgotten.with_for_update(skip_locked=True).scalar_subquery()
    return connection.execute(delete(destination).where(destination.c.name.in_(names))).rowcount


def somebody_queues(connection: Connection) -> bool:
    """Whether any letter waits for its turn at a destination, and for nothing else."""
    statement = select(destination.c.name).where(destination.c.queued_until > DatabaseNow()).limit(1)
    return connection.execute(statement).first() is not None


def database_now(connection: Connection) -> datetime:
    """The present instant by the database's own clock."""
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


# Letters that need not wait any longer


def bring_forward(connection: Connection, domain: str, *, now: datetime) -> int:
    """Let everything that is due and was put off to later, for readers at a domain, be tried now; how many."""
    theirs = select(subscriber.c.id).where(subscriber.c.address_key.endswith(f"@{domain}", autoescape=True))
    statement = (
        update(delivery)
        .where(LEAVING, delivery.c.next_try_at > now, delivery.c.due_at <= now, delivery.c.subscriber_id.in_(theirs))
        .values(next_try_at=now)
    )
    return connection.execute(statement).rowcount


# The warm-up


def warm_up_progress(connection: Connection, plan: str, *, lock: bool = False) -> Progress | None:
    """How far a plan has come; None where nothing was sent under it."""
    statement = select(warm_up).where(warm_up.c.plan == plan)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    return None if row is None else Progress(day=row.day, on=row.local_date, sent=row.sent)


def begin_warm_up(connection: Connection, plan: str, *, on: date) -> None:
    """Make sure that a plan has begun, so that its row can be locked."""
    insert_or_nothing(connection, warm_up, {"plan": plan, "day": 1, "local_date": on, "sent": 0})


def save_warm_up(connection: Connection, plan: str, progress: Progress) -> None:
    """Write down how far a plan has come; its row was locked in this transaction."""
    values = {"day": progress.day, "local_date": progress.on, "sent": progress.sent}
    connection.execute(update(warm_up).where(warm_up.c.plan == plan).values(values))


def _known(connection: Connection, names: Collection[str]) -> set[str]:
    if not names:
        return set()
    return set(connection.scalars(select(destination.c.name).where(destination.c.name.in_(names))))


def _locked(connection: Connection, names: Collection[str]) -> dict[str, Destination]:
    if not names:
        return {}
    statement = select(destination).where(destination.c.name.in_(names)).order_by(destination.c.name)
    return {row.name: _to_destination(row) for row in connection.execute(statement.with_for_update())}


def _to_destination(row: Any) -> Destination:  # noqa: ANN401  (a row of the table)
    values = dict(row._mapping)
    line = Line(free_at=values.pop("free_at"), queued_until=values.pop("queued_until"))
    return Destination(line=line, **values)


def _values(each: Destination) -> dict[str, Any]:
    line = {"free_at": each.line.free_at, "queued_until": each.line.queued_until}
    return line | {column.name: getattr(each, column.name) for column in _COLUMNS if column.name not in line}


_NOW = select(DatabaseNow())
_FIND_TROUBLE = select(
    exists().where(_TROUBLED, destination.c.name == RELAY).label("relay"),
    exists().where(_TROUBLED, destination.c.name != RELAY).label("domains"),
)
_SAVE = (
    update(destination)
    .where(destination.c.name == bindparam("b_name"))
    .values({column.name: bindparam(column.name) for column in _COLUMNS})
)
