"""Statements whose construct differs between the databases though their text does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or_nothing(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one of its unique keys is taken.

    Returns:
        Whether it was inserted.
    """
    if connection.dialect.name == "sqlite":
        inserted = connection.execute(sqlite.insert(table).values(values).on_conflict_do_nothing())
    else:
        inserted = connection.execute(postgresql.insert(table).values(values).on_conflict_do_nothing())
    return inserted.rowcount == 1
