"""Each letter is held against what was expected of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

import pytest

from newsletter.demo.expectations import Expectation, Key, Ledger, Verdict
from newsletter.demo.letters import Check, arrival, counted, day_in_words
from newsletter.demo.mailbox import Mail

if TYPE_CHECKING:
    from pathlib import Path

BOUNDARY = 'Content-Type: multipart/alternative; boundary="="\r\n\r\n'
PART = "--=\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n{text}\r\n"
WAY_OUT = "List-Unsubscribe: <https://example.org/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
BEFORE_THE_CHANGE = datetime(2026, 10, 22, 7, tzinfo=UTC)
AFTER_IT = datetime(2026, 10, 29, 8, tzinfo=UTC)


class Letters:
    """Makes mails, and judges them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ledger = Ledger(
            tuple(Expectation(key=key, text=str(key)) for key in Key), weeks=99, on_failure=lambda _: None
        )
        self.check = Check(self.ledger, timezone="Europe/Dublin", slot=time(8))

    def mail(
        self, number: int, *, at: datetime, headers: str = WAY_OUT, text: str = "Hello", html: str = "<p>Hello"
    ) -> Mail:
        parts = [("plain", text), ("html", html)]
        body = "".join(PART.format(kind=kind, text=part) for kind, part in parts if part)
        path = self._folder / str(number)
        path.write_bytes(f"{headers}{BOUNDARY}{body}--=--\r\n".encode())
        return Mail(
            number=number, path=path, sender="", to="", subject=f"Letter {number}", at=at, message_id=str(number)
        )  # fmt: skip

    def verdict(self, key: Key) -> tuple[Verdict, str]:
        [row] = [row for row in self.ledger.rows() if row.text == key]
        return row.verdict, row.seen


@pytest.fixture
def letters(tmp_path: Path) -> Letters:
    """A maker of mails with an empty ledger."""
    return Letters(tmp_path)


def test_one_letter_in_each_local_week_holds(letters: Letters) -> None:
    first, second = letters.mail(1, at=BEFORE_THE_CHANGE), letters.mail(2, at=AFTER_IT)
    letters.check.weekly([first], [first])
    letters.check.weekly([second], [first, second])
    assert letters.verdict(Key.WEEKLY) == (Verdict.HELD, "2 letters in 2 local weeks")


@pytest.mark.parametrize("arrived", [0, 2])
def test_none_or_two_letters_in_a_week_break_it(letters: Letters, arrived: int) -> None:
    mails = [letters.mail(number, at=AFTER_IT) for number in range(arrived)]
    letters.check.weekly(mails, mails)
    assert letters.verdict(Key.WEEKLY) == (Verdict.BROKEN, f"{arrived} in one week")


def test_the_same_letter_a_week_later_breaks_it(letters: Letters) -> None:
    first = letters.mail(1, at=BEFORE_THE_CHANGE)
    again = replace(first, at=AFTER_IT)
    letters.check.weekly([again], [first, again])
    assert letters.verdict(Key.WEEKLY)[0] is Verdict.BROKEN


def test_the_local_hour_counts_on_either_side_of_a_clock_change(letters: Letters) -> None:
    mails = [letters.mail(1, at=BEFORE_THE_CHANGE), letters.mail(2, at=AFTER_IT)]
    letters.check.every(mails[0], mails[:1])
    letters.check.every(mails[1], mails)
    assert letters.verdict(Key.HOUR) == (Verdict.HELD, "07:00, then 08:00 UTC")


@pytest.mark.parametrize("at", [AFTER_IT.replace(hour=7), AFTER_IT.replace(day=30), AFTER_IT.replace(minute=1)])
def test_another_hour_or_day_breaks_it(letters: Letters, at: datetime) -> None:
    mail = letters.mail(1, at=at)
    letters.check.every(mail, [mail])
    assert letters.verdict(Key.HOUR)[0] is Verdict.BROKEN


@pytest.mark.parametrize(
    ("lacking", "broken"),
    [({"text": ""}, Key.PARTS), ({"html": ""}, Key.PARTS), ({"headers": ""}, Key.WAY_OUT)],
)
def test_a_part_or_a_way_out_that_is_missing_breaks_it(letters: Letters, lacking: dict[str, str], broken: Key) -> None:
    mail = letters.mail(1, at=AFTER_IT, **lacking)
    letters.check.every(mail, [mail])
    assert {key for key in (Key.PARTS, Key.WAY_OUT) if letters.verdict(key)[0] is Verdict.BROKEN} == {broken}


BACK = "Welcome back. This is letter 4."


@pytest.mark.parametrize(
    ("text", "html", "back", "verdict"),
    [
        (BACK, BACK, True, Verdict.HELD),
        (BACK, "Hello", True, Verdict.BROKEN),
        ("Hello", BACK, True, Verdict.BROKEN),
        ("Hello", "Hello", True, Verdict.BROKEN),
        (BACK, BACK, False, Verdict.BROKEN),
        ("Hello", BACK, False, Verdict.BROKEN),
    ],
)
def test_welcome_back_stands_where_somebody_comes_back_and_nowhere_else(
    letters: Letters, text: str, html: str, back: bool, verdict: Verdict
) -> None:
    letters.check.welcome(letters.mail(4, at=AFTER_IT, text=text, html=html), back=back)
    assert letters.verdict(Key.WELCOME_BACK)[0] is verdict


@pytest.mark.parametrize(
    ("number", "text", "verdict"),
    [
        (2, "Letter 2 of 3", Verdict.HELD),
        (3, "Letter 2 of 3", Verdict.BROKEN),
        (2, "Letter 3 of 3", Verdict.BROKEN),
        (2, "Letter 2 of 4", Verdict.BROKEN),
        (2, "Hello", Verdict.BROKEN),
    ],
)
def test_the_order_is_that_of_the_series_and_is_said(
    letters: Letters, number: int, text: str, verdict: Verdict
) -> None:
    first = letters.mail(1, at=BEFORE_THE_CHANGE)
    mail = letters.mail(number, at=AFTER_IT, text=text)
    letters.check.order(mail, [first, mail], ["Letter 1", "Letter 2", "Letter 3"])
    assert letters.verdict(Key.ORDER)[0] is verdict


def test_what_comes_after_the_series_has_no_place_in_its_order(letters: Letters) -> None:
    mail = letters.mail(9, at=AFTER_IT)
    letters.check.order(mail, [mail, mail], ["Letter 1"])
    assert not letters.ledger.rows()


def test_a_letter_is_announced_with_its_number_and_a_note_without(letters: Letters) -> None:
    assert arrival(letters.mail(3, at=AFTER_IT, text="Letter 3 of 9")) == "Letter 3 of 9 arrives: Letter 3"
    assert arrival(letters.mail(3, at=AFTER_IT)) == "A weekly note arrives: Letter 3"


def test_numbers_and_days_are_said_as_people_say_them() -> None:
    assert [counted(1, "week"), counted(2, "week")] == ["1 week", "2 weeks"]
    assert day_in_words(date(2026, 10, 5)) == "Monday 5 October 2026"
