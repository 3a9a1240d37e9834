"""The operator of the demo: a folder of letters, two new ones dropped into it, a dry run, a publication."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from newsletter import resources
from newsletter.bootstrap import App, publish_first
from newsletter.domain.editing import Change
from newsletter.errors import NotFound
from newsletter.service.publishing import Orders, Publication, StepEffect

if TYPE_CHECKING:
    from pathlib import Path

SERIES = "trust"
PASSED_BY = "small-things"
"""A new letter before the reader's place."""
STILL_AHEAD = "an-answer-can-wait"
"""A new letter behind it."""

_SPREAD = 10


class Operator:
    """Publishes from a copy of the shipped content.

    Args:
        content: the folder of the copy.
    """

    def __init__(self, app: App, content: Path) -> None:
        self._app = app
        self._content = content

    def publish_first(self) -> tuple[int, int]:
        """Make the content live; how many sequences and letters there are."""
        publish_first(self._app)
        live = self._app.publishing.live()
        sequences = live.revision.sequences if live else ()
        return len(sequences), sum(len(sequence.steps) for sequence in sequences)

    def letters(self, sequence_key: str) -> dict[str, str]:
        """The live letters of a sequence in their order: key to subject.

        Raises:
            NotFound: there is no such sequence.
        """
        live = self._app.publishing.live()
        sequence = live.revision.sequence(sequence_key) if live else None
        if sequence is None:
            message = f"The sequence {sequence_key!r} is not published."
            raise NotFound(message)
        return {step.key: step.subject for step in sequence.steps}

    def drop_letters(self, *, place: int) -> list[str]:
        """Put two new letters into the series: one before, one behind the place of a reader who had `place`.

        The files are numbered in tens first, to make room: numbers order, and mean nothing else.

        Returns:
            The names of the two new files.
        """
        folder = self._content / "sequences" / SERIES
        for file in sorted(folder.glob("*-*.md"), reverse=True):
            number, _, name = file.name.partition("-")
            file.rename(folder / f"{int(number) * _SPREAD:02}-{name}")
        half = _SPREAD // 2
        numbers = {PASSED_BY: (place - 1) * _SPREAD - half, STILL_AHEAD: place * _SPREAD + half}
        letters = resources.templates_dir() / "demo" / "letters"
        names = {key: f"{number}-{key}.md" for key, number in numbers.items()}
        for key, name in names.items():
            shutil.copyfile(letters / f"{key}.md", folder / name)
        return list(names.values())

    def dry_run(self) -> tuple[StepEffect, ...]:
        """What publishing the folder would do to people, step by step."""
        return _steps(self._app.publishing.preview(self._content, orders=Orders(), now=self._app.clock.now()))

    def publish(self) -> int:
        """Make the folder live; the number of the revision."""
        orders = Orders(note="two new letters")
        return self._app.publishing.publish(self._content, orders=orders, now=self._app.clock.now()).number


def in_words(effect: StepEffect) -> str:
    """What one new step does to people, as the command line says it too."""
    what = ", ".join(effect.change.changes)
    past, ahead = _people(effect.people_past), _people(effect.people_ahead)
    if Change.NEW in effect.change.changes and effect.people_past:
        are = "is" if effect.people_past == 1 else "are"
        return f"{effect.change.key}: {what}; {past} {are} past this step and will not get it"
    return f"{effect.change.key}: {what}; {ahead} will get it"


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _steps(publication: Publication) -> tuple[StepEffect, ...]:
    return tuple(step for sequence in publication.sequences for step in sequence.steps)
