"""What SQLite still holds of what was erased, and how it goes.

Deleted content is overwritten in the file, but the log beside it keeps the pages as they were until it is begun anew,
which may take weeks. So whoever erases leaves a mark in the file, in the same transaction, and whoever runs empties
the log where there is one. A mark outlives the process that left it.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection

from newsletter.store.prepared import fetch

_PATIENCE_MS = 200
"""Whoever wants to write waits meanwhile, also where somebody's long reading is in the way; so it is tried again."""


def leave_mark(connection: Connection) -> None:
    """Say that the log holds what this transaction erases. PostgreSQL needs no mark: its log is not ours to empty."""
    if connection.dialect.name == "sqlite":
        # By chance: who empties the log can tell whether anything was erased while they did.
        fetch(connection, f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}", ())


def empty_log(connection: Connection) -> bool:
    """Write SQLite's log back and cut it down to nothing, if there is a mark; not within a transaction.

    Returns:
        Whether nothing that was erased is left in it; False where others were in the way.
    """
    mark = _number(connection, "user_version")
    if mark == 0:
        return True
    # The most of it, while everybody else reads and writes.
    fetch(connection, "PRAGMA wal_checkpoint(PASSIVE)", ())
    usual = _number(connection, "busy_timeout")
    _number(connection, f"busy_timeout = {_PATIENCE_MS}")
    try:
        was_busy = _number(connection, "wal_checkpoint(TRUNCATE)")
    finally:
        _number(connection, f"busy_timeout = {usual}")
    if was_busy:
        return False
    fetch(connection, "BEGIN IMMEDIATE", ())
    is_same = _number(connection, "user_version") == mark
    if is_same:
        fetch(connection, "PRAGMA user_version = 0", ())
    fetch(connection, "COMMIT", ())
    return is_same


def _number(connection: Connection, pragma: str) -> int:
    (first, *_) = fetch(connection, f"PRAGMA {pragma}", ())[0]
    return int(first)
