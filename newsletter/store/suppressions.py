"""What is known of addresses by their keyed hashes alone: nothing may be sent to some, and not too often to any."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime

from sqlalchemy import Connection, delete, select

from newsletter.store.statements import insert_or_nothing
from newsletter.store.tables import notice, suppression


def suppress(connection: Connection, *, address_hash: str, reason: str, now: datetime) -> None:
    """Remember that nothing may be sent to an address."""
    insert_or_nothing(connection, suppression, {"address_hash": address_hash, "reason": reason, "at": now})


def suppression_reason(connection: Connection, address_hashes: Iterable[str]) -> str | None:
    """Why nothing may be sent to an address, or None."""
    statement = select(suppression.c.reason).where(suppression.c.address_hash.in_(list(address_hashes)))
    return connection.scalars(statement).first()


def lift_suppression(connection: Connection, address_hashes: Iterable[str]) -> None:
    """Forget a suppression: the person confirmed that they want letters."""
    connection.execute(delete(suppression).where(suppression.c.address_hash.in_(list(address_hashes))))


def notices_since(connection: Connection, address_hashes: Iterable[str], *, since: datetime) -> list[datetime]:
    """When mails that are not letters were granted to an address, the oldest first."""
    statement = select(notice.c.at).where(notice.c.address_hash.in_(list(address_hashes)), notice.c.at > since)
    return list(connection.scalars(statement.order_by(notice.c.at)))


def add_notice(connection: Connection, *, address_hash: str, local_date: date, now: datetime) -> bool:
    """Count one mail that is not a letter; False where that date already has one."""
    return insert_or_nothing(connection, notice, {"address_hash": address_hash, "local_date": local_date, "at": now})


def forget_notices(connection: Connection, *, before: datetime) -> int:
    """Forget what no longer counts."""
    return connection.execute(delete(notice).where(notice.c.at < before)).rowcount
