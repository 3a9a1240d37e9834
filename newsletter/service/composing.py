"""From a claimed row to the bytes that leave: what is chosen for this reader, and what is written down of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from collections.abc import Sequence as AbstractSequence
from datetime import date, datetime, timedelta
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
from newsletter.rendering.message import MessageHeaders, compose, encode, message_id_for
from newsletter.service.editions import Edition, Editions
from newsletter.service.links import own_page_token
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

NEXT = "next"
NEWEST = "newest"
NAMED_ONLY = "named-only"
"""A post with this tag is shown only where a letter names it."""


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
        choosing = {item.subscriber_id for item in items if item.kind is _LETTER and _chooses(step_of(edition, item))}
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
        self._domain = site.from_address.rpartition("@")[2]
        # Opaque for everybody, and the same for all lists of this site.
        self._feedback_sender = hashlib.sha256(f"feedback {self._domain}".encode()).hexdigest()[:10]

    def links(self, reader: Subscriber, subscription_id: UUID) -> Links:
        """One reader's own links, absolute. Leaving never expires."""
        base = self._site.base_url
        settings_token = own_page_token(self._signer, reader)
        leave_token = self._signer.sign(Purpose.UNSUBSCRIBE, subscription_id)
        return Links(
            unsubscribe=f"{base}/unsubscribe/{leave_token}",
            preferences=f"{base}/preferences/{settings_token}",
            pause=f"{base}/preferences/{settings_token}#pause",
            too_much=f"{base}/too-much",
        )

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
        sequence, step = found
        number, total = _position(edition, sequence, place, item)
        if is_repeat:
            affirmation = edition.revision.affirmation(item.affirmation) if item.affirmation else None
            posts = tuple(filter(None, map(edition.revision.related_post, item.posts or ())))
        else:
            shown = shown or _NOTHING
            affirmation = choose_affirmation(edition.revision, step, had=shown.affirmations)
            posts = choose_posts(edition.revision, step, shown=shown.posts, discreet=reader.discreet)
        links = self.links(reader, record.id)
        facts = LetterFacts(
            number=item.number or number if is_repeat else number,
            total=total,
            affirmation=affirmation,
            posts=posts,
            country=reader.country,
            discreet=reader.discreet,
            welcome_back=_is_welcome_back(record),
            local_date=local_date(item.due_at, reader.slot.timezone),
            links=links,
        )
        letter = edition.typesetter.encoded_letter(sequence, step, facts)
        handover = Handover(
            revision=edition.number,
            message_id=(is_repeat and item.message_id) or message_id_for(item.id, self._domain),
            message_date=(is_repeat and item.message_date) or now.replace(microsecond=0),
            affirmation=affirmation.key if affirmation else None,
            posts=tuple(post.key for post in posts),
            number=facts.number,
        )
        return self._seal(letter, reader, handover, unsubscribe=links.unsubscribe, kind=_LETTER,
                          gap=gap_before(step, reader), seen=(record, place))  # fmt: skip

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
        return self._seal(letter, reader, handover, unsubscribe=None, kind=item.kind, gap=timedelta())

    def _seal(
        self, letter: Encoded, reader: Subscriber, handover: Handover, *, unsubscribe: str | None, kind: Kind,
        gap: timedelta, seen: tuple[Subscription, progress.Place] | None = None,
    ) -> Composed:  # fmt: skip
        address = stored_address(reader.address, key=reader.address_key)
        content = self._write(letter, address, handover, unsubscribe=unsubscribe, kind=kind)
        for dkim in self._dkim:
            content = dkim.sign(content)
        envelope = Envelope(
            sender=self._site.from_address,
            recipient=address.wire,
            content=content,
            smtputf8=address.needs_smtputf8,
            vouched=True,
            has_dots=letter.has_dots,
        )
        return Composed(envelope, handover, gap, seen)

    def _write(
        self, letter: Encoded, address: Address, handover: Handover, *, unsubscribe: str | None, kind: Kind
    ) -> bytes:
        is_letter = kind is _LETTER
        smtputf8 = address.needs_smtputf8
        headers = MessageHeaders(
            from_name=letter.from_name,
            from_address=self._site.from_address,
            to=address.text if smtputf8 else address.wire,
            reply_to=letter.reply_to or self._site.reply_to,
            date=handover.message_date,
            message_id=handover.message_id,
            list_id=f"letters.{self._domain}" if is_letter else None,
            unsubscribe_url=unsubscribe,
            feedback_id=f"r{handover.revision}:{_STREAMS[kind]}:mail:{self._feedback_sender}",
        )
        return compose(letter, headers, smtputf8=smtputf8)


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


def choose_affirmation(revision: Revision, step: Step, *, had: Collection[str]) -> Affirmation | None:
    """The affirmation of a letter: the named one, or the next that this reader has not had.

    Args:
        had: what the reader has had, the one had longest ago first.
    """
    if step.affirmation != NEXT:
        return revision.affirmation(step.affirmation) if step.affirmation else None
    fresh = next((item for item in revision.affirmations if item.key not in had), None)
    if fresh is not None:
        return fresh
    return next((item for key in had if (item := revision.affirmation(key)) is not None), None)


def choose_posts(revision: Revision, step: Step, *, shown: Collection[str], discreet: bool) -> tuple[RelatedPost, ...]:
    """The related posts of a letter: the named ones, or the newest that this reader has not been shown.

    Args:
        shown: what the reader has been shown, the one shown longest ago first.
    """
    named = step.related_discreet if discreet and step.related_discreet is not None else step.related
    if named == (NEWEST,):
        fit = [post for post in revision.related_posts if NAMED_ONLY not in post.tags]
        fit = [post for post in fit if not (discreet and post.hide_when_discreet)]
        fresh = sorted((post for post in fit if post.key not in shown), key=lambda post: post.published or date.min)
        if fresh:
            return (fresh[-1],)
        again = [post for key in shown for post in fit if post.key == key]
        return tuple(again[:1])
    posts = [post for key in named if (post := revision.related_post(key)) is not None]
    return tuple(post for post in posts if not (discreet and post.hide_when_discreet))


_NOTHING = Shown(affirmations={}, posts={})


def _chooses(step: Step | None) -> bool:
    """Whether what a letter shows depends on what its reader has been shown."""
    if step is None:
        return False
    return step.affirmation == NEXT or (NEWEST,) in (step.related, step.related_discreet)


def _position(edition: Edition, sequence: Sequence, place: progress.Place, item: Delivery) -> tuple[int, int | None]:
    """The n and m of "Letter n of m"; no m for a sequence without an end."""
    place = progress.catch_up(place, edition.outlines.get(sequence.key, ()))
    received = place.received - {item.step}
    number = len(received) + 1
    if sequence.endless:
        return number, None
    ahead = progress.steps_ahead(sequence, received=received, passed=place.passed - {item.step})
    return number, len(received) + ahead


def _is_welcome_back(record: Subscription) -> bool:
    if record.resumed_at is None:
        return False
    return record.last_letter_at is None or record.resumed_at > record.last_letter_at


def _day_in_words(day: date) -> str:
    return f"{day.day} {day:%B %Y}"
