"""From a claimed row to the bytes that leave: what is chosen for this reader, and what is written down of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as AbstractSequence
from datetime import date, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from newsletter.domain import progress
from newsletter.domain.addresses import Address, stored_address
from newsletter.domain.cadence import local_date, min_gap
from newsletter.domain.delivery import Kind
from newsletter.domain.sequence import Affirmation, RelatedPost, Revision, Sequence, Step
from newsletter.errors import RenderError
from newsletter.mail.base import Envelope
from newsletter.rendering.facts import Encoded, LetterFacts, Links, NoticeFacts, Rendered, Site
from newsletter.rendering.forms import marked_message
from newsletter.rendering.message import PLAIN_ADDRESS, MessageHeaders, compose, encode, message_id_for, shared_headers
from newsletter.rendering.plates import Plate
from newsletter.service.choosing import choose_affirmation, choose_posts, chooses_by_reader, position
from newsletter.service.editions import Edition, Editions
from newsletter.service.links import LinkMaker, own_page_token
from newsletter.service.printing import Printing
from newsletter.store import subscriptions
from newsletter.store.database import Connection
from newsletter.store.deliveries import Delivery
from newsletter.store.handovers import Handover
from newsletter.store.subscriptions import Shown, Subscriber, Subscription
from newsletter.tokens import Purpose, TokenSigner

if TYPE_CHECKING:
    from newsletter.mail.dkim import DkimSigner

_LETTER = Kind.LETTER  # looked up once: the member of an enumeration is found by a call of Python's
_STREAMS = {kind: kind.value.partition("_")[0] for kind in Kind}

CONFIRM_WITHIN = timedelta(days=7)
"""How long a confirmation link works, and how long a pending row is kept."""

_KEPT_DESIGNS = 512


class Composed(NamedTuple):
    """An email, ready to leave.

    Attributes:
        min_gap: what must have passed since the last letter of its sequence.
        seen: a letter's subscription and its place, as they were when it was composed.
    """

    envelope: Envelope
    handover: Handover
    min_gap: timedelta
    seen: tuple[Subscription, progress.Place] | None = None


class Ingredients(NamedTuple):
    """What one email is made of.

    Attributes:
        record: a letter's subscription.
        place: where that stands.
        shown: what its reader has been shown, where the letter's step asks for something else.
    """

    reader: Subscriber
    record: Subscription | None = None
    place: progress.Place | None = None
    shown: Shown | None = None

    @classmethod
    def gather(
        cls, connection: Connection, edition: Edition | None, items: AbstractSequence[Delivery]
    ) -> list[Ingredients | None]:
        """What each of some emails needs, read in a few statements for all; None where its reader is gone."""
        if edition is None:
            return [None] * len(items)
        ids = {item.subscription_id for item in items if item.kind is _LETTER and item.subscription_id is not None}
        notices = {item.subscriber_id for item in items if item.kind is not _LETTER}
        known = subscriptions.with_readers(connection, ids) if ids else {}
        places = subscriptions.places(connection, [record for _, record in known.values()])
        choosing = {
            item.subscriber_id for item in items if item.kind is _LETTER and chooses_by_reader(step_of(edition, item))
        }
        shown = subscriptions.shown_to(connection, choosing) if choosing else {}
        readers = subscriptions.get_subscribers(connection, notices) if notices else {}

        def found(item: Delivery) -> Ingredients | None:
            if item.kind is not _LETTER or item.subscription_id is None:
                alone = readers.get(item.subscriber_id)
                return None if alone is None else cls(alone)
            pair = known.get(item.subscription_id)
            if pair is None:
                return None
            reader, record = pair
            return cls(reader, record, places[record.id], shown.get(reader.id) if shown else None)

        return [found(item) for item in items]


class _Design:
    """What the letters of many readers have in common.

    Attributes:
        facts: with the links of the reader for whom it was made.
        plate: None where each letter has to be rendered on its own.
        marked: the message from `To` on, with its holes marked, once a reader's was asked for.
        printing: the letters of this second.
    """

    __slots__ = ("facts", "gap", "marked", "plate", "posts", "printing")

    def __init__(self, facts: LetterFacts, plate: Plate | None, gap: timedelta) -> None:
        self.facts = facts
        self.plate = plate
        self.gap = gap
        self.posts = tuple(post.key for post in facts.posts)
        self.marked = b""
        self.printing: Printing | None = None


class Composer:
    """Makes emails out of deliveries.

    Args:
        site: in whose name they are sent.
        signer: signs the links.
        dkim: sign the finished emails, one after the other; the last one's signature stands on top.
    """

    def __init__(
        self, *, site: Site, signer: TokenSigner, editions: Editions, dkim: AbstractSequence[DkimSigner] = ()
    ) -> None:
        self._site = site
        self._signer = signer
        self._editions = editions
        self._dkim = tuple(dkim)
        self._links = LinkMaker(signer, base_url=site.base_url)
        self._domain = site.from_address.rpartition("@")[2]
        # Opaque for everybody, and the same for all lists of this site.
        self._feedback_sender = hashlib.sha256(f"feedback {self._domain}".encode()).hexdigest()[:10]
        self._designs: dict[object, _Design] = {}
        self._lock = Lock()

    def links(self, reader: Subscriber, subscription_id: UUID) -> Links:
        """One reader's own links, absolute. Leaving never expires."""
        return self._links.links(reader, subscription_id)

    def compose(
        self, connection: Connection, edition: Edition, item: Delivery, needed: Ingredients, *, now: datetime
    ) -> Composed | None:
        """The email of a delivery, rendered from the live revision; a repeat from the one it was handed over with.

        Returns:
            None where there is nothing to send: its step or subscription is gone.

        Raises:
            RenderError: it cannot be rendered.
            AddressError: the stored address cannot be written to.
        """
        if item.kind is _LETTER:
            return self._letter(connection, edition, item, needed, now=now)
        return self._notice(edition, needed.reader, item, now=now)

    def seal_preview(self, rendered: Rendered, reader: Subscriber, *, unsubscribe: str, now: datetime) -> bytes:
        """The message of a letter that nobody gets, unsigned."""
        handover = Handover(
            revision=0,
            message_id=message_id_for(reader.id, self._domain),
            message_date=now.replace(microsecond=0),
        )
        address = stored_address(reader.address, key=reader.address_key)
        return self._write(encode(rendered), address, handover, unsubscribe=unsubscribe, kind=Kind.LETTER)

    def _letter(
        self, connection: Connection, edition: Edition, item: Delivery, needed: Ingredients, *, now: datetime
    ) -> Composed | None:
        reader, record, place, shown = needed
        is_repeat = item.doubts > 0 and item.revision is not None
        if is_repeat and item.revision is not None:
            edition = self._editions.get(connection, item.revision)
        found = edition.steps.get((item.sequence_key, item.step))
        if record is None or place is None or found is None:
            return None
        if is_repeat:
            design = self._design_again(edition, found, item, reader, record, place)
        else:
            design = self._design(edition, found, item, reader, record, place, shown)
        facts = design.facts
        handover = Handover(
            edition.number,
            (is_repeat and item.message_id) or message_id_for(item.id, self._domain),
            (is_repeat and item.message_date) or now.replace(microsecond=0),
            facts.affirmation.key if facts.affirmation else None,
            design.posts,
            facts.number,
        )
        content = self._printed(design, reader, record.id, handover)
        if content is None:
            links = self._links.links(reader, record.id)
            letter = edition.typesetter.encoded_letter(*found, facts._replace(links=links))
            address = stored_address(reader.address, key=reader.address_key)
            content = self._signed(self._write(letter, address, handover, unsubscribe=links.unsubscribe, kind=_LETTER))
            return self._seal(content, address.wire, handover, design.gap, (record, place))
        return self._seal(content, reader.address, handover, design.gap, (record, place))

    def _design(
        self, edition: Edition, found: tuple[Sequence, Step], item: Delivery, reader: Subscriber, record: Subscription,
        place: progress.Place, shown: Shown | None,
    ) -> _Design:  # fmt: skip
        """The design of a letter: made once, and found by all that would make it another one."""
        sequence, step = found
        welcome_back = _is_welcome_back(record)
        chosen = None if shown is None else _chosen(edition.revision, step, reader, shown)
        key = (
            *(edition.number, sequence.key, step.identity, place, chosen),
            *(reader.country, reader.discreet, reader.pace, welcome_back),
            # Only a discreet subject tells the day; all others are the same letter on any day.
            local_date(item.due_at, reader.slot.timezone) if reader.discreet else None,
        )
        design = self._designs.get(key)
        if design is None:
            affirmation, posts = chosen or _chosen(edition.revision, step, reader, _NOTHING)
            number, total = position(edition, sequence, place, step=item.step)
            facts = LetterFacts(
                number=number, total=total, affirmation=affirmation, posts=posts, country=reader.country,
                discreet=reader.discreet, welcome_back=welcome_back,
                local_date=local_date(item.due_at, reader.slot.timezone), links=self._links.links(reader, record.id),
            )  # fmt: skip
            design = _Design(facts, edition.typesetter.plate(*found, facts), gap_before(step, reader))
            with self._lock:
                self._designs[key] = design
                while len(self._designs) > _KEPT_DESIGNS:
                    del self._designs[next(iter(self._designs))]
        return design

    def _design_again(
        self, edition: Edition, found: tuple[Sequence, Step], item: Delivery, reader: Subscriber, record: Subscription,
        place: progress.Place,
    ) -> _Design:  # fmt: skip
        """The design of a letter that was handed over once without an answer: with all that it showed then."""
        affirmation = edition.revision.affirmation(item.affirmation) if item.affirmation else None
        number, total = position(edition, found[0], place, step=item.step)
        facts = LetterFacts(
            number=item.number or number, total=total, affirmation=affirmation,
            posts=tuple(filter(None, map(edition.revision.related_post, item.posts or ()))), country=reader.country,
            discreet=reader.discreet, welcome_back=_is_welcome_back(record),
            local_date=local_date(item.due_at, reader.slot.timezone), links=self._links.links(reader, record.id),
        )  # fmt: skip
        return _Design(facts, edition.typesetter.plate(*found, facts), gap_before(found[1], reader))

    def _printed(self, design: _Design, reader: Subscriber, subscription_id: UUID, handover: Handover) -> bytes | None:
        """The message of a letter, signed, as all of its design are; None where it has to be written alone."""
        address, plate = reader.address, design.plate
        if plate is None or not self._links.are_plain or not _is_written_as_it_is(address, reader.address_key):
            return None
        own = self._links.encoded(reader, subscription_id)
        printing = design.printing
        if printing is None or printing.date != handover.message_date:
            url = own["unsubscribe_url"].decode()
            headers = self._headers(plate, address, handover, unsubscribe=url, kind=_LETTER)
            design.marked = design.marked or marked_message(plate, headers)
            marked = shared_headers(plate, headers) + design.marked
            design.printing = printing = Printing(marked, date=handover.message_date, dkim=self._dkim)
        own["to"] = address.encode()
        own["message_id"] = handover.message_id.encode()
        return printing.letter(own)

    def _notice(self, edition: Edition, reader: Subscriber, item: Delivery, *, now: datetime) -> Composed | None:
        facts: NoticeFacts
        match item.kind:
            case Kind.CONFIRMATION:
                expires_at = item.created_at + CONFIRM_WITHIN
                token = self._signer.sign(Purpose.CONFIRM, item.id, expires_at=expires_at)
                facts = NoticeFacts(
                    action_url=f"{self._site.base_url}/confirm/{token}",
                    discreet=reader.discreet,
                    expires_text=f"until {_day_in_words(local_date(expires_at, reader.slot.timezone))}",
                )
            case Kind.ALREADY_SUBSCRIBED:
                token = own_page_token(self._signer, reader)
                facts = NoticeFacts(action_url=f"{self._site.base_url}/preferences/{token}", discreet=reader.discreet)
            case _:
                message = f"There is no template for an email of kind {item.kind}."
                raise RenderError(message)
        letter = encode(edition.typesetter.notice(item.kind, facts))
        handover = Handover(
            revision=edition.number,
            message_id=item.message_id or message_id_for(item.id, self._domain),
            message_date=item.message_date or now.replace(microsecond=0),
        )
        address = stored_address(reader.address, key=reader.address_key)
        content = self._signed(self._write(letter, address, handover, unsubscribe=None, kind=item.kind))
        return self._seal(content, address.wire, handover, timedelta())

    def _seal(
        self, content: bytes, recipient: str, handover: Handover, gap: timedelta,
        seen: tuple[Subscription, progress.Place] | None = None,
    ) -> Composed:  # fmt: skip
        envelope = Envelope(
            sender=self._site.from_address,
            recipient=recipient,
            content=content,
            smtputf8=not recipient.isascii(),
            vouched=True,
            has_dots=False,
        )
        return Composed(envelope, handover, gap, seen)

    def _signed(self, content: bytes) -> bytes:
        for dkim in self._dkim:
            content = dkim.sign(content)
        return content

    def _write(
        self, letter: Encoded, address: Address, handover: Handover, *, unsubscribe: str | None, kind: Kind
    ) -> bytes:
        smtputf8 = address.needs_smtputf8
        to = address.text if smtputf8 else address.wire
        return compose(
            letter, self._headers(letter, to, handover, unsubscribe=unsubscribe, kind=kind), smtputf8=smtputf8
        )

    def _headers(
        self, letter: Encoded | Plate, to: str, handover: Handover, *, unsubscribe: str | None, kind: Kind
    ) -> MessageHeaders:
        return MessageHeaders(
            from_name=letter.from_name,
            from_address=self._site.from_address,
            to=to,
            reply_to=letter.reply_to or self._site.reply_to,
            date=handover.message_date,
            message_id=handover.message_id,
            list_id=f"letters.{self._domain}" if kind is _LETTER else None,
            unsubscribe_url=unsubscribe,
            feedback_id=f"r{handover.revision}:{_STREAMS[kind]}:mail:{self._feedback_sender}",
        )


