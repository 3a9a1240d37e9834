"""What is forgotten, and when."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from newsletter.service.composing import CONFIRM_WITHIN
from newsletter.service.publishing import Publishing
from newsletter.store import deliveries, revisions, subscriptions
from newsletter.store.database import Database
from newsletter.tokens import TokenSigner

log = structlog.get_logger()

DETAILS_KEPT = timedelta(days=90)
NOTICES_KEPT = timedelta(days=31)
_BATCH = 200


class Housekeeping:
    """Forgets what has had its time, and finishes what was interrupted."""

    def __init__(self, *, database: Database, publishing: Publishing, signer: TokenSigner) -> None:
        self._database = database
        self._publishing = publishing
        self._signer = signer

    def keep_house(self, *, now: datetime) -> None:
        """Erase what was never confirmed, empty old details, finish an interrupted publication."""
        self._publishing.retime(now=now)
        erased = self._erase_unconfirmed(now=now)
        with self._database.write() as connection:
            forgotten = subscriptions.forget_notices(connection, before=now - NOTICES_KEPT)
            emptied = deliveries.empty_old_details(connection, before=now - DETAILS_KEPT)
            revisions.note_signing_key(connection, self._signer.key_id, now=now)
        if erased or forgotten or emptied:
            log.info("house_kept", unconfirmed_erased=erased, notices_forgotten=forgotten, details_emptied=emptied)

    def _erase_unconfirmed(self, *, now: datetime) -> int:
        erased = 0
        while True:
            with self._database.write() as connection:
                page = subscriptions.unconfirmed_since(connection, before=now - CONFIRM_WITHIN, limit=_BATCH)
                for record in page:
                    subscriptions.get_subscriber(connection, record.subscriber_id, lock=True)
                    subscriptions.erase_subscription(connection, record)
            erased += len(page)
            if len(page) < _BATCH:
                return erased
