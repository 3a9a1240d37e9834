"""Procrastinate's tables beside our own, where a fleet runs: their version, and jobs that our transactions defer.

A job holds no truth: it only wakes somebody who looks at the ledger. Procrastinate is in an extra and takes long to
import, so that only who drives a fleet pays for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, func, inspect, literal_column, select, text

from newsletter.errors import DatabaseRefused, DatabaseUnavailable
from newsletter.store.deliveries import LEAVING
from newsletter.store.schema import Fit
from newsletter.store.switches import sending_is_stopped
from newsletter.store.tables import delivery

_MARK = "newsletter: "
_LETTERS_DUE = and_(LEAVING, literal_column("delivery.kind = 'letter'"), ~sending_is_stopped())


def fit(connection: Connection) -> Fit:
    """How Procrastinate's tables in this database stand to the version of it that is installed.

    Raises:
        DatabaseRefused: they are somebody else's.
    """
    if not inspect(connection).has_table("procrastinate_jobs"):
        return Fit.FRESH
    known, found = _migrations(), _version(connection)
    if found not in known:
        return Fit.NEWER
    return Fit.CURRENT if found == known[-1] else Fit.OLDER


def install(connection: Connection) -> None:
    """Make the tables of the installed version, in a database that has none."""
    from procrastinate.schema import SchemaManager  # noqa: PLC0415  (see above)

    _run(connection, SchemaManager.get_schema())
    _note_version(connection, _migrations()[-1])


def pending(connection: Connection) -> list[str]:
    """The migrations that the tables lack, in the order in which they are applied."""
    known = _migrations()
    return known[known.index(_version(connection)) + 1 :]


def migrate(connection: Connection, name: str) -> None:
    """Apply one migration. The next one wants this one committed: PostgreSQL lets a new value of a type rest first."""
    _run(connection, (_folder() / f"{name}.sql").read_text(encoding="utf-8"))
    _note_version(connection, name)


def letters_waiting(connection: Connection, *, now: datetime, limit: int) -> int:
    """How many letters are due and in nobody's hands, counted to `limit`; none while sending is stopped."""
    some = select(delivery.c.id).where(_LETTERS_DUE, delivery.c.next_try_at <= now).limit(limit)
    return connection.scalar(select(func.count()).select_from(some.subquery())) or 0


def defer(connection: Connection, task: str, *, queue: str, locks: Iterable[str]) -> int:
    """Defer a job for each of some queueing locks, in the transaction that `connection` is in.

    Returns:
        How many; a lock under which a job is waiting already gets no second one.
    """
    from procrastinate import App, SyncPsycopgConnector, exceptions  # noqa: PLC0415  (see above)

    waiting = text("SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = :queue")
    taken = set(connection.scalars(waiting, {"queue": queue}))
    # It is never opened: the jobs go over the connection of our own transaction.
    jobs = App(connector=SyncPsycopgConnector())
    deferred = 0
    for lock in locks:
        if lock in taken:
            continue
        # Somebody may be quicker, and a broken unique key would break our transaction.
        try:
            with contextlib.suppress(exceptions.AlreadyEnqueued), connection.begin_nested():
                jobs.configure_task(task, queue=queue, queueing_lock=lock, connection=_driver(connection)).defer()
                deferred += 1
        except exceptions.ConnectorException as error:
            message = f"No job could be deferred: {error.__cause__ or error}."
            raise DatabaseUnavailable(message) from error
    return deferred


def _folder() -> Path:
    from procrastinate.schema import SchemaManager  # noqa: PLC0415  (see above)

    return Path(SchemaManager.get_migrations_path())


def _migrations() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.sql"))


def _version(connection: Connection) -> str:
    """The last migration that was applied: Procrastinate keeps no record of it, so we write it beside its table."""
    comment = connection.scalar(text("SELECT obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"))
    if comment is None or not comment.startswith(_MARK):
        message = (
            "The database holds Procrastinate tables of another program."
            " Give the newsletter a database of its own to run a fleet on."
        )
        raise DatabaseRefused(message)
    return str(comment.removeprefix(_MARK))


def _note_version(connection: Connection, name: str) -> None:
    _run(connection, f"COMMENT ON TABLE procrastinate_jobs IS '{_MARK}{name}'")


def _run(connection: Connection, script: str) -> None:
    """Several statements at once: the driver takes them where there are no parameters to look for."""
    connection.exec_driver_sql(script, execution_options={"no_parameters": True})


def _driver(connection: Connection) -> Any:  # noqa: ANN401  (psycopg's connection; psycopg is in an extra)
    return connection.connection.driver_connection
