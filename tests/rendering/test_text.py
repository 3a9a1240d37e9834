"""Plain text as somebody would type it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.rendering.text import WIDTH, tidied, underlined, wrapped

WORDS = st.lists(st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20), max_size=60)


@given(words=WORDS)
def test_wrapping_keeps_the_words_and_the_width(words: list[str]) -> None:
    text = wrapped(" ".join(words), "- ", "  ")
    assert text.removeprefix("- ").split() == words
    assert all(len(line) <= WIDTH for line in text.splitlines())


def test_an_address_has_a_line_to_itself_and_is_never_cut() -> None:
    url = "https://example.org/" + "x" * 90
    assert wrapped(f"Look at {url} when it suits you.") == f"Look at\n{url}\nwhen it suits you."
    assert wrapped("Look at https://e.org/ today.") == "Look at\nhttps://e.org/\ntoday."


@pytest.mark.parametrize(
    ("text", "first", "rest", "expected"),
    [
        ("a\nb", "", None, "a\nb"),
        ("a b", "- ", None, "- a b"),
        ("a\nb", "1. ", None, "1. a\n   b"),
        ("a\nb", "> ", "> ", "> a\n> b"),
        ("", "", None, ""),
    ],
)
def test_what_stands_before_the_lines(text: str, first: str, rest: str | None, expected: str) -> None:
    assert wrapped(text, first, rest) == expected


def test_a_heading_is_underlined_as_long_as_its_longest_line() -> None:
    assert underlined("Three small habits") == "Three small habits\n------------------"
    two = underlined("word " * 20, "=").splitlines()
    assert len(two[-1]) == max(map(len, two[:-1])) <= WIDTH


def test_tidying_removes_what_conditions_leave_behind() -> None:
    assert tidied("\n\na  \n\n\n\n b\n\n") == "a\n\n b\n"
