"""Whether an SQLite file is sound, looked at before anything is sent by it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread

from sqlalchemy import Connection

from newsletter.store.soundness import MALFORMED, Soundness

_EXAMINED_AT_ONCE_BYTES = 64 * 1024 * 1024
"""A file of this size is gone through in a fifth of a second; one of 5 GB takes a dozen, or minutes on a slow disk."""

_PROGRAM = Path(__file__).with_name("look_through.py")


class Examination:
    """One look at all of a file.

    Args:
        read: begins a transaction that reads.
        soundness: is told what was found.
    """

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]], soundness: Soundness) -> None:
        self._read = read
        self._soundness = soundness
        self._looking: subprocess.Popen[str] | None = None
        self._waiting: Thread | None = None

    def begin(self) -> None:
        """Go through a small file now; a large one beside the work, by a process that gives way to everybody.

        Raises:
            DatabaseDamaged: it is damaged; the text says how to restore it.
        """
        with self._soundness.explained(), self._read() as connection:
            size = _number(connection, "page_count") * _number(connection, "page_size")
            if size <= _EXAMINED_AT_ONCE_BYTES:
                found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
                connection.exec_driver_sql("PRAGMA shrink_memory")  # what was read is not what is read next
                if found != "ok":
                    raise self._damaged(found.splitlines()[-1].strip())
                return
            file = str(connection.exec_driver_sql("PRAGMA database_list").one()[2])
        command = [sys.executable, "-I", str(_PROGRAM), file]
        self._looking = subprocess.Popen(  # noqa: S603  (our own program)
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._waiting = Thread(target=self._wait, args=[self._looking], name="examining", daemon=True)
        self._waiting.start()

    def end(self) -> None:
        """Stop it, wherever it is."""
        if self._looking is not None and self._waiting is not None:
            self._looking.kill()
            self._waiting.join()
            self._looking = self._waiting = None

    def _wait(self, looking: subprocess.Popen[str]) -> None:
        found, _ = looking.communicate()
        if found and looking.returncode == 0:
            self._damaged(found)

    def _damaged(self, found: str) -> Exception:
        return self._soundness.damaged(MALFORMED if found == MALFORMED else f"{MALFORMED} ({found})")


def _number(connection: Connection, pragma: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one())
