"""What was seen is held against what was expected."""

from __future__ import annotations

from rich.console import Console

from newsletter.demo.expectations import Expectation, Key, Ledger, Verdict

EXPECTATIONS = (
    Expectation(key=Key.WEEKLY, text="One letter a week"),
    Expectation(key=Key.PAUSE, text="Nothing during a pause", from_week=5),
)


def ledger(*, weeks: int = 9) -> tuple[Ledger, list[str]]:
    failures: list[str] = []
    return Ledger(EXPECTATIONS, weeks=weeks, on_failure=failures.append), failures


def test_all_hold_when_all_were_seen_to() -> None:
    book, failures = ledger()
    book.see(Key.WEEKLY, True, "1 letter")
    book.see(Key.WEEKLY, True, "2 letters")
    book.see(Key.PAUSE, True, "silence")
    assert book.complete()
    assert [row.seen for row in book.rows()] == ["2 letters", "silence"]
    assert failures == []


def test_what_broke_once_stays_broken_and_is_told_at_once() -> None:
    book, failures = ledger()
    book.see(Key.PAUSE, True, "silence")
    book.see(Key.WEEKLY, False, "2 in one week")
    book.see(Key.WEEKLY, True, "3 letters")
    assert failures == ["Expected: One letter a week. Seen: 2 in one week."]
    assert not book.complete()
    assert book.rows()[0].seen == "2 in one week"
    assert book.rows()[0].verdict is Verdict.BROKEN


def test_what_never_came_up_is_broken_where_the_weeks_sufficed() -> None:
    book, _ = ledger(weeks=5)
    book.see(Key.WEEKLY, True, "3 letters")
    assert not book.complete()
    assert book.rows()[1].verdict is Verdict.BROKEN


def test_what_needs_more_weeks_than_were_played_is_not_held_against_it() -> None:
    book, _ = ledger(weeks=4)
    book.see(Key.WEEKLY, True, "3 letters")
    assert book.complete()
    assert book.rows()[1].verdict is Verdict.NOT_PLAYED


def test_before_the_end_only_what_came_up_is_shown() -> None:
    book, _ = ledger()
    book.see(Key.WEEKLY, True, "1 letter")
    assert [row.text for row in book.rows()] == ["One letter a week"]


def test_the_table_says_expected_seen_and_so() -> None:
    book, _ = ledger(weeks=4)
    book.see(Key.WEEKLY, False, "[none]")
    book.complete()
    console = Console(width=100)
    with console.capture() as captured:
        console.print(book.table())
    told = captured.get()
    for text in ("One letter a week", "[none]", "failed", "needs 5 weeks", "not played"):
        assert text in told
