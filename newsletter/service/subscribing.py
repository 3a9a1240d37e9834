"""How people come: they ask, a confirmation goes out, they press its button."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from newsletter.domain.addresses import Address, mask_address, parse_address
from newsletter.domain.cadence import Slot, local_date, min_gap, next_due
from newsletter.domain.delivery import Kind
from newsletter.domain.sequence import Sequence, Start
from newsletter.domain.subscription import OPEN, Action, State, after
from newsletter.errors import NotAllowed, TokenExpired
from newsletter.service import progression
from newsletter.service.choices import Choices
from newsletter.service.composing import CONFIRM_WITHIN
from newsletter.service.editions import Edition
from newsletter.service.links import LINK_IS_GONE, own_page_token
from newsletter.service.views import ConfirmationView
from newsletter.store import deliveries, events, subscriptions, suppressions
from newsletter.store.database import Conflict, Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.subscriptions import Subscriber, Subscription
from newsletter.tokens import Purpose, TokenSigner

CONSENT_TEXT = "2026-11"
"""The wording of the form that a person agreed to; changes with it."""

MAILS_A_DAY = 1
MAILS_IN_30_DAYS = 3


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
    """Everything until the first letter."""

    def __init__(self, *, database: Database, signer: TokenSigner, choices: Choices) -> None:
        self._database = database
        self._signer = signer
        self._choices = choices

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
        slot = self._choices.slot(weekday=signup.weekday, time=signup.time, timezone=signup.timezone)
        country = self._choices.country(signup.country)
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
        slot = self._choices.slot(weekday=signup.weekday, time=signup.time, timezone=signup.timezone)
        country = self._choices.country(signup.country)
        with self._database.write() as connection:
            edition, sequence = self._choices.sequence(connection, signup.sequence)
            if consent is None:
                return self._state_of(connection, address, sequence)
            reason = suppressions.suppression_reason(connection, self._signer.address_hashes(address.key))
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
            events.tell(
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
            _, sequence = self._choices.sequence(connection, record.sequence_key)
        slot = _asked_slot(notice, reader)
        return ConfirmationView(
            title=sequence.title,
            expect=sequence.expect,
            offers_choice=sequence.start is Start.ASK and _has_rested(record, reader, now=now),
            first_slot=next_due(slot, now=now, last_letter_at=record.last_letter_at, after=None, pace=reader.pace).at,
            timezone=slot.timezone,
            already=record.state in OPEN,
            preferences_token=own_page_token(self._signer, reader) if record.state in OPEN else None,
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
            if record.state not in OPEN:
                edition, sequence = self._choices.sequence(connection, record.sequence_key)
                others = subscriptions.subscriptions_of(connection, reader.id)
                if not any(other.state in OPEN for other in others):
                    reader = _apply_choices(connection, notice, reader)
                suppressions.lift_suppression(connection, self._signer.address_hashes(reader.address_key))
                at_once = sequence.start is Start.AT_ONCE or (sequence.start is Start.ASK and start_now)
                self._begin(connection, edition, reader, record, start_now=at_once, now=now)
                deliveries.set_payload(connection, notice.id, {**(notice.payload or {}), "used": True})
            return own_page_token(self._signer, reader)

    def _ask(
        self, connection: Connection, address: Address, signup: SignUp, *, slot: Slot, country: str | None,
        source: str, now: datetime,
    ) -> None:  # fmt: skip
        edition, sequence = self._choices.sequence(connection, signup.sequence)
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
        today = local_date(now, self._choices.default_slot().timezone)
        if not self._may_write(connection, address, now=now) or not suppressions.add_notice(
            connection, address_hash=address_hash, local_date=today, now=now
        ):
            return
        if record.state is State.PENDING:
            # The new link works for as long as the old one did, so what it opens is kept as long.
            subscriptions.save_subscription(connection, record, replace(record, created_at=now))
        kind = Kind.ALREADY_SUBSCRIBED if record.state in OPEN else Kind.CONFIRMATION
        choices = {"slot": str(slot), "country": country, "discreet": signup.discreet}
        deliveries.plan_notice(
            connection,
            kind,
            dedup_key=f"{kind}:{address_hash}:{today}",
            subscriber_id=reader.id,
            subscription_id=record.id,
            payload=choices,
            now=now,
        )
        events.tell(
            connection, "asked", subscriber_id=reader.id, subscription_id=record.id, now=now,
            sequence=sequence.key, source=source, consent_text=CONSENT_TEXT,
        )  # fmt: skip

    def _may_write(self, connection: Connection, address: Address, *, now: datetime) -> bool:
        """Whether another mail that is no letter may go to an address: one a day, three in thirty days."""
        hashes = self._signer.address_hashes(address.key)
        sent = suppressions.notices_since(connection, hashes, since=now - timedelta(days=30))
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
        events.tell(
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
        current, place = progression.catch_up(connection, edition, record, place)
        return edition.upcoming(current.sequence_key, place) is None

    def _asked(
        self, connection: Connection, token: str, *, now: datetime, lock: bool = False
    ) -> tuple[Delivery, Subscriber, Subscription]:
        identifier = self._signer.verify(Purpose.CONFIRM, token, now=now).id
        notice = deliveries.get_delivery(connection, identifier)
        if notice is None or notice.kind is not Kind.CONFIRMATION or notice.subscription_id is None:
            raise TokenExpired(LINK_IS_GONE)
        reader = subscriptions.get_subscriber(connection, notice.subscriber_id, lock=lock)
        record = subscriptions.get_subscription(connection, notice.subscription_id)
        if reader is None or record is None:
            raise TokenExpired(LINK_IS_GONE)
        used = bool((notice.payload or {}).get("used"))
        if (used and record.state not in OPEN) or now - notice.created_at >= CONFIRM_WITHIN:
            raise TokenExpired(LINK_IS_GONE)
        return notice, reader, record

    def _state_of(self, connection: Connection, address: Address, sequence: Sequence) -> State:
        reader = subscriptions.find_subscriber(connection, address_key=address.key)
        record = None if reader is None else _find(subscriptions.subscriptions_of(connection, reader.id), sequence.key)
        return State.PENDING if record is None else record.state


def _has_rested(record: Subscription, reader: Subscriber, *, now: datetime) -> bool:
    """Whether a letter at once would keep its distance from the last one."""
    return record.last_letter_at is None or now - record.last_letter_at >= min_gap(reader.pace)


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
