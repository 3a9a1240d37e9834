"""What a reader does on their own page: look, change the hour, pause, resume."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta

from newsletter.domain.addresses import mask_address
from newsletter.domain.cadence import local_date
from newsletter.domain.progress import steps_ahead
from newsletter.domain.subscription import OPEN, State
from newsletter.errors import InvalidChoice, TokenExpired
from newsletter.service import pausing, progression
from newsletter.service.choices import Choices
from newsletter.service.editions import Edition, Editions
from newsletter.service.links import LINK_IS_GONE
from newsletter.service.views import PreferencesView, SubscriptionView
from newsletter.store import deliveries, events, subscriptions
from newsletter.store.database import Connection, Database
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import Purpose, TokenSigner


class Staying:
    """A reader's own page and all its buttons."""

    def __init__(self, *, database: Database, editions: Editions, signer: TokenSigner, choices: Choices) -> None:
        self._database = database
        self._editions = editions
        self._signer = signer
        self._choices = choices

    def view(self, token: str, *, now: datetime) -> PreferencesView:
        """What a reader's own page shows; a masked address, and nothing that could be exported.

        Raises:
            TokenForged: no link of ours.
            TokenExpired: called off by the reader, or the reader is gone.
        """
        with self._database.read() as connection:
            reader = self._reader(connection, token, now=now)
            records = [
                record
                for record in subscriptions.subscriptions_of(connection, reader.id)
                if record.state is not State.PENDING
            ]
            edition = self._editions.live(connection)
            views = tuple(self._view(connection, edition, record) for record in records)
        leave_by = next((record for record in records if record.state in OPEN), records[0] if records else None)
        return PreferencesView(
            masked_address=mask_address(reader.address),
            slot=reader.slot,
            country=reader.country,
            discreet=reader.discreet,
            paused=any(record.state is State.PAUSED for record in records),
            paused_until=reader.paused_until,
            subscriptions=views,
            leave_token=self._signer.sign(Purpose.UNSUBSCRIBE, leave_by.id if leave_by else reader.id),
        )

    def change(
        self,
        token: str,
        *,
        weekday: str,
        time: str,
        timezone: str,
        country: str | None,
        discreet: bool,
        now: datetime,
    ) -> None:
        """Another slot, zone, country or mode. Letters that wait are put off to the new slot.

        Raises:
            TokenForged, TokenExpired: as for `view`.
            InvalidChoice: a field that cannot be.
        """
        slot = self._choices.slot(weekday=weekday, time=time, timezone=timezone)
        country = self._choices.country(country)
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            subscriptions.set_reader(connection, reader.id, slot=slot, country=country, discreet=discreet)
            if slot != reader.slot:
                reader = replace(reader, slot=slot)
                events.tell(connection, "slot_changed", subscriber_id=reader.id, now=now, slot=str(slot))
                deliveries.withdraw(connection, subscriber_id=reader.id, reason="another slot", now=now)
                self._retime(connection, reader, now=now)

    def pause(self, token: str, *, weeks: int | None = None, until: date | None = None, now: datetime) -> None:
        """Hold all of a reader's sequences for some weeks or until a local date.

        Raises:
            TokenForged, TokenExpired: as for `view`.
            InvalidChoice: a date that is past or more than a year away.
        """
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            today = local_date(now, reader.slot.timezone)
            if until is None:
                if weeks is None or not 1 <= weeks <= 52:  # noqa: PLR2004  (a year)
                    raise InvalidChoice("Choose a pause of one, two or four weeks, or a date.", field="weeks")
                until = today + timedelta(weeks=weeks)
            pausing.pause_reader(connection, reader, until=until, now=now)

    def resume(self, token: str, *, now: datetime) -> None:
        """End a pause: letters go on where they stopped. Harmless when there is none.

        Raises:
            TokenForged, TokenExpired: as for `view`.
        """
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            pausing.resume_reader(connection, self._editions.live(connection), reader, now=now)

    def _retime(self, connection: Connection, reader: Subscriber, *, now: datetime) -> None:
        edition = self._editions.live(connection)
        held = deliveries.open_letters(connection, [reader.id])
        for record in subscriptions.subscriptions_of(connection, reader.id):
            if edition is None or record.id in held or record.state not in (State.ACTIVE, State.PAUSED):
                continue
            if record.state is State.PAUSED and reader.paused_until is None:
                continue
            progression.reschedule(connection, edition, reader, record, now=now)

    def _reader(self, connection: Connection, token: str, *, now: datetime, lock: bool = False) -> Subscriber:
        opened = self._signer.verify(Purpose.PREFERENCES, token, now=now)
        reader = subscriptions.get_subscriber(connection, opened.id, lock=lock)
        if reader is None or reader.link_generation != opened.generation:
            raise TokenExpired(LINK_IS_GONE)
        return reader

    def _view(self, connection: Connection, edition: Edition | None, record: Subscription) -> SubscriptionView:
        sequence = None if edition is None else edition.revision.sequence(record.sequence_key)
        place = subscriptions.places(connection, [record])[record.id]
        endless = sequence is not None and sequence.endless
        total = None
        if sequence is not None and not endless:
            total = len(place.received) + steps_ahead(sequence, received=place.received, passed=place.passed)
        received = deliveries.letter_totals(connection, record) if endless else len(place.received)
        return SubscriptionView(
            key=record.sequence_key,
            title=record.sequence_key if sequence is None else sequence.title,
            state=record.state,
            next_due_at=record.next_due_at,
            received=received,
            total=total,
            open_ended=endless,
        )
