"""How connections are opened, and what each is told first."""

from __future__ import annotations

import sqlite3
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from newsletter.errors import SettingsError
from newsletter.store.prepared import fetch

_BUSY_TIMEOUT_MS = 30_000
_CACHE_KIB = 8 * 1024
"""What SQLite keeps of the file: as many pages as all letters on their way need, so that none is read twice."""
_CHECKPOINT_PAGES = 64 * 1024
_LOG_KEPT_BYTES = 64 * 1024 * 1024
"""SQLite's log grows to 256 MB before it is written back, and to 64 MB it is cut down afterwards. Each letter changes
a page of its own somewhere in a large file: written back every 4 MB, as is usual, that kept the sending waiting for a
third of the time. Most mornings the log holds all that is due, and is written back once."""
_LONGEST_SILENCE = timedelta(seconds=60)
"""What a connection that fell silent within a transaction had locked is let go of, as soon as its lease is over."""
_NOTICE_A_DEAD_SERVER = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Seconds, the last one milliseconds: without them a worker that is cut off waits for hours, by the system's rules."""
_POOLED: dict[str, Any] = {
    "hide_parameters": True,
    "max_overflow": 20,
    # The connection that was used last is used next: it has its statements prepared, and on SQLite what it read and
    # wrote is still true. Taken in turns, each one reads again what the others have changed.
    "pool_use_lifo": True,
}
WRITES = "writes"
"""What a connection's `info` says of the transaction that begins next."""


def parse_url(text_url: str) -> URL:
    """A database's address, with the drivers that we use.

    Raises:
        SettingsError: it cannot work.
    """
    try:
        url = make_url(text_url)
    except ArgumentError as error:
        message = "NEWSLETTER_DATABASE_URL is no database address; write sqlite:///newsletter.db or postgresql://…"
        raise SettingsError(message) from error
    match url.get_backend_name():
        case "sqlite" if url.database in (None, "", ":memory:"):
            message = "NEWSLETTER_DATABASE_URL names no file; write sqlite:///newsletter.db"
            raise SettingsError(message)
        case "sqlite":
            return url.set(drivername="sqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case other:
            message = f"NEWSLETTER_DATABASE_URL: {other} is not supported; write sqlite:///… or postgresql://…"
            raise SettingsError(message)


def open_engine(url: URL, *, pool_size: int) -> Engine:
    """Where connections come from; none is opened yet.

    Raises:
        SettingsError: a package is missing.
    """
    if url.get_backend_name() == "sqlite":
        timeout = {"timeout": _BUSY_TIMEOUT_MS / 1000}
        engine = create_engine(url, **_POOLED, pool_size=pool_size, connect_args=timeout)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # Whatever the operator's own address says of these counts.
    timeouts = {name: value for name, value in _NOTICE_A_DEAD_SERVER.items() if name not in url.query}
    try:
        engine = create_engine(url, **_POOLED, pool_size=pool_size, pool_pre_ping=True, connect_args=timeouts)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        message = "PostgreSQL needs one more package: install `newsletter[postgres]`."
        raise SettingsError(message) from error
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:  # noqa: ANN401  (SQLAlchemy's hook)
    # The driver must not begin transactions of its own: `_begin_sqlite` does.
    connection.isolation_level = None
    cursor = connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        _keep_a_log(cursor)
        for pragma in (
            # With NORMAL a power cut could undo an unsubscribe that was already answered.
            "synchronous = FULL",
            "foreign_keys = ON",
            "secure_delete = ON",
            # What a statement sets aside stays out of files, which would take longer and hold what is erased.
            "temp_store = MEMORY",
            f"cache_size = -{_CACHE_KIB}",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_LOG_KEPT_BYTES}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        # The pool never gets to know a connection that could not be prepared.
        connection.close()
        raise
    cursor.close()


def _prepare_postgres(connection: Any, _record: Any) -> None:  # noqa: ANN401  (SQLAlchemy's hook)
    try:
        # A frozen or cut off process keeps its row locks for as long as the server believes in it.
        milliseconds = int(_LONGEST_SILENCE.total_seconds() * 1000)
        connection.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
        # What is worked on lies in memory. As for a turning disk, a few rows of a table of some thousands would not be
        # looked up by their keys: the whole table would be read, for each group of letters.
        connection.execute("SET random_page_cost = 1.1")
        connection.commit()
    except BaseException:
        # The pool never gets to know a connection that could not be prepared.
        connection.close()
        raise


def _keep_a_log(cursor: sqlite3.Cursor) -> None:
    """Switch the file to its write-ahead log, once for all; SQLite itself does not wait for whoever does the same."""
    give_up_at = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The low byte is the code itself, the others say more about it.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    fetch(connection, "BEGIN IMMEDIATE" if connection.info.get(WRITES) else "BEGIN", ())
