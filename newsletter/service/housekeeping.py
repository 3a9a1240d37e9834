"""What is forgotten, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from newsletter.errors import DatabaseUnavailable
from newsletter.service.composing import CONFIRM_WITHIN
from newsletter.service.publishing import Publishing
from newsletter.store import deliveries, destinations, erasing, revisions, subscriptions, suppressions
from newsletter.store.database import Database
from newsletter.tokens import TokenSigner

log = structlog.get_logger()

DETAILS_KEPT = timedelta(days=90)
NOTICES_KEPT = timedelta(days=31)
CALM_FOR = timedelta(days=1)
TROUBLE_KEPT = timedelta(days=7)
"""A destination that was slowed down, or refused us now and then, and of which nothing was heard since."""

_BATCH = 200
_PAUSE_SECONDS = 0.2


class Housekeeping:
    """Forgets what has had its time, and finishes what was interrupted."""

    def __init__(self, *, database: Database, publishing: Publishing, signer: TokenSigner) -> None:
        self._database = database
        self._publishing = publishing
        self._signer = signer

    def keep_house(self, *, now: datetime, stop: Callable[[], bool] = lambda: False) -> None:
        """Erase what was never confirmed, empty old details, finish an interrupted publication.

        Args:
            stop: asked between batches; the rest is done another time.
        """
        try:
            self._publishing.retime(now=now, stop=stop)
        except DatabaseUnavailable:
            raise
        except Exception:
            # One subscription that cannot be moved must not keep the house from being kept.
            log.exception("retiming_failed")
        erased = self._erase_unconfirmed(now=now, stop=stop)
        emptied = self._empty_details(now=now, stop=stop)
        with self._database.write() as connection:
            forgotten = suppressions.forget_notices(connection, before=now - NOTICES_KEPT)
            destinations.forget_destinations(connection, calm_for=CALM_FOR, troubled_for=TROUBLE_KEPT)
            revisions.note_signing_key(connection, self._signer.key_id, now=now)
        if erased or forgotten or emptied:
            log.info("house_kept", unconfirmed_erased=erased, notices_forgotten=forgotten, details_emptied=emptied)
        self.sweep()

    def sweep(self, *, patience: timedelta = timedelta(), stop: Callable[[], bool] = lambda: False) -> bool:
        """Leave nothing of what was erased in SQLite's log. Whoever erases calls it; and everybody who runs, often.

        Args:
            patience: for so long it is tried again where others read or write; a command that ends waits.
            stop: asked before it is tried again.

        Returns:
            Whether nothing is left.
        """
        give_up_at = time.monotonic() + patience.total_seconds()
        while not (done := self._database.sweep()) and time.monotonic() < give_up_at and not stop():
            time.sleep(_PAUSE_SECONDS)
        return done

    def _erase_unconfirmed(self, *, now: datetime, stop: Callable[[], bool]) -> int:
        before, erased = now - CONFIRM_WITHIN, 0
        while not stop():
            with self._database.write() as connection:
                page = subscriptions.unconfirmed_since(connection, before=before, limit=_BATCH)
                for record in sorted(page, key=lambda item: item.subscriber_id):
                    subscriptions.get_subscriber(connection, record.subscriber_id, lock=True)
                    erased += erasing.erase_subscription(connection, record, before=before)
            if len(page) < _BATCH:
                break
        return erased

    def _empty_details(self, *, now: datetime, stop: Callable[[], bool]) -> int:
        emptied = 0
        while not stop():
            with self._database.write() as connection:
                count = deliveries.empty_old_details(connection, before=now - DETAILS_KEPT, limit=_BATCH)
            emptied += count
            if count < _BATCH:
                break
        return emptied
