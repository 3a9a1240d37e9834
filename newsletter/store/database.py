"""Engines and transactions, and that the schema fits."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from threading import Event, Lock, Thread, get_native_id
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from newsletter.errors import DatabaseDamaged, DatabaseRefused, DatabaseUnavailable, SettingsError
from newsletter.store import schema
from newsletter.store.prepared import fetch
from newsletter.store.remains import empty_log
from newsletter.store.schema import Fit

__all__ = ["Conflict", "Connection", "Database"]

Conflict = IntegrityError
"""What a statement raises that would break a unique key or a check."""

_MIGRATION_LOCK = 0x6E657773  # "news": one process migrates at a time
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
_EXAMINED_AT_ONCE_BYTES = 64 * 1024 * 1024
"""A file of this size is gone through in a fifth of a second; one of 5 GB takes a dozen, or minutes on a slow disk."""
_LOWEST_PRIORITY = 19
_END_SECONDS = 1.0
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MALFORMED = "database disk image is malformed"
_WRITES = "writes"
_WHAT_TO_CHECK = "Check NEWSLETTER_DATABASE_URL, the disk's space and the rights to it."


class Database:
    """One database, SQLite or PostgreSQL.

    Args:
        url: `sqlite:///file` or `postgresql://user:password@host/name`.
        pool_size: connections kept open; lanes that send share one.

    Raises:
        SettingsError: the URL cannot work.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = _parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _open_engine(self.url, pool_size=pool_size)
        self._mutex = Lock()
        self._damage: str | None = None
        self._told_of_damage: list[Callable[[], object]] = []
        self._closed = Event()
        self._examining: Thread | None = None
        self._asked: Any = None  # the connection that examines

    @contextmanager
    def read(self, *, line: Line | None = None) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it waits for no writer.

        Args:
            line: where the connection comes from, for one who has a transaction after the other. On PostgreSQL each
                statement is then a transaction of its own, which sees the same rows and spares two messages.
        """
        alone = line is not None and not self.is_sqlite
        with (
            self._translated(),
            self._lent(line) as connection,
            _each_alone(connection) if alone else nullcontext(),
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def write(
        self, *, line: Line | None = None, settle: Callable[[Callable[[], None]], None] | None = None
    ) -> Iterator[Connection]:
        """A transaction that is committed at the end, or rolled back when anything is raised.

        SQLite takes the write lock at once: a plain BEGIN that reads first would fail instead of waiting.

        Args:
            line: where the connection comes from, for one who has a transaction after the other.
            settle: makes the call that commits, which waits for the disk; in another thread, if it likes.
        """
        with self._translated(), self._lent(line) as connection, _writing(connection, settle=settle):
            yield connection

    @contextmanager
    def _lent(self, line: Line | None) -> Iterator[Connection]:
        with self._engine.connect() if line is None else line.lent(self._engine) as connection:
            yield connection

    def sweep(self) -> bool:
        """Leave nothing of what was erased in SQLite's log.

        Returns:
            Whether nothing is left; False where others were in the way, and it is to be tried again.
        """
        if not self.is_sqlite:
            return True
        with _translated(), self._engine.connect() as connection:
            return empty_log(connection)

    def close(self) -> None:
        """Close every connection."""
        self._closed.set()
        if self._examining is not None and self._asked is not None:
            # Otherwise it would keep its connection, and with it the log beside the file.
            self._asked.interrupt()
            self._examining.join(_END_SECONDS)
        self._engine.dispose()

    def is_fresh(self) -> bool:
        """Whether the database was never migrated."""
        return self._version() is None

    def upgrade(self) -> bool:
        """Bring the schema to this program's version.

        Returns:
            Whether anything was done.

        Raises:
            DatabaseRefused: the schema is newer than this program, or the database cannot be written to.
        """
        with self.migrating() as connection:
            return self._migrate(connection)

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A transaction that changes the schema; whoever else wants to change it waits.

        Raises:
            DatabaseRefused: the database cannot be written to.
        """
        with self._explained(), self._engine.connect() as connection:
            if self.is_sqlite:
                # Whoever else starts on the same file waits for the write lock, and finds it done.
                with _writing(connection, settle=None):
                    yield connection
                return
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
            try:
                yield connection
                connection.commit()
            finally:
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
                connection.commit()

    def driver_arguments(self) -> dict[str, Any]:
        """What PostgreSQL's driver is called with to open a connection, for who has to open one itself."""
        arguments = dict(self._engine.dialect.create_connect_args(self.url)[1])
        arguments.pop("context", None)  # SQLAlchemy's own ways to read and write values
        return arguments

    def check(self) -> None:
        """Make sure that this program and the schema fit.

        Raises:
            DatabaseRefused: the schema is missing, older or newer; the text says what to do.
        """
        match self._judge(self._version()):
            case Fit.FRESH:
                message = f"The database {_shown(self.url)} is empty. Run `newsletter db upgrade` first."
                raise DatabaseRefused(message)
            case Fit.OLDER:
                message = f"The database {_shown(self.url)} is older than this program. Run `newsletter db upgrade`."
                raise DatabaseRefused(message)

    # Damage

    def examine(self) -> None:
        """Make sure that a file is sound before anything is sent by it. PostgreSQL looks after its own.

        A large one is gone through beside the work, by a thread that gives way to everybody; `when_damaged` tells.

        Raises:
            DatabaseDamaged: it is not; the text says how to restore it.
        """
        if not self.is_sqlite:
            return
        if self._size_bytes() <= _EXAMINED_AT_ONCE_BYTES:
            self._quick_check("1")
        else:
            self._examining = Thread(target=self._examine_each_table, name="examining", daemon=True)
            self._examining.start()

    def when_damaged(self, tell: Callable[[], object]) -> None:
        """Have `tell` called, by any thread, when anything finds the database damaged; at once where it is known."""
        with self._mutex:
            is_known = self._damage is not None
            if not is_known:
                self._told_of_damage.append(tell)
        if is_known:
            tell()

    def refuse_damage(self) -> None:
        """End here where anything has found the database damaged.

        Raises:
            DatabaseDamaged: something has.
        """
        if self._damage is not None:
            raise DatabaseDamaged(self._damage)

    def damaged(self, reason: str = _MALFORMED) -> DatabaseDamaged:
        """The database was found damaged: tell whoever wants to know, and make the error that says so."""
        with self._mutex:
            if self._damage is None:
                self._damage = f"The database {_shown(self.url)} cannot be used: {reason}. {_advice(reason)}"
            waiting, self._told_of_damage = self._told_of_damage, []
        for tell in waiting:
            tell()
        return DatabaseDamaged(self._damage)

    def _size_bytes(self) -> int:
        with self._explained(), self.read() as connection:
            pages, page_bytes = (
                connection.exec_driver_sql(f"PRAGMA page_{each}").scalar_one() for each in ("count", "size")
            )
        return int(pages) * int(page_bytes)

    def _examine_each_table(self) -> None:
        # Table by table: while a transaction reads, SQLite's log cannot be begun anew, and grows.
        _give_way()
        # Damage is known now; and what else there is, others meet as well.
        with contextlib.suppress(DatabaseUnavailable):
            with self.read() as connection:
                names = (
                    connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
                )
            for name in ("sqlite_master", *names):
                if self._closed.is_set():
                    return
                self._quick_check(f"'{name}'")

    def _quick_check(self, what: str) -> None:
        with self._explained(), self.read() as connection:
            self._asked = connection.connection.driver_connection
            found = connection.exec_driver_sql(f"PRAGMA quick_check({what})").scalar()
            self._asked = None
        if found != "ok":
            raise self.damaged(f"{_MALFORMED} ({str(found).splitlines()[-1].strip()})")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = _reason(error)
            if _is_damage(error):
                raise self.damaged(reason) from error
            if not isinstance(error, OperationalError | InterfaceError | InternalError):
                raise
            raise DatabaseUnavailable(f"The database cannot be used: {reason}. {_WHAT_TO_CHECK}") from error
        except PoolTimeout as error:
            message = f"The database cannot be used: every connection is busy. {_WHAT_TO_CHECK}"
            raise DatabaseUnavailable(message) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = _reason(error)
            if _is_damage(error):
                raise self.damaged(reason) from error
            message = f"The database {_shown(self.url)} cannot be used: {reason}. {_advice(reason)}"
            raise DatabaseRefused(message) from error
        except UnicodeDecodeError as error:
            # SQLite quotes what it found, and that is not even text; the driver cannot say so.
            raise self.damaged() from error

    # The schema

    def _migrate(self, connection: Connection) -> bool:
        if self._judge(schema.version(connection)) is Fit.CURRENT:
            return False
        schema.migrate(connection)
        return True

    def _version(self) -> str | None:
        with self._explained(), self._engine.connect() as connection:
            return schema.version(connection)

    def _judge(self, version: str | None) -> Fit:
        fit = schema.judge(version)
        if fit is Fit.NEWER:
            message = (
                f"The database {_shown(self.url)} is newer than this program (schema {version})."
                " Install the version of newsletter that made it, or restore a backup."
            )
            raise DatabaseRefused(message)
        return fit


