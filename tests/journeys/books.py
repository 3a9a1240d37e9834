"""The program's books, looked at from the side: what stands in the database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, func, select

from newsletter.store import tables
from newsletter.store.database import Database

# What a living worker writes all the time, whatever anybody asks for.
_HEARTBEATS = ("worker", "signing_key")


class Books:
    """Reads one database. It must have been migrated."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, pool_size=1)

    def close(self) -> None:
        """Let go of it."""
        self._database.close()

    def everything(self) -> dict[str, list[str]]:
        """All that is written anywhere but heartbeats, to be compared."""
        with self._database.read() as connection:
            return {
                table.name: sorted(repr(tuple(row)) for row in connection.execute(select(table)))
                for table in tables.metadata.sorted_tables
                if table.name not in _HEARTBEATS
            }

    def deliveries(self, **wanted: str) -> list[Row[Any]]:
        """The ledger's letters, or its rows with other values, in order of id."""
        table = tables.delivery
        chosen = select(table).filter_by(**{"kind": "letter", **wanted}).order_by(table.c.id)
        with self._database.read() as connection:
            return list(connection.execute(chosen))

    def addresses(self) -> dict[Any, str]:
        """The address of each subscriber, by id."""
        with self._database.read() as connection:
            rows = connection.execute(select(tables.subscriber.c.id, tables.subscriber.c.address))
            return {row.id: row.address for row in rows}

    def count(self, *states: str) -> int:
        """How many emails are in one of these states."""
        table = tables.delivery
        with self._database.read() as connection:
            chosen = select(func.count()).select_from(table).where(table.c.state.in_(states))
            return connection.scalar(chosen) or 0

    def workers(self) -> int:
        """How many workers are entered."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(tables.worker)) or 0

    def suppressed(self) -> int:
        """How many addresses are suppressed."""
        with self._database.read() as connection:
            return connection.scalar(select(func.count()).select_from(tables.suppression)) or 0

    def revision(self) -> int | None:
        """The number of the live revision."""
        with self._database.read() as connection:
            return connection.scalar(select(func.max(tables.revision.c.number)))


def repeated(items: Iterable[str]) -> dict[str, int]:
    """How often each item occurs that occurs more than once."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return {item: count for item, count in counts.items() if count > 1}
