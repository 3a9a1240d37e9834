"""Goes through an SQLite file when nobody else wants the processor, and prints what is wrong with it.

A program of its own and not a thread: in one process a thread that gives way to everybody may hold what they all wait
for, such as SQLite's allocator, and took a quarter of the sending. Run by its path, with the standard library alone, so
that its start costs next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def look_through(file: str) -> str:
    """What is wrong with a file, in SQLite's words; nothing where it is sound, or nobody can tell."""
    try:
        connection = sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=ro", uri=True)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        # Table by table: while a transaction reads, SQLite's log cannot be begun anew, and grows.
        for name in ("sqlite_master", *names):
            found = str(connection.execute(f"PRAGMA quick_check('{name}')").fetchone()[0])
            if found != "ok":
                return found.splitlines()[-1].strip()
    except sqlite3.Error as error:
        # The low byte is the code itself, the others say more about it.
        return str(error) if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE else ""
    return ""


def _give_way() -> None:
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        return
    os.nice(19)


if __name__ == "__main__":
    _give_way()
    sys.stdout.write(look_through(sys.argv[1]))