class Line:
    """Keeps a connection from one transaction to the next, for who has many of them every second.

    To take a connection from the pool and to give it back takes as long as a short transaction; and PostgreSQL is
    asked each time whether it is still there. Here it is not: after an error the next transaction has a new one.
    Threads may share it; who comes while the connection is in use has another one.
    """

    def __init__(self) -> None:
        self._kept: list[Connection] = []

    @contextmanager
    def lent(self, engine: Engine) -> Iterator[Connection]:
        """The connection."""
        connection = self._kept.pop() if self._kept else engine.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._kept or connection.invalidated:
            connection.close()
        else:
            self._kept.append(connection)

    def close(self) -> None:
        """Give it back to the pool."""
        while self._kept:
            self._kept.pop().close()


def _parse_url(text_url: str) -> URL:
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


def _open_engine(url: URL, *, pool_size: int) -> Engine:
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
    fetch(connection, "BEGIN IMMEDIATE" if connection.info.get(_WRITES) else "BEGIN", ())


@contextmanager
def _each_alone(connection: Connection) -> Iterator[None]:
    """Let PostgreSQL's driver begin no transaction."""
    driver: Any = connection.connection.driver_connection
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:
            driver.autocommit = False


@contextmanager
def _writing(connection: Connection, *, settle: Callable[[Callable[[], None]], None] | None) -> Iterator[None]:
    connection.info[_WRITES] = True
    try:
        with connection.begin() as transaction:
            yield
            commit = partial(_commit, transaction)
            if settle is None:
                commit()
            else:
                settle(commit)
    finally:
        if not connection.invalidated:
            connection.info[_WRITES] = False


