"""How people come, change their mind, rest and go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from newsletter.domain.addresses import Address, mask_address, parse_address
from newsletter.domain.cadence import Slot, known_timezone, min_gap, next_due
from newsletter.domain.delivery import Kind
from newsletter.domain.progress import steps_ahead
from newsletter.domain.sequence import FALLBACK_COUNTRY, Finish, HelpLine, Sequence, Start
from newsletter.domain.subscription import Action, State, after
from newsletter.errors import InvalidChoice, NotAllowed, NotFound, TokenExpired
from newsletter.service import pausing, progression
from newsletter.service.composing import CONFIRM_WITHIN
from newsletter.service.editions import Edition, Editions
from newsletter.service.views import ConfirmationView, LeavingView, Offer, PreferencesView, SubscriptionView
from newsletter.store import deliveries, subscriptions
from newsletter.store.database import Conflict, Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import Purpose, TokenSigner

CONSENT_TEXT = "2026-11"
"""The wording of the form that a person agreed to; changes with it."""

MAILS_A_DAY = 1
MAILS_IN_30_DAYS = 3
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, kw_only=True)
class SignUp:
    """What somebody typed into the form; None or empty where they chose nothing."""

    email: str
    sequence: str | None = None
    timezone: str | None = None
    weekday: str | None = None
    time: str | None = None
    country: str | None = None
    discreet: bool = False


class Subscribing:
    """Everything a reader does.

    Args:
        default_slot: the site's own slot.
        default_sequence: the sequence that the form offers first.
    """

    def __init__(
        self,
        *,
        database: Database,
        editions: Editions,
        signer: TokenSigner,
        default_slot: Slot,
        default_sequence: str,
    ) -> None:
        self._database = database
        self._editions = editions
        self._signer = signer
        self._default_slot = default_slot
        self._default_sequence = default_sequence

    # What the form needs

    def offers(self) -> tuple[Offer, ...]:
        """What the form offers, the default first; nothing while nothing is published."""
        with self._database.read() as connection:
            edition = self._editions.live(connection)
        if edition is None:
            return ()
        sequences = sorted(edition.revision.sequences, key=lambda item: item.key != self._default_sequence)
        return tuple(
            Offer(
                key=sequence.key,
                title=sequence.title,
                description=sequence.description,
                expect=sequence.expect,
                count=None if _is_endless(sequence) else len(sequence.steps),
                selected=index == 0,
            )
            for index, sequence in enumerate(sequences)
        )

    def help_lines(self) -> dict[str, tuple[HelpLine, ...]]:
        """The published help lines, by country; "*" is the international fallback."""
        with self._database.read() as connection:
            edition = self._editions.live(connection)
        return {} if edition is None else dict(edition.revision.help_lines)

    def countries(self) -> tuple[str, ...]:
        """The countries that have help lines of their own."""
        return tuple(sorted(set(self.help_lines()) - {FALLBACK_COUNTRY}))

    def default_slot(self) -> Slot:
        """The site's own slot."""
        return self._default_slot

    # Coming

    def request(self, signup: SignUp, *, now: datetime, source: str = "form") -> None:
        """Somebody asks for letters to an address: a confirmation goes there, within its limits.

        The answer is the same whatever was known about the address, and nothing about a known reader changes
        before they confirm.

        Raises:
            AddressError: that is no address.
            InvalidChoice: a field that cannot be.
            NotFound: an unknown sequence.
        """
        address = parse_address(signup.email)
        slot = self._parse_slot(signup)
        country = self._parse_country(signup.country)
        for attempt in (1, 2):
            try:
                with self._database.write() as connection:
                    self._ask(connection, address, signup, slot=slot, country=country, source=source, now=now)
            except Conflict:
                # The same new address was asked for twice in the same moment; the second look finds it.
                if attempt == 2:  # noqa: PLR2004
                    raise
            else:
                return

    def add(self, signup: SignUp, *, consent: str | None, now: datetime) -> State:
        """An operator adds somebody: with dated proof of consent at once, otherwise they confirm by mail.

        Raises:
            AddressError, InvalidChoice, NotFound: as for `request`.
            NotAllowed: the address is suppressed; only its reader's own confirmed wish revives it.
        """
        if consent is None:
            self.request(signup, now=now, source="operator")
        address = parse_address(signup.email)
        slot = self._parse_slot(signup)
        country = self._parse_country(signup.country)
        with self._database.write() as connection:
            edition, sequence = self._sequence(connection, signup.sequence)
            if consent is None:
                return self._state_of(connection, address, sequence)
            reason = subscriptions.suppression_reason(connection, self._signer.address_hashes(address.key))
            if reason is not None:
                message = f"This address is suppressed ({reason}); only its reader can revive it, through the form."
                raise NotAllowed(message)
            reader = subscriptions.find_subscriber(connection, address_key=address.key, lock=True)
            if reader is None:
                reader = _add_reader(connection, address, slot=slot, country=country, signup=signup, now=now)
            record = _find(subscriptions.subscriptions_of(connection, reader.id), sequence.key)
            if record is None:
                record = subscriptions.add_subscription(
                    connection, subscriber_id=reader.id, sequence_key=sequence.key, state=State.PENDING,
                    seen_revision=edition.number, now=now,
                )  # fmt: skip
            if record.state is not State.PENDING:
                message = f"This address has {sequence.title!r} already ({record.state})."
                raise NotAllowed(message)
            subscriptions.tell(
                connection,
                "consent",
                subscriber_id=reader.id,
                subscription_id=record.id,
                now=now,
                source=consent,
            )
            return self._begin(connection, edition, reader, record, start_now=sequence.start is Start.AT_ONCE, now=now)

    def confirmation(self, token: str, *, now: datetime) -> ConfirmationView:
        """What the page behind a confirmation link shows. Looking changes nothing.

        Raises:
            TokenForged: no link of ours.
            TokenExpired: too old, used, or what it was for is gone.
        """
        with self._database.read() as connection:
            notice, reader, record = self._asked(connection, token, now=now)
            _, sequence = self._sequence(connection, record.sequence_key)
        slot = _asked_slot(notice, reader)
        return ConfirmationView(
            title=sequence.title,
            expect=sequence.expect,
            offers_choice=sequence.start is Start.ASK and _has_rested(record, reader, now=now),
            first_slot=next_due(slot, now=now, last_letter_at=record.last_letter_at, after=None, pace=reader.pace).at,
            timezone=slot.timezone,
            already=_is_open(record),
            preferences_token=self._preferences_token(reader) if _is_open(record) else None,
            masked_address=mask_address(reader.address),
        )

    def confirm(self, token: str, *, start_now: bool, now: datetime) -> str:
        """Somebody presses the button behind a confirmation link: the letters begin.

        Args:
            start_now: the first letter at once, where the sequence leaves that to the reader.

        Returns:
            The token of their preferences page.

        Raises:
            TokenForged, TokenExpired: as for `confirmation`.
        """
        with self._database.write() as connection:
            notice, reader, record = self._asked(connection, token, now=now, lock=True)
            if not _is_open(record):
                edition, sequence = self._sequence(connection, record.sequence_key)
                others = subscriptions.subscriptions_of(connection, reader.id)
                if not any(_is_open(other) for other in others):
                    reader = _apply_choices(connection, notice, reader)
                subscriptions.lift_suppression(connection, self._signer.address_hashes(reader.address_key))
                at_once = sequence.start is Start.AT_ONCE or (sequence.start is Start.ASK and start_now)
                self._begin(connection, edition, reader, record, start_now=at_once, now=now)
                deliveries.set_payload(connection, notice.id, {**(notice.payload or {}), "used": True})
            return self._preferences_token(reader)

    # Staying

    def preferences(self, token: str, *, now: datetime) -> PreferencesView:
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
        leave_by = next((record for record in records if _is_open(record)), records[0] if records else None)
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
            TokenForged, TokenExpired: as for `preferences`.
            InvalidChoice: a field that cannot be.
        """
        chosen = SignUp(email="", weekday=weekday, time=time, timezone=timezone, country=country)
        slot, country = self._parse_slot(chosen), self._parse_country(country)
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            subscriptions.set_reader(connection, reader.id, slot=slot, country=country, discreet=discreet)
            if slot != reader.slot:
                reader = replace(reader, slot=slot)
                subscriptions.tell(connection, "slot_changed", subscriber_id=reader.id, now=now, slot=str(slot))
                deliveries.withdraw(connection, subscriber_id=reader.id, reason="another slot", now=now)
                self._retime(connection, reader, now=now)

    def pause(self, token: str, *, weeks: int | None = None, until: date | None = None, now: datetime) -> None:
        """Hold all of a reader's sequences for some weeks or until a local date.

        Raises:
            TokenForged, TokenExpired: as for `preferences`.
            InvalidChoice: a date that is past or more than a year away.
        """
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            today = now.astimezone(ZoneInfo(reader.slot.timezone)).date()
            if until is None:
                if weeks is None or not 1 <= weeks <= 52:  # noqa: PLR2004  (a year)
                    raise InvalidChoice("Choose a pause of one, two or four weeks, or a date.", field="weeks")
                until = today + timedelta(weeks=weeks)
            pausing.pause_reader(connection, reader, until=until, now=now)

    def resume(self, token: str, *, now: datetime) -> None:
        """End a pause: letters go on where they stopped. Harmless when there is none.

        Raises:
            TokenForged, TokenExpired: as for `preferences`.
        """
        with self._database.write() as connection:
            reader = self._reader(connection, token, now=now, lock=True)
            pausing.resume_reader(connection, self._editions.live(connection), reader, now=now)

    # Going

    def leaving(self, token: str, *, now: datetime) -> LeavingView:
        """What the page behind an unsubscribe link shows. Looking changes nothing.

        Raises:
            TokenForged: no link of ours. An unsubscribe link never expires.
        """
        identifier = self._signer.verify(Purpose.UNSUBSCRIBE, token, now=now).id
        with self._database.read() as connection:
            reader, record = self._leaver(connection, identifier)
            edition = self._editions.live(connection)
            records = [] if reader is None else subscriptions.subscriptions_of(connection, reader.id)
        staying = [item for item in records if _is_open(item)]
        sequence = None if edition is None or record is None else edition.revision.sequence(record.sequence_key)
        return LeavingView(
            title=None if sequence is None else sequence.title,
            several=len(staying) > 1,
            gone=not staying,
            preferences_token=None if reader is None else self._preferences_token(reader),
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
                subscriptions.tell(
                    connection, "left", subscriber_id=reader.id, subscription_id=item.id, now=now,
                    sequence=item.sequence_key,
                )  # fmt: skip

    # How it is done

    def _ask(
        self, connection: Connection, address: Address, signup: SignUp, *, slot: Slot, country: str | None,
        source: str, now: datetime,
    ) -> None:  # fmt: skip
        edition, sequence = self._sequence(connection, signup.sequence)
        reader = subscriptions.find_subscriber(connection, address_key=address.key, lock=True)
        if reader is None:
            reader = _add_reader(connection, address, slot=slot, country=country, signup=signup, now=now)
        record = _find(subscriptions.subscriptions_of(connection, reader.id), sequence.key)
        if record is None:
            record = subscriptions.add_subscription(
                connection, subscriber_id=reader.id, sequence_key=sequence.key, state=State.PENDING,
                seen_revision=edition.number, now=now,
            )  # fmt: skip
        address_hash = self._signer.hash_address(address.key)
        local_date = now.astimezone(ZoneInfo(self._default_slot.timezone)).date()
        if not self._may_write(connection, address, now=now) or not subscriptions.add_notice(
            connection, address_hash=address_hash, local_date=local_date, now=now
        ):
            return
        if record.state is State.PENDING:
            # The new link works for as long as the old one did, so what it opens is kept as long.
            subscriptions.save_subscription(connection, record, replace(record, created_at=now))
        kind = Kind.ALREADY_SUBSCRIBED if _is_open(record) else Kind.CONFIRMATION
        choices = {"slot": str(slot), "country": country, "discreet": signup.discreet}
        deliveries.plan_notice(
            connection,
            kind,
            dedup_key=f"{kind}:{address_hash}:{local_date}",
            subscriber_id=reader.id,
            subscription_id=record.id,
            payload=choices,
            now=now,
        )
        subscriptions.tell(
            connection, "asked", subscriber_id=reader.id, subscription_id=record.id, now=now,
            sequence=sequence.key, source=source, consent_text=CONSENT_TEXT,
        )  # fmt: skip

    def _may_write(self, connection: Connection, address: Address, *, now: datetime) -> bool:
        """Whether another mail that is no letter may go to an address: one a day, three in thirty days."""
        hashes = self._signer.address_hashes(address.key)
        sent = subscriptions.notices_since(connection, hashes, since=now - timedelta(days=30))
        today = [at for at in sent if at > now - timedelta(days=1)]
        return len(today) < MAILS_A_DAY and len(sent) < MAILS_IN_30_DAYS

    def _begin(
        self, connection: Connection, edition: Edition, reader: Subscriber, record: Subscription, *, start_now: bool,
        now: datetime,
    ) -> State:  # fmt: skip
        """Confirmed: for the first time, after leaving (where they stopped), or once more (the next round)."""
        state = after(record.state, Action.CONFIRM)
        if state is None:
            message = f"A subscription that is {record.state} cannot be confirmed."
            raise NotAllowed(message)
        begun = replace(record, state=state, confirmed_at=now)
        if record.state is State.FINISHED or self._has_had_all(connection, edition, record):
            begun = replace(begun, round=record.round + 1, anchor=None)
        subscriptions.save_subscription(connection, record, begun)
        subscriptions.tell(
            connection, "confirmed", subscriber_id=reader.id, subscription_id=record.id, now=now,
            sequence=record.sequence_key,
        )  # fmt: skip
        moved = progression.reschedule(connection, edition, reader, begun, now=now)
        if start_now and moved.state is State.ACTIVE and _has_rested(record, reader, now=now):
            subscriptions.save_subscription(connection, moved, replace(moved, next_due_at=now, due_rule="at_once"))
        return moved.state

    def _has_had_all(self, connection: Connection, edition: Edition, record: Subscription) -> bool:
        """Whether somebody who comes back had received every letter of the round before they left."""
        if record.last_letter_at is None:
            return False
        place = subscriptions.places(connection, [record])[record.id]
        return progression.upcoming(edition, *progression.catch_up(connection, edition, record, place)) is None

    def _retime(self, connection: Connection, reader: Subscriber, *, now: datetime) -> None:
        edition = self._editions.live(connection)
        held = deliveries.open_letters(connection, [reader.id])
        for record in subscriptions.subscriptions_of(connection, reader.id):
            if edition is None or record.id in held or record.state not in (State.ACTIVE, State.PAUSED):
                continue
            if record.state is State.PAUSED and reader.paused_until is None:
                continue
            progression.reschedule(connection, edition, reader, record, now=now)

    def _asked(
        self, connection: Connection, token: str, *, now: datetime, lock: bool = False
    ) -> tuple[Delivery, Subscriber, Subscription]:
        identifier = self._signer.verify(Purpose.CONFIRM, token, now=now).id
        notice = deliveries.get_delivery(connection, identifier)
        if notice is None or notice.kind is not Kind.CONFIRMATION or notice.subscription_id is None:
            raise TokenExpired(_GONE)
        reader = subscriptions.get_subscriber(connection, notice.subscriber_id, lock=lock)
        record = subscriptions.get_subscription(connection, notice.subscription_id)
        if reader is None or record is None:
            raise TokenExpired(_GONE)
        used = bool((notice.payload or {}).get("used"))
        if (used and not _is_open(record)) or now - notice.created_at >= CONFIRM_WITHIN:
            raise TokenExpired(_GONE)
        return notice, reader, record

    def _reader(self, connection: Connection, token: str, *, now: datetime, lock: bool = False) -> Subscriber:
        opened = self._signer.verify(Purpose.PREFERENCES, token, now=now)
        reader = subscriptions.get_subscriber(connection, opened.id, lock=lock)
        if reader is None or reader.link_generation != opened.generation:
            raise TokenExpired(_GONE)
        return reader

    def _leaver(
        self, connection: Connection, identifier: UUID, *, lock: bool = False
    ) -> tuple[Subscriber | None, Subscription | None]:
        record = subscriptions.get_subscription(connection, identifier)
        reader = subscriptions.get_subscriber(connection, record.subscriber_id if record else identifier, lock=lock)
        return reader, record

    def _sequence(self, connection: Connection, key: str | None) -> tuple[Edition, Sequence]:
        edition = self._editions.live(connection)
        wanted = key or self._default_sequence
        sequence = None if edition is None else edition.revision.sequence(wanted)
        if sequence is None and edition is not None and not key and edition.revision.sequences:
            sequence = edition.revision.sequences[0]
        if edition is None or sequence is None:
            raise NotFound("These letters are not offered here.")
        return edition, sequence

    def _state_of(self, connection: Connection, address: Address, sequence: Sequence) -> State:
        reader = subscriptions.find_subscriber(connection, address_key=address.key)
        record = None if reader is None else _find(subscriptions.subscriptions_of(connection, reader.id), sequence.key)
        return State.PENDING if record is None else record.state

    def _view(self, connection: Connection, edition: Edition | None, record: Subscription) -> SubscriptionView:
        sequence = None if edition is None else edition.revision.sequence(record.sequence_key)
        place = subscriptions.places(connection, [record])[record.id]
        endless = sequence is not None and _is_endless(sequence)
        total = None
        if sequence is not None and not endless:
            total = len(place.received) + steps_ahead(sequence, received=place.received, passed=place.passed)
        received = deliveries.letter_totals(connection, record.id) if endless else len(place.received)
        return SubscriptionView(
            key=record.sequence_key,
            title=record.sequence_key if sequence is None else sequence.title,
            state=record.state,
            next_due_at=record.next_due_at,
            received=received,
            total=total,
            open_ended=endless,
        )

    def _preferences_token(self, reader: Subscriber) -> str:
        return self._signer.sign(Purpose.PREFERENCES, reader.id, generation=reader.link_generation)

    def _parse_slot(self, signup: SignUp) -> Slot:
        default = self._default_slot
        timezone = signup.timezone or default.timezone
        if not known_timezone(timezone):
            raise InvalidChoice("Choose a time zone from the list, such as Europe/Berlin.", field="timezone")
        weekday = signup.weekday or _WEEKDAYS[default.weekday]
        time = signup.time or f"{default.at:%H:%M}"
        try:
            Slot.parse(f"{weekday} 00:00", timezone=timezone)
        except ValueError as error:
            raise InvalidChoice("Choose a day of the week.", field="weekday") from error
        try:
            return Slot.parse(f"{weekday} {time}", timezone=timezone)
        except ValueError as error:
            raise InvalidChoice("Write the hour as 08:00.", field="time") from error

    def _parse_country(self, country: str | None) -> str | None:
        if not country:
            return None
        code = country.strip().upper()
        if code not in self.countries():
            raise InvalidChoice("Choose a country from the list, or leave it open.", field="country")
        return code


_GONE = "This link has been used, or what it was for is gone. Ask for a new one on the first page."


def _is_open(record: Subscription) -> bool:
    return record.state in (State.ACTIVE, State.PAUSED, State.WAITING)


def _has_rested(record: Subscription, reader: Subscriber, *, now: datetime) -> bool:
    """Whether a letter at once would keep its distance from the last one."""
    return record.last_letter_at is None or now - record.last_letter_at >= min_gap(reader.pace)


def _is_endless(sequence: Sequence) -> bool:
    return sequence.on_finish.finish is Finish.REPEAT


def _find(records: list[Subscription], sequence_key: str) -> Subscription | None:
    return next((record for record in records if record.sequence_key == sequence_key), None)


def _add_reader(
    connection: Connection,
    address: Address,
    *,
    slot: Slot,
    country: str | None,
    signup: SignUp,
    now: datetime,
) -> Subscriber:
    return subscriptions.add_subscriber(
        connection,
        address=address.text,
        address_key=address.key,
        slot=slot,
        country=country,
        discreet=signup.discreet,
        now=now,
    )


def _asked_slot(notice: Delivery, reader: Subscriber) -> Slot:
    text = (notice.payload or {}).get("slot")
    if not text:
        return reader.slot
    weekday, time, timezone = text.split(" ")
    return Slot.parse(f"{weekday} {time}", timezone=timezone)


def _apply_choices(connection: Connection, notice: Delivery, reader: Subscriber) -> Subscriber:
    """What was chosen on the form counts from now on."""
    payload = notice.payload or {}
    chosen = replace(
        reader,
        slot=_asked_slot(notice, reader),
        country=payload.get("country", reader.country),
        discreet=payload.get("discreet", reader.discreet),
    )
    subscriptions.set_reader(connection, reader.id, slot=chosen.slot, country=chosen.country, discreet=chosen.discreet)
    return chosen
