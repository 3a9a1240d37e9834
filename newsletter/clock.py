"""The only module that reads the time.

Business time (what is due, sent, expired) comes from a `Clock` and is handed down as `now`. Leases are judged
by the database's own clock; the two are never compared.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from newsletter.errors import SettingsError


class Clock(Protocol):
    """Tells business time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""


class SystemClock:
    """Business time is the machine's time."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC."""
        return datetime.now(UTC)


class FileClock:
    """Business time is the ISO 8601 instant in a file, read again each time it is asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def now(self) -> datetime:
        """The instant in the file, in UTC.

        Raises:
            SettingsError: the file is missing or does not hold an instant with an offset.
        """
        try:
            text = self._read()
        except OSError as error:
            message = f"NEWSLETTER_CLOCK: {self.path} cannot be read ({error.strerror}); write an instant into it."
            raise SettingsError(message) from error
        try:
            instant = datetime.fromisoformat(text)
        except ValueError as error:
            message = f"NEWSLETTER_CLOCK: {text!r} in {self.path} is no instant; write 2026-11-26T08:00:00+00:00."
            raise SettingsError(message) from error
        if instant.tzinfo is None:
            message = f"NEWSLETTER_CLOCK: {text!r} in {self.path} has no offset; write {text}+00:00 for UTC."
            raise SettingsError(message)
        return instant.astimezone(UTC)

    def _read(self) -> str:
        """What the file holds; looked at again for a moment while somebody is writing it anew."""
        for _ in range(20):
            text = self.path.read_text(encoding="utf-8").strip()
            if text:
                return text
            time.sleep(0.01)
        return ""


class FixedClock:
    """A clock that somebody else moves: the demo and the tests."""

    def __init__(self, now: datetime) -> None:
        self._now = now.astimezone(UTC)

    def now(self) -> datetime:
        """The instant it was last set to, in UTC."""
        return self._now

    def set(self, now: datetime) -> None:
        """Leap to `now`."""
        self._now = now.astimezone(UTC)