def _commit(transaction: RootTransaction) -> None:
    try:
        transaction.commit()
    except BaseException:
        # SQLite's transaction goes on, with its lock, when the commit has failed; SQLAlchemy takes it for ended and
        # would hand the connection to the next who asks.
        if not transaction.connection.invalidated:
            transaction.connection.invalidate()
        raise


def _reason(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error.orig).__name__


def _is_damage(error: DBAPIError) -> bool:
    # The low byte is the code itself, the others say more about it.
    code: int | None = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def _give_way() -> None:
    """Let this thread run when nobody else wants to, where a thread can have a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _LOWEST_PRIORITY)


def _advice(reason: str) -> str:
    """What to do about a database that cannot be used, by what the driver says of it."""
    return next((advice for words, advice in _ADVICE.items() if words in reason), "Check NEWSLETTER_DATABASE_URL.")


_ADVICE = {
    "malformed": (
        "The file is damaged, and nothing is sent by it: end whatever uses it, remove the files beside it that end in"
        " -wal and -shm, and restore it from a backup."
    ),
    "not a database": "It is another kind of file, or damaged: check NEWSLETTER_DATABASE_URL, or restore a backup.",
    "disk I/O error": "Check that the disk is sound and has space left.",
    "disk is full": "Make space on the disk.",
    "unable to open": "Check NEWSLETTER_DATABASE_URL, and that its folder exists and may be written to.",
    "readonly": "Check that the file and its folder may be written to.",
    "locked": "Another program holds it: end that one, or wait until it is done.",
}
"""By words of SQLite's own."""


def _shown(url: URL) -> str:
    # Without the driver: people wrote postgresql://…
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
