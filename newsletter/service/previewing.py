"""Letters as an imagined reader would get them, from content that need not be published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from newsletter.domain.cadence import Slot, local_date
from newsletter.domain.editing import identify
from newsletter.domain.sequence import Revision, Sequence, Step
from newsletter.domain.subscription import SubscriberId
from newsletter.rendering.facts import LetterFacts, Rendered
from newsletter.service.choosing import choose_affirmation, choose_posts
from newsletter.service.composing import Composer
from newsletter.service.editions import Editions
from newsletter.store.subscriptions import Subscriber


@dataclass(frozen=True, kw_only=True)
class PreviewedLetter:
    """One letter: its parts, and the message as it would leave."""

    step: Step
    rendered: Rendered
    message: bytes


class Previewing:
    """Sets letters for a reader who does not exist.

    Args:
        slot: the site's own; the imagined reader has it.
    """

    def __init__(self, *, editions: Editions, composer: Composer, slot: Slot) -> None:
        self._editions = editions
        self._composer = composer
        self._slot = slot

    def letters(
        self, revision: Revision, sequence: Sequence, *, country: str | None, discreet: bool, now: datetime
    ) -> Iterator[PreviewedLetter]:
        """Every letter of a sequence, in order, as one reader would get them one after the other.

        Raises:
            RenderError: a letter cannot be rendered.
        """
        revision = identify(revision, live=None, names={})
        sequence = revision.sequence(sequence.key) or sequence
        typesetter = self._editions.typesetter(revision)
        reader = Subscriber(
            id=SubscriberId(uuid4()), address="reader@example.org", address_key="reader@example.org", slot=self._slot,
            pace=1, country=country, discreet=discreet, paused_until=None, link_generation=1, created_at=now,
        )  # fmt: skip
        links = self._composer.links(reader, uuid4())
        had: list[str] = []
        shown: list[str] = []
        for number, step in enumerate(sequence.steps, start=1):
            affirmation = choose_affirmation(revision, step, had=had)
            posts = choose_posts(revision, step, shown=shown, discreet=discreet)
            facts = LetterFacts(
                number=number,
                total=None if sequence.endless else len(sequence.steps),
                affirmation=affirmation,
                posts=posts,
                country=country,
                discreet=discreet,
                welcome_back=False,
                local_date=local_date(now, reader.slot.timezone),
                links=links,
            )
            rendered = typesetter.letter(sequence, step, facts)
            had += [affirmation.key] if affirmation else []
            shown += [post.key for post in posts]
            yield PreviewedLetter(
                step=step,
                rendered=rendered,
                message=self._composer.seal_preview(rendered, reader, unsubscribe=links.unsubscribe, now=now),
            )
