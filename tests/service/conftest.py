"""A house on both engines, with a real mail server beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from newsletter.content import snapshot
from newsletter.rendering.sandbox import LetterEnvironment
from newsletter.rendering.typesetting import Typesetter
from tests.support.building import House
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from newsletter.domain.sequence import Sequence, Step
    from newsletter.rendering.facts import Site


# The fixtures that fill these are gone when a module ends, so that no other room meets what they patch.
_COMPILED: dict[tuple[str, str | None, str | None], Any] = {}
_SOUND: set[tuple[str, Site, str, str]] = set()


@pytest.fixture(scope="module", autouse=True)
def templates_compiled_once() -> Iterator[None]:
    """Jinja compiles the same template to the same code: once for all tests, which halves their time."""
    usual = LetterEnvironment.compile

    def compile_once(
        self: LetterEnvironment, source: Any, name: str | None = None, filename: str | None = None, *more: Any
    ) -> Any:
        if more or not isinstance(source, str):
            return usual(self, source, name, filename, *more)
        key = (source, name, filename)
        if key not in _COMPILED:
            _COMPILED[key] = usual(self, source, name, filename)
        return _COMPILED[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LetterEnvironment, "compile", compile_once)
        yield


@pytest.fixture(scope="module", autouse=True)
def letters_checked_once() -> Iterator[None]:
    """A letter that was found sound is not proofread again for the next test that publishes the same folder."""
    usual = Typesetter.check

    def check_once(self: Typesetter, sequence: Sequence, step: Step) -> None:
        key = (snapshot.digest(self._revision), self._site, sequence.key, step.key)
        if key not in _SOUND:
            usual(self, sequence, step)
            _SOUND.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Typesetter, "check", check_once)
        yield


@pytest.fixture
def open_house(migrated_url: str, tmp_path: Path, post: SmtpServer) -> Iterator[Callable[..., House]]:
    """Opens the program on this test's database, with other settings than usual; again for a second process."""
    opened: list[House] = []

    def open_it(**settings: Any) -> House:
        opened.append(House(migrated_url, tmp_path, post=post, **settings))
        return opened[-1]

    yield open_it
    for house in opened:
        house.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    """The program on this test's database, with nothing published and nobody subscribed."""
    return open_house()
