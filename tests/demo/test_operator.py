"""The operator's two new letters: publishable, and in the right places."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from newsletter import resources
from newsletter.content.files import read_content
from newsletter.content.lint import lint
from newsletter.demo.operator import PASSED_BY, STILL_AHEAD, Operator, in_words
from newsletter.domain.editing import Change, StepChange
from newsletter.errors import NotFound
from newsletter.service.publishing import StepEffect

if TYPE_CHECKING:
    from pathlib import Path

    from newsletter.bootstrap import App


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of the shipped content."""
    shutil.copytree(resources.content_dir(), tmp_path / "shipped")
    return tmp_path / "shipped"


def test_the_new_letters_stand_on_either_side_of_the_readers_place(app: App, shipped: Path) -> None:
    before = [step.key for step in read_content(shipped).sequence("trust").steps]  # type: ignore[union-attr]
    names = Operator(app, shipped).drop_letters(place=5)
    after = [step.key for step in read_content(shipped).sequence("trust").steps]  # type: ignore[union-attr]
    assert names == [f"35-{PASSED_BY}.md", f"55-{STILL_AHEAD}.md"]
    assert after == [*before[:3], PASSED_BY, *before[3:5], STILL_AHEAD, *before[5:]]


def test_the_new_letters_are_as_sound_as_the_others(app: App, shipped: Path) -> None:
    Operator(app, shipped).drop_letters(place=5)
    revision = read_content(shipped)
    report = lint(revision, countries=["IE"], today=datetime(2026, 11, 30, tzinfo=UTC).date())
    assert not report.errors
    assert [str(warning) for warning in report.warnings if ".md" in warning.path] == []


def test_the_letters_of_a_sequence_are_those_that_are_live(app: App, content: Path) -> None:
    letters = Operator(app, content).letters("short")
    assert letters == {
        "letter-1": "A letter about very little, 1",
        "letter-2": "A letter about very little, 2",
    }
    with pytest.raises(NotFound, match="'long' is not published"):
        Operator(app, content).letters("long")


@pytest.mark.parametrize(
    ("past", "ahead", "words"),
    [
        (1, 0, "walk: new; 1 person is past this step and will not get it"),
        (10, 2, "walk: new; 10 people are past this step and will not get it"),
        (0, 1, "walk: new; 1 person will get it"),
    ],
)
def test_what_a_new_letter_does_is_said_in_numbers_of_people(past: int, ahead: int, words: str) -> None:
    change = StepChange(sequence_key="trust", key="walk", identity="walk", changes=(Change.NEW,))
    assert in_words(StepEffect(change=change, people_past=past, people_ahead=ahead)) == words
