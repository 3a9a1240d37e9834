"""What an operator does to readers and emails by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from uuid import UUID

from newsletter.domain import progress
from newsletter.domain.addresses import parse_address
from newsletter.domain.delivery import Kind, State
from newsletter.domain.subscription import State as SubscriptionState
from newsletter.domain.subscription import SubscriberId, SubscriptionId
from newsletter.errors import NotAllowed, NotFound
from newsletter.service import pausing, progression
from newsletter.service.editions import Edition, Editions
from newsletter.store import deliveries, subscriptions, suppressions, switches
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import TokenSigner


class Overseeing:
    """Held and uncertain emails, the big switch, and pauses on a reader's behalf."""

    def __init__(
        self,
        *,
        database: Database,
        editions: Editions,
        signer: TokenSigner,
    ) -> None:
        self._database = database
        self._editions = editions
        self._signer = signer

    def stop(self, *, now: datetime) -> None:
        """Stop all sending: nothing is claimed or handed over from now on."""
        with self._database.write() as connection:
            switches.set_switch(connection, switches.SENDING, is_on=False, now=now)

    def start(self, *, now: datetime) -> None:
        """Let sending go on."""
        with self._database.write() as connection:
            switches.set_switch(connection, switches.SENDING, is_on=True, now=now)

    def release(self, identifiers: list[UUID] | None, *, now: datetime) -> int:
        """Let held emails be tried again: all whose reader waits, or some.

        A letter that may have arrived once is repeated only when it is named, and only where it was handed over
        once: never more than twice.

        Returns:
            How many.

        Raises:
            NotFound: an id that no email has.
            NotAllowed: an email that is not held, or was handed over twice.
        """
        with self._database.write() as connection:
            if identifiers is None:
                return deliveries.reopen_held(connection, now=now)
            for identifier in identifiers:
                self._release_one(connection, identifier, now=now)
            return len(identifiers)

    def settle(self, identifier: UUID, *, arrived: bool, now: datetime) -> None:
        """Write down what the operator found out about a held or uncertain email.

        Args:
            arrived: it did; otherwise its reader gets that step again at their next slot.

        Raises:
            NotFound: no email has that id.
            NotAllowed: it is neither held nor uncertain.
        """
        with self._database.write() as connection:
            item = self._get(connection, identifier)
            reader = subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
            waited = not item.received
            if item.state not in (State.HELD, State.UNCERTAIN) or not deliveries.settle(
                connection, item, arrived=arrived, now=now
            ):
                message = f"Delivery {identifier} is {item.state}; only a held or uncertain one can be settled."
                raise NotAllowed(message)
            edition = self._editions.live(connection)
            record = subscriptions.get_subscription(connection, item.subscription_id) if item.subscription_id else None
            if item.kind is not Kind.LETTER or reader is None or edition is None or record is None:
                return
            if arrived and waited:
                progression.receive(connection, edition, {record.id: (reader, record)}, [item], now=now)
            elif not arrived and record.round == item.round:
                self._offer_again(connection, edition, reader, record, now=now)

    def pause(self, address: str, *, until: date | None, now: datetime) -> None:
        """Hold a reader's letters until a local date of theirs, or until they are resumed.

        Raises:
            AddressError, NotFound: no such reader.
            InvalidChoice: a date that is past or more than a year away.
            NotAllowed: no letters are coming.
        """
        with self._database.write() as connection:
            pausing.pause_reader(connection, self._reader(connection, address), until=until, now=now)

    def resume(self, address: str, *, now: datetime) -> None:
        """Let a reader's letters come again.

        Raises:
            AddressError, NotFound: no such reader.
            NotAllowed: they were not paused.
        """
        with self._database.write() as connection:
            edition = self._editions.live(connection)
            if not pausing.resume_reader(connection, edition, self._reader(connection, address), now=now):
                raise NotAllowed("This reader is not paused.")

    def _offer_again(
        self, connection: Connection, edition: Edition, reader: Subscriber, record: Subscription, *, now: datetime
    ) -> None:
        """A letter was lost, so its step is next again, also for somebody who had received all the others."""
        grown = progression.grow(connection, reader, record, now=now)
        subscriptions.save_subscription(connection, record, grown)
        if grown.next_due_at is None and grown.id not in deliveries.open_letters(connection, [reader.id]):
            progression.reschedule(connection, edition, reader, grown, now=now)

    def suppression_reason(self, address_key: str) -> str | None:
        """Why nothing may be sent to an address, or None."""
        with self._database.read() as connection:
            return suppressions.suppression_reason(connection, self._signer.address_hashes(address_key))

    def upcoming_steps(self, identifier: SubscriberId) -> dict[SubscriptionId, str | None]:
        """By subscription of a reader: the key of the step that comes next, or None at the end."""
        with self._database.read() as connection:
            edition = self._editions.live(connection)
            if edition is None:
                return {}
            records = subscriptions.subscriptions_of(connection, identifier)
            places = subscriptions.places(connection, records)
        found: dict[SubscriptionId, str | None] = {}
        for record in records:
            place = progress.catch_up(places[record.id], edition.outlines.get(record.sequence_key, ()))
            step = edition.upcoming(record.sequence_key, place)
            found[record.id] = None if step is None else step.key
        return found

    def _reader(self, connection: Connection, address: str) -> Subscriber:
        reader = subscriptions.find_subscriber(connection, address_key=parse_address(address).key, lock=True)
        if reader is None:
            raise NotFound("No subscriber has this address.")
        return reader

    def _get(self, connection: Connection, identifier: UUID) -> Delivery:
        item = deliveries.get_delivery(connection, identifier)
        if item is None:
            message = f"No delivery has the id {identifier}; `newsletter deliveries list` shows them."
            raise NotFound(message)
        return item

    def _release_one(self, connection: Connection, identifier: UUID, *, now: datetime) -> None:
        item = self._get(connection, identifier)
        if item.state is not State.HELD:
            message = f"Delivery {identifier} is {item.state}; only a held one can be released."
            raise NotAllowed(message)
        if not item.received:
            deliveries.reopen_held(connection, now=now, identifiers=[identifier])
            return
        self._make_way(connection, item)
        if not deliveries.repeat_doubtful(connection, item, now=now):
            message = (
                f"Delivery {identifier} was handed over twice and may have arrived; a third time would break the"
                f" promise. Settle it: newsletter deliveries settle {identifier} --arrived, or --lost."
            )
            raise NotAllowed(message)

    def _make_way(self, connection: Connection, item: Delivery) -> None:
        """Let a letter that counted as received be repeated: its reader waits for it once more."""
        subscriptions.get_subscriber(connection, item.subscriber_id, lock=True)
        record = subscriptions.get_subscription(connection, item.subscription_id) if item.subscription_id else None
        if item.kind is not Kind.LETTER or record is None:
            return
        if item.subscription_id in deliveries.open_letters(connection, [item.subscriber_id]):
            message = f"Delivery {item.id}: another letter of this reader is under way; settle this one instead."
            raise NotAllowed(message)
        if record.state is not SubscriptionState.ACTIVE:
            message = f"Delivery {item.id}: its subscription is {record.state}, so nothing leaves; settle it instead."
            raise NotAllowed(message)
        # Its own presumed arrival would hold the repeat back for five days.
        last_letter_at = deliveries.last_accepted_at(connection, record)
        waiting = replace(record, last_letter_at=last_letter_at, next_due_at=None, due_rule=None)
        subscriptions.save_subscription(connection, record, waiting)
