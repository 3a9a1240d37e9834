"""What the demo promises, what was seen of it, and whether the two agree."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable


class Key(StrEnum):
    """Each expectation of the story."""

    LOOKING = "looking"
    CONFIRMING = "confirming"
    WEEKLY = "weekly"
    HOUR = "hour"
    ORDER = "order"
    PARTS = "parts"
    WAY_OUT = "way out"
    PAUSE = "pause"
    WELCOME_BACK = "welcome back"
    DRY_RUN = "dry run"
    PASSED_BY = "passed by"
    NEW_STEP = "new step"
    GOES_ON = "goes on"
    LEAVING = "leaving"
    SILENCE = "silence"


class Verdict(StrEnum):
    """How an expectation came out, in the word that the table shows."""

    HELD = "ok"
    BROKEN = "failed"
    NOT_PLAYED = "not played"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One promise. `from_week`: a story of so many weeks shows it."""

    key: Key
    text: str
    from_week: int = 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    text: str
    seen: str
    verdict: Verdict


class Ledger:
    """Notes what is seen, as it goes.

    Args:
        weeks: how many local weeks the story plays.
        on_failure: told in a sentence when an expectation breaks, each time.
    """

    def __init__(self, expectations: tuple[Expectation, ...], *, weeks: int, on_failure: Callable[[str], None]) -> None:
        self._expectations = {expectation.key: expectation for expectation in expectations}
        self._weeks = weeks
        self._on_failure = on_failure
        self._seen: dict[Key, tuple[bool, str]] = {}
        self.is_complete = False

    def see(self, key: Key, held: bool, seen: str) -> None:  # noqa: FBT001  (reads as a statement)
        """Note that an expectation held or did not; once broken it stays broken, with what was seen then."""
        before, _ = self._seen.get(key, (True, ""))
        if before:
            self._seen[key] = (held, seen)
        if not held:
            self._on_failure(f"Expected: {self._expectations[key].text}. Seen: {seen}.")

    def complete(self) -> bool:
        """Close the ledger: what should have come up and did not is broken, too.

        Returns:
            Whether every expectation held.
        """
        self.is_complete = True
        return all(row.verdict is not Verdict.BROKEN for row in self.rows())

    def rows(self) -> list[Row]:
        """The table; before the end without what has not come up yet."""
        rows = [self._row(expectation) for expectation in self._expectations.values()]
        return rows if self.is_complete else [row for row in rows if row.verdict is not Verdict.NOT_PLAYED]

    def table(self) -> Table:
        """The table for the terminal."""
        table = Table(title="What happened", title_justify="left", title_style="bold", expand=False)
        table.add_column("Expected")
        table.add_column("Seen")
        table.add_column("", no_wrap=True)
        styles = {Verdict.HELD: "green", Verdict.BROKEN: "bold red", Verdict.NOT_PLAYED: "dim"}
        for row in self.rows():
            table.add_row(Text(row.text), Text(row.seen), Text(row.verdict, styles[row.verdict]))
        return table

    def _row(self, expectation: Expectation) -> Row:
        if expectation.key in self._seen:
            held, seen = self._seen[expectation.key]
            return Row(text=expectation.text, seen=seen, verdict=Verdict.HELD if held else Verdict.BROKEN)
        if self.is_complete and self._weeks >= expectation.from_week:
            return Row(text=expectation.text, seen="it never came to that", verdict=Verdict.BROKEN)
        seen = f"needs {expectation.from_week} weeks" if expectation.from_week else ""
        return Row(text=expectation.text, seen=seen, verdict=Verdict.NOT_PLAYED)
