"""What a clock that was ahead wrote down, set right once the clock is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from newsletter.service import progression
from newsletter.service.editions import Editions
from newsletter.store import corrections, subscriptions
from newsletter.store.database import Database
from newsletter.store.subscriptions import Subscription

log = structlog.get_logger()

_BATCH = 200
_CLOCKS_DIFFER_BY = timedelta(hours=1)
"""Between the hosts of one installation, at most, where all is well."""
_BELIEVED_AFTER = timedelta(days=1)
"""A clock that went back may be the wrong one: what lies ahead of it is left alone until it has gone on so long."""
_LONGEST_PUT_OFF = timedelta(days=4)
"""No email is put off for longer; one that is was put off by a clock that was ahead."""


class ClockWatch:
    """One process's watch over its clock."""

    def __init__(self, *, database: Database, editions: Editions) -> None:
        self._database = database
        self._editions = editions
        self._latest: datetime | None = None
        self._in_doubt_since: datetime | None = None

    def look(self, *, now: datetime, stop: Callable[[], bool]) -> None:
        """Set right what was written down ahead of the clock, a day after this process began or saw it go back.

        Args:
            stop: asked between batches; the rest is set right another time.
        """
        if self._latest is None or now < self._latest - _CLOCKS_DIFFER_BY:
            self._in_doubt_since = now
        self._latest = now
        since = self._in_doubt_since
        if since is not None and now >= since + _BELIEVED_AFTER:
            self._set_right(since=since, now=now, stop=stop)
            self._in_doubt_since = None

    def _set_right(self, *, since: datetime, now: datetime, stop: Callable[[], bool]) -> None:
        """Take what happened in the future for what happened at `since`: its readers would hear nothing till then."""
        moved, found = 0, _BATCH
        with self._database.write() as connection:
            forward = corrections.bring_forward(connection, tried_after=now + _LONGEST_PUT_OFF, now=now)
        while found == _BATCH and not stop():
            # The look at all subscriptions holds no lock: on SQLite everybody else would wait for it.
            with self._database.read() as connection:
                ahead = corrections.accepted_ahead(connection, of=now + _CLOCKS_DIFFER_BY, limit=_BATCH)
            found = len(ahead)
            moved += self._take_back(ahead, to=since, now=now) if ahead else 0
        if moved or forward:
            log.warning("clock_was_ahead", subscriptions=moved, emails=forward)

    def _take_back(self, ahead: list[Subscription], *, to: datetime, now: datetime) -> int:
        """The last letters of some subscriptions count as accepted then; the next ones are due by that. How many."""
        moved = 0
        with self._database.write() as connection:
            edition = self._editions.live(connection)
            readers = subscriptions.lock_subscribers(connection, {record.subscriber_id for record in ahead})
            # Once more under the lock: somebody else may have set them right.
            for record in subscriptions.get_subscriptions(connection, {record.id for record in ahead}).values():
                reader = readers.get(record.subscriber_id)
                if edition is None or reader is None or record.last_letter_at is None or record.last_letter_at <= now:
                    continue
                right = replace(record, last_letter_at=to)
                subscriptions.save_subscription(connection, record, right)
                if right.next_due_at is not None:
                    progression.reschedule(connection, edition, reader, right, now=now)
                moved += 1
        return moved
