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
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    # A row count is not told for this statement on every driver; what it returns is.
    statement = make(table).values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None
