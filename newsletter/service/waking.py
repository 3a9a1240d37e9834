"""Waking the hosts of a fleet: jobs that say that letters are due, and the tables that these jobs lie in.

Which letters they are stands in the ledger alone. A job too many finds nothing to do; for a job too few the next
tick makes up.
"""

from __future__ import annotations

import importlib.util
from datetime import datetime
from math import ceil

from newsletter.errors import DatabaseRefused, SettingsError
from newsletter.service.stock import CLAIM_BATCH
from newsletter.store import jobs, workers
from newsletter.store.database import Connection, Database
from newsletter.store.schema import Fit

SEND_LETTERS = "newsletter:send-letters"
LETTERS = "newsletter-letters"
"""The queue of the jobs that wake those who send letters."""


class Waking:
    """Defers jobs, and sees to the tables of Procrastinate."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    def prepare(self) -> None:
        """Make sure that this database can carry a fleet; the first process of the first fleet makes the tables.

        Raises:
            SettingsError: it is no PostgreSQL, or the extra is missing.
            DatabaseRefused: the tables are older, newer or somebody else's; the text says what to do.
        """
        if self._database.is_sqlite:
            message = (
                "A fleet needs PostgreSQL: set NEWSLETTER_DATABASE_URL=postgresql://…"
                " On one machine `newsletter worker` sends, on SQLite too."
            )
            raise SettingsError(message)
        _check_extra()
        with self._database.read() as connection:
            found = jobs.fit(connection)
        if found is Fit.FRESH:
            with self._database.migrating() as connection:
                # Another host may have been quicker.
                if jobs.fit(connection) is Fit.FRESH:
                    jobs.install(connection)
        elif found is not Fit.CURRENT:
            _refuse(found)

    def upgrade(self) -> bool:
        """Bring the tables to the version of Procrastinate that is installed, where a fleet has ever run.

        Returns:
            Whether anything was done.

        Raises:
            DatabaseRefused: they are newer, or somebody else's.
        """
        if self._database.is_sqlite or importlib.util.find_spec("procrastinate") is None:
            return False
        with self._database.migrating() as connection:
            match jobs.fit(connection):
                case Fit.NEWER:
                    _refuse(Fit.NEWER)
                case Fit.OLDER:
                    for name in jobs.pending(connection):
                        jobs.migrate(connection, name)
                        connection.commit()
                    return True
        return False

    def wake(self, *, now: datetime) -> int:
        """Wake as many processes as there is work for; how many jobs were deferred."""
        with self._database.write() as connection:
            return self.wake_with(connection, now=now)

    def wake_with(self, connection: Connection, *, now: datetime) -> int:
        """The same in a transaction that makes letters due: both come to be, or neither does."""
        most = workers.count_living(connection)
        waiting = jobs.letters_waiting(connection, now=now, limit=most * CLAIM_BATCH)
        locks = [f"{LETTERS}-{number}" for number in range(min(most, ceil(waiting / CLAIM_BATCH)))]
        return jobs.defer(connection, SEND_LETTERS, queue=LETTERS, locks=locks) if locks else 0


def _check_extra() -> None:
    if importlib.util.find_spec("procrastinate") is None:
        message = "A fleet needs one more package: install `newsletter[postgres]`."
        raise SettingsError(message)


def _refuse(found: Fit) -> None:
    message = {
        Fit.OLDER: "The tables of the fleet's jobs are older than this program. Stop the fleet, run"
        " `newsletter db upgrade`, and start it again.",
        Fit.NEWER: "The tables of the fleet's jobs were made by a newer version of Procrastinate."
        " Install on every host what `requirements.lock` of that version names.",
    }
    raise DatabaseRefused(message[found])
