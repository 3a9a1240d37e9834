"""Transactions, and that the schema fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction, text
from sqlalchemy.exc import IntegrityError

from newsletter.errors import DatabaseRefused
from newsletter.store import schema
from newsletter.store.engines import WRITES, open_engine, parse_url
from newsletter.store.examining import Examination
from newsletter.store.remains import empty_log
from newsletter.store.schema import Fit
from newsletter.store.soundness import Soundness, shown

__all__ = ["Conflict", "Connection", "Database"]

Conflict = IntegrityError
"""What a statement raises that would break a unique key or a check."""

_MIGRATION_LOCK = 0x6E657773  # "news": one process migrates at a time


class Database:
    """One database, SQLite or PostgreSQL.

    Args:
        url: `sqlite:///file` or `postgresql://user:password@host/name`.
        pool_size: connections kept open; lanes that send share one.

    Attributes:
        soundness: whether anything has found it damaged.

    Raises:
        SettingsError: the URL cannot work.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = open_engine(self.url, pool_size=pool_size)
        self.soundness = Soundness(self.url)
        self._examination = Examination(self.read, self.soundness)

    @contextmanager
    def read(self, *, line: Line | None = None) -> Iterator[Connection]:
        """A transaction that only reads; on SQLite it waits for no writer.

        Args:
            line: where the connection comes from, for one who has a transaction after the other. On PostgreSQL each
                statement is then a transaction of its own, which sees the same rows and spares two messages.
        """
        alone = line is not None and not self.is_sqlite
        with (
            self.soundness.translated(),
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
        with self.soundness.translated(), self._lent(line) as connection, _writing(connection, settle=settle):
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
        with self.soundness.translated(), self._engine.connect() as connection:
            return empty_log(connection)

    def close(self) -> None:
        """Close every connection."""
        self._examination.end()
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
        with self.soundness.explained(), self._engine.connect() as connection:
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
                message = f"The database {shown(self.url)} is empty. Run `newsletter db upgrade` first."
                raise DatabaseRefused(message)
            case Fit.OLDER:
                message = f"The database {shown(self.url)} is older than this program. Run `newsletter db upgrade`."
                raise DatabaseRefused(message)

    def examine(self) -> None:
        """Make sure that a file is sound before anything is sent by it. PostgreSQL looks after its own.

        A large one is gone through beside the work; `soundness` tells what is found then.

        Raises:
            DatabaseDamaged: it is not; the text says how to restore it.
        """
        if self.is_sqlite:
            self._examination.begin()

    def _migrate(self, connection: Connection) -> bool:
        if self._judge(schema.version(connection)) is Fit.CURRENT:
            return False
        schema.migrate(connection)
        return True

    def _version(self) -> str | None:
        with self.soundness.explained(), self._engine.connect() as connection:
            return schema.version(connection)

    def _judge(self, version: str | None) -> Fit:
        fit = schema.judge(version)
        if fit is Fit.NEWER:
            message = (
                f"The database {shown(self.url)} is newer than this program (schema {version})."
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
    connection.info[WRITES] = True
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
            connection.info[WRITES] = False


def _commit(transaction: RootTransaction) -> None:
    try:
        transaction.commit()
    except BaseException:
        # SQLite's transaction goes on, with its lock, when the commit has failed; SQLAlchemy takes it for ended and
        # would hand the connection to the next who asks.
        if not transaction.connection.invalidated:
            transaction.connection.invalidate()
        raise
