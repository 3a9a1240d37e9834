"""Published revisions, read once and kept ready to render from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from newsletter.content import snapshot
from newsletter.domain import progress
from newsletter.domain.progress import Outline, Place
from newsletter.domain.sequence import Revision, Step
from newsletter.domain.sequence import Sequence as LetterSequence
from newsletter.rendering.facts import Site
from newsletter.rendering.typesetting import Typesetter
from newsletter.store import revisions
from newsletter.store.database import Connection

_KEPT = 4
_KEPT_PLACES = 4096


@dataclass(frozen=True, kw_only=True)
class Edition:
    """A revision, ready for use.

    Attributes:
        outlines: by sequence, its order in every revision up to this one.
        steps: each step with its sequence, by the key of the sequence and the step's identity.
    """

    number: int
    revision: Revision
    typesetter: Typesetter
    outlines: Mapping[str, Sequence[Outline]]
    steps: Mapping[tuple[str | None, str | None], tuple[LetterSequence, Step]]
    _next: dict[tuple[str, Place], Step | None] = field(default_factory=dict, repr=False, compare=False)

    def upcoming(self, sequence_key: str, place: Place) -> Step | None:
        """The step that comes next at a place in a sequence, or None at the end of the round.

        Remembered: many readers stand in the same place.
        """
        key = sequence_key, place
        with suppress(KeyError):
            return self._next[key]
        sequence = self.revision.sequence(sequence_key)
        step = None
        if sequence is not None:
            step = progress.next_step(sequence, received=place.received, passed=place.passed)
        if len(self._next) >= _KEPT_PLACES:
            self._next.clear()
        self._next[key] = step
        return step


class Editions:
    """Finds the live revision and older ones; each is read once.

    Args:
        site: in whose name letters are set.
        shipped_templates: the folder of the program's own templates.
    """

    def __init__(self, *, site: Site, shipped_templates: Path) -> None:
        self._site = site
        self._shipped_templates = shipped_templates
        self._kept: dict[int, Edition] = {}
        self._lock = Lock()

    def live(self, connection: Connection) -> Edition | None:
        """The live revision, or None while nothing is published."""
        number = revisions.live_number(connection)
        return self.get(connection, number) if number else None

    def get(self, connection: Connection, number: int) -> Edition:
        """The revision of that number.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            edition = self._kept.get(number)
        if edition is not None:
            return edition
        revision = snapshot.from_json(revisions.get_snapshot(connection, number))
        outlines = {
            key: [outline for outline in history if outline.revision <= number]
            for key, history in revisions.outlines(connection).items()
        }
        edition = Edition(
            number=number,
            revision=revision,
            typesetter=self.typesetter(revision),
            outlines=outlines,
            steps={
                (sequence.key, step.identity): (sequence, step)
                for sequence in revision.sequences
                for step in sequence.steps
            },
        )
        with self._lock:
            self._kept[number] = edition
            for old in sorted(self._kept)[:-_KEPT]:
                if old != number:
                    del self._kept[old]
        return edition

    def typesetter(self, revision: Revision) -> Typesetter:
        """A typesetter for a revision, published or not."""
        return Typesetter(revision, self._site, shipped_templates=self._shipped_templates)
