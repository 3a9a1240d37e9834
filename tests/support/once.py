"""What takes long, comes to the same each time, and is not what a test is about: done once in a process.

Whoever begins one of these must end it, so that no other room meets what it patches.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest

from newsletter.content import snapshot
from newsletter.rendering.sandbox import LetterEnvironment
from newsletter.rendering.typesetting import Typesetter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from newsletter.domain.sequence import Sequence, Step
    from newsletter.rendering.facts import Site

_COMPILED: dict[tuple[str, str | None, str | None], Any] = {}
_SOUND: set[tuple[str, Site, str, str]] = set()
_DIGESTS: WeakKeyDictionary[Typesetter, str] = WeakKeyDictionary()


@contextmanager
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


@contextmanager
def letters_checked_once() -> Iterator[None]:
    """A letter that was found sound is not proofread again for the next test that publishes the same folder."""
    usual = Typesetter.check

    def check_once(self: Typesetter, sequence: Sequence, step: Step) -> None:
        if self not in _DIGESTS:
            _DIGESTS[self] = snapshot.digest(self._revision)
        key = (_DIGESTS[self], self._site, sequence.key, step.key)
        if key not in _SOUND:
            usual(self, sequence, step)
            _SOUND.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Typesetter, "check", check_once)
        yield
