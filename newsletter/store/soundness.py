"""What the driver's errors mean: that the database is away for now, that it cannot be used, or that it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from newsletter.errors import DatabaseDamaged, DatabaseRefused, DatabaseUnavailable

MALFORMED = "database disk image is malformed"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_WHAT_TO_CHECK = "Check NEWSLETTER_DATABASE_URL, the disk's space and the rights to it."


class Soundness:
    """Whether anything has found one database damaged, and who wants to know."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._mutex = Lock()
        self._damage: str | None = None
        self._told_of_damage: list[Callable[[], object]] = []

    def when_damaged(self, tell: Callable[[], object]) -> None:
        """Have `tell` called, by any thread, when anything finds the database damaged; at once where it is known."""
        with self._mutex:
            is_known = self._damage is not None
            if not is_known:
                self._told_of_damage.append(tell)
        if is_known:
            tell()

    def refuse(self) -> None:
        """End here where anything has found the database damaged.

        Raises:
            DatabaseDamaged: something has.
        """
        if self._damage is not None:
            raise DatabaseDamaged(self._damage)

    def damaged(self, reason: str = MALFORMED) -> DatabaseDamaged:
        """The database was found damaged: tell whoever wants to know, and make the error that says so."""
        with self._mutex:
            if self._damage is None:
                self._damage = f"The database {shown(self._url)} cannot be used: {reason}. {_advice(reason)}"
            waiting, self._told_of_damage = self._told_of_damage, []
        for tell in waiting:
            tell()
        return DatabaseDamaged(self._damage)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of a database that is at work."""
        try:
            yield
        except DBAPIError as error:
            reason = self._reason_of(error)
            if not isinstance(error, OperationalError | InterfaceError | InternalError):
                raise
            message = f"The database cannot be used: {reason}. {_advice(reason, otherwise=_WHAT_TO_CHECK)}"
            raise DatabaseUnavailable(message) from error
        except PoolTimeout as error:
            message = f"The database cannot be used: every connection is busy. {_WHAT_TO_CHECK}"
            raise DatabaseUnavailable(message) from error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of a database that is looked at for the first time."""
        try:
            yield
        except DBAPIError as error:
            reason = self._reason_of(error)
            message = f"The database {shown(self._url)} cannot be used: {reason}. {_advice(reason)}"
            raise DatabaseRefused(message) from error
        except UnicodeDecodeError as error:
            # SQLite quotes what it found, and that is not even text; the driver cannot say so.
            raise self.damaged() from error

    def _reason_of(self, error: DBAPIError) -> str:
        """What the driver says of trouble that is no damage; damage is raised from here."""
        reason = _reason(error)
        if _is_damage(error):
            raise self.damaged(reason) from error
        return reason


def _reason(error: DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error.orig).__name__


def _is_damage(error: DBAPIError) -> bool:
    # The low byte is the code itself, the others say more about it.
    code: int | None = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGE


def _advice(reason: str, *, otherwise: str = "Check NEWSLETTER_DATABASE_URL.") -> str:
    """What to do about a database that cannot be used, by what the driver says of it."""
    return next((advice for words, advice in _ADVICE.items() if words in reason), otherwise)


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
    "read-only transaction": "It is a standby, or set to read only: name the primary in NEWSLETTER_DATABASE_URL.",
    "No space left": "Make space on the disk of the database.",
    "locked": "Another program holds it: end that one, or wait until it is done.",
}
"""By words of SQLite's and PostgreSQL's own."""


def shown(url: URL) -> str:
    """A database's address for a person, without its password."""
    # Without the driver: people wrote postgresql://…
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
