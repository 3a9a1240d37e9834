"""What happened so far, told twice: a line each in the terminal, and kept for the inbox page."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from rich.text import Text

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from newsletter.clock import Clock


class Kind(StrEnum):
    """Who or what a line is about."""

    READER = "reader"
    OPERATOR = "operator"
    MAIL = "mail"
    CLOCK = "clock"
    FAULT = "fault"


_STYLES = {
    Kind.READER: "",
    Kind.OPERATOR: "magenta",
    Kind.MAIL: "cyan",
    Kind.CLOCK: "dim",
    Kind.FAULT: "bold red",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One event; `at` is business time."""

    at: datetime
    kind: Kind
    text: str


class Chronicle:
    """The story so far, in the order in which it happened.

    Args:
        clock: business time, read for each line.
        timezone: whose local time the lines carry.
    """

    def __init__(self, *, clock: Clock, timezone: str, console: Console) -> None:
        self._clock = clock
        self._zone = ZoneInfo(timezone)
        self._console = console
        self._lines: list[Line] = []

    def tell(self, kind: Kind, text: str, *, at: datetime | None = None) -> None:
        """Add a line, of now or of an earlier instant."""
        line = Line(at=at or self._clock.now(), kind=kind, text=text)
        self._lines.append(line)
        told = Text.assemble((self.local_text(line.at), "dim"), "  ", (line.text, _STYLES[kind]))
        self._console.print(told, soft_wrap=True, highlight=False)

    def lines(self) -> tuple[Line, ...]:
        """Every line so far; pages ask for them from other threads."""
        return tuple(self._lines)

    def local_text(self, at: datetime) -> str:
        """An instant on the wall clock of the story: Thu 3 Dec 2026 08:00."""
        local = at.astimezone(self._zone)
        return f"{local:%a} {local.day:>2} {local:%b %Y %H:%M}"
