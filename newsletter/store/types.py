"""Column types and SQL expressions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant in UTC; naive input is refused, where SQLite's own type would lose the offset silently."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], object]:
        """To the database: UTC; as text without its zone where the database keeps none."""
        return _instant_to_text if dialect.name == "sqlite" else _instant_in_utc

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:
        """From the database: aware, UTC."""
        del coltype
        return _instant_from_text if dialect.name == "sqlite" else _instant_in_utc


# Most instants of a moment are alike: the letters of a slot are due together, and accepted in one round.


def _instant_in_utc(value: datetime | None) -> datetime | None:
    if value is None or value.tzinfo is UTC:
        return value
    if value.tzinfo is None:
        message = f"{value!r} has no zone; an instant is aware"
        raise ValueError(message)
    return value.astimezone(UTC)


@lru_cache(maxsize=1024)
def _instant_to_text(value: datetime | None) -> str | None:
    instant = _instant_in_utc(value)
    # All of the same length, with six digits behind the point, so that texts compare as instants do.
    return None if instant is None else instant.isoformat(" ", "microseconds")[:_INSTANT_LENGTH]


@lru_cache(maxsize=1024)
def _instant_from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(f"{text}+00:00")


_INSTANT_LENGTH = len("2026-11-23 08:00:00.000000")


class DatabaseNow(FunctionElement[datetime]):
    """The database's own clock, shifted; for leases, which are never judged by business time.

    The shift is a parameter, so that a statement that looks at the clock is compiled once and not every time.
    """

    name = "database_now"
    inherit_cache = True
    type = UtcDateTime()

    def __init__(self, shift: timedelta = timedelta()) -> None:
        super().__init__(shift.total_seconds())


@compiles(DatabaseNow, "sqlite")
def _sqlite_now(element: DatabaseNow, compiler: Any, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's hook)
    shift = compiler.process(element.clauses, **options)
    # Six digits after the point, so that the text compares with what the column type stores.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%+.3f seconds', {shift}))"


@compiles(DatabaseNow, "postgresql")
def _postgresql_now(element: DatabaseNow, compiler: Any, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's hook)
    shift = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => CAST({shift} AS double precision)))"


def ordered_id() -> UUID:
    """A new random id that sorts by the time it was made, so that indexes grow at their end.

    Source: RFC 9562, section 5.7 (UUID version 7).
    """
    milliseconds = time.time_ns() // 1_000_000  # noqa: TID251  (an id, not business time)
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return UUID(int=value | 0b10 << 62 | secrets.randbits(62))
