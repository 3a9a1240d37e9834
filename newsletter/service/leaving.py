"""How people go: everything at once or one sequence, with a link that never expires."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from newsletter.domain.subscription import OPEN
from newsletter.service.editions import Editions
from newsletter.service.links import own_page_token
from newsletter.service.views import LeavingView
from newsletter.store import deliveries, events, subscriptions
from newsletter.store.database import Connection, Database
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import Purpose, TokenSigner


class Leaving:
    """The unsubscribe page, its buttons, and the one click in a mail program."""

    def __init__(self, *, database: Database, editions: Editions, signer: TokenSigner) -> None:
        self._database = database
        self._editions = editions
        self._signer = signer

    def view(self, token: str, *, now: datetime) -> LeavingView:
        """What the page behind an unsubscribe link shows. Looking changes nothing.

        Raises:
            TokenForged: no link of ours. An unsubscribe link never expires.
        """
        identifier = self._signer.verify(Purpose.UNSUBSCRIBE, token, now=now).id
        with self._database.read() as connection:
            reader, record = self._leaver(connection, identifier)
            edition = self._editions.live(connection)
            records = [] if reader is None else subscriptions.subscriptions_of(connection, reader.id)
        staying = [item for item in records if item.state in OPEN]
        sequence = None if edition is None or record is None else edition.revision.sequence(record.sequence_key)
        return LeavingView(
            title=None if sequence is None else sequence.title,
            several=len(staying) > 1,
            gone=not staying,
            preferences_token=None if reader is None else own_page_token(self._signer, reader),
        )

    def leave(self, token: str, *, only_this: bool, now: datetime) -> None:
        """End every subscription of a person, or only the one that the link belongs to.

        Doing it twice, or after everything about the person was erased, is fine. What waits or is claimed is
        withdrawn in the same transaction; only what is in its handover can still leave.

        Raises:
            TokenForged: no link of ours.
        """
        identifier = self._signer.verify(Purpose.UNSUBSCRIBE, token, now=now).id
        with self._database.write() as connection:
            reader, record = self._leaver(connection, identifier, lock=True)
            if reader is None:
                return
            this = record.id if record is not None and only_this else None
            deliveries.withdraw(
                connection, subscriber_id=reader.id, subscription_id=this, letters_only=this is not None,
                reason="left", now=now,
            )  # fmt: skip
            left = [
                item
                for item in subscriptions.subscriptions_of(connection, reader.id)
                if this in (None, item.id) and subscriptions.leave(connection, item)
            ]
            for item in left:
                events.tell(
                    connection, "left", subscriber_id=reader.id, subscription_id=item.id, now=now,
                    sequence=item.sequence_key,
                )  # fmt: skip

    def _leaver(
        self, connection: Connection, identifier: UUID, *, lock: bool = False
    ) -> tuple[Subscriber | None, Subscription | None]:
        record = subscriptions.get_subscription(connection, identifier)
        reader = subscriptions.get_subscriber(connection, record.subscriber_id if record else identifier, lock=lock)
        return reader, record
