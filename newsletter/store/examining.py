"""Whether an SQLite file is sound, looked at before anything is sent by it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Event, Thread, get_native_id
from typing import Any

from sqlalchemy import Connection

from newsletter.errors import DatabaseUnavailable
from newsletter.store.soundness import MALFORMED, Soundness

_EXAMINED_AT_ONCE_BYTES = 64 * 1024 * 1024
"""A file of this size is gone through in a fifth of a second; one of 5 GB takes a dozen, or minutes on a slow disk."""
_LOWEST_PRIORITY = 19
_END_SECONDS = 1.0


class Examination:
    """One look at all of a file.

    Args:
        read: begins a transaction that reads.
        soundness: is told what was found.
    """

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]], soundness: Soundness) -> None:
        self._read = read
        self._soundness = soundness
        self._is_over = Event()
        self._thread: Thread | None = None
        self._asked: Any = None  # the driver's connection

    def begin(self) -> None:
        """Go through a small file now; a large one beside the work, by a thread that gives way to everybody.

        Raises:
            DatabaseDamaged: it is damaged; the text says how to restore it.
        """
        if self._size_bytes() <= _EXAMINED_AT_ONCE_BYTES:
            self._quick_check("1")
        else:
            self._thread = Thread(target=self._examine_each_table, name="examining", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Stop it, wherever it is. It would keep its connection, and with it the log beside the file."""
        self._is_over.set()
        if self._thread is not None and self._asked is not None:
            self._asked.interrupt()
            self._thread.join(_END_SECONDS)

    def _size_bytes(self) -> int:
        with self._soundness.explained(), self._read() as connection:
            pages, page_bytes = (
                connection.exec_driver_sql(f"PRAGMA page_{each}").scalar_one() for each in ("count", "size")
            )
        return int(pages) * int(page_bytes)

    def _examine_each_table(self) -> None:
        # Table by table: while a transaction reads, SQLite's log cannot be begun anew, and grows.
        _give_way()
        # Damage is known now; and what else there is, others meet as well.
        with contextlib.suppress(DatabaseUnavailable):
            with self._read() as connection:
                names = (
                    connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
                )
            for name in ("sqlite_master", *names):
                if self._is_over.is_set():
                    return
                self._quick_check(f"'{name}'")

    def _quick_check(self, what: str) -> None:
        with self._soundness.explained(), self._read() as connection:
            self._asked = connection.connection.driver_connection
            found = connection.exec_driver_sql(f"PRAGMA quick_check({what})").scalar()
            self._asked = None
            connection.exec_driver_sql("PRAGMA shrink_memory")  # what was read is not what is read next
        if found != "ok":
            raise self._soundness.damaged(f"{MALFORMED} ({str(found).splitlines()[-1].strip()})")


def _give_way() -> None:
    """Let this thread run when nobody else wants to, where a thread can have a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, get_native_id(), _LOWEST_PRIORITY)
