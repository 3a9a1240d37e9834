"""Workers and their leases, by the database's clock."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete, exists, func, insert, select, update

from newsletter.domain.sharing import share_of
from newsletter.store.deliveries import OWNED
from newsletter.store.tables import delivery, worker
from newsletter.store.types import DatabaseNow


def enrol_worker(connection: Connection, identifier: str, *, host: str, lease: timedelta) -> None:
    """Enter a worker with a lease that runs from now, by the database's clock."""
    connection.execute(
        insert(worker).values(id=identifier, host=host, lease_until=DatabaseNow(lease), started_at=DatabaseNow())
    )


def renew_lease(connection: Connection, identifier: str, *, lease: timedelta) -> bool:
    """Let a worker's lease run anew; False where the worker was struck off."""
    statement = update(worker).where(worker.c.id == identifier).values(lease_until=DatabaseNow(lease))
    return connection.execute(statement).rowcount == 1


def share_connections(connection: Connection, identifier: str, *, most: int, wanted: int, in_use: int) -> int:
    """Say how many connections to the mail server a worker may have beside the others whose lease lives.

    Written down is what it still has, where that is more: nobody is given what another one has not closed. A worker
    that was struck off may have none.
    """
    lives = (worker.c.lease_until >= DatabaseNow()).label("lives")
    # All rows and in their order: two who ask at the same time must not both be given the rest.
    rows = connection.execute(
        select(worker.c.id, worker.c.connections, lives).order_by(worker.c.id).with_for_update()
    ).all()
    own = [row.connections for row in rows if row.id == identifier]
    if not own:
        return 0
    others = [row.connections for row in rows if row.id != identifier and row.lives]
    share = share_of(most, wanted=wanted, others=others)
    held = max(share, min(in_use, own[0]))
    if held != own[0]:
        connection.execute(update(worker).where(worker.c.id == identifier).values(connections=held))
    return share


def strike_off_worker(connection: Connection, identifier: str) -> bool:
    """Remove a worker that has ended, unless it still owns something; whether it is gone."""
    owns = connection.scalar(select(exists().where(OWNED, delivery.c.owner == identifier)))
    if owns:
        return False
    connection.execute(delete(worker).where(worker.c.id == identifier))
    return True


def other_workers(connection: Connection, identifier: str) -> list[tuple[str, bool]]:
    """Every worker but one, and whether its lease has run out by the database's clock."""
    statement = select(worker.c.id, (worker.c.lease_until < DatabaseNow()).label("expired"))
    rows = connection.execute(statement.where(worker.c.id != identifier))
    return [(row.id, bool(row.expired)) for row in rows]


def count_living(connection: Connection) -> int:
    """How many workers have a lease that runs."""
    living = select(func.count()).select_from(worker).where(worker.c.lease_until >= DatabaseNow())
    return connection.scalar(living) or 0