def gap_before(step: Step | None, reader: Subscriber) -> timedelta:
    """What must lie between the letter of a step and the last one of its sequence."""
    usual = min_gap(reader.pace)
    if step is None or step.after is None:
        return usual
    # Slot time on a local date: a clock change, or an acceptance behind its slot, takes some hours off.
    return min(usual, max(timedelta(), step.after * reader.pace - timedelta(hours=12)))


def step_of(edition: Edition, item: Delivery) -> Step | None:
    """The step of a letter in a revision, or None where that has it no more."""
    found = edition.steps.get((item.sequence_key, item.step))
    return None if found is None else found[1]


def _chosen(
    revision: Revision, step: Step, reader: Subscriber, shown: Shown
) -> tuple[Affirmation | None, tuple[RelatedPost, ...]]:
    return (
        choose_affirmation(revision, step, had=shown.affirmations),
        choose_posts(revision, step, shown=shown.posts, discreet=reader.discreet),
    )


def _is_written_as_it_is(address: str, key: str) -> bool:
    """Whether an address goes on the wire and into a header as its reader typed it."""
    return PLAIN_ADDRESS.fullmatch(address) is not None and key.endswith(address[address.rfind("@") :])


_NOTHING = Shown(affirmations={}, posts={})


def _is_welcome_back(record: Subscription) -> bool:
    if record.resumed_at is None:
        return False
    return record.last_letter_at is None or record.resumed_at > record.last_letter_at


def _day_in_words(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
