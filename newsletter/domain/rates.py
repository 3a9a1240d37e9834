"""How fast letters may leave: a rate, the room that it leaves at an instant, and the warm-up of a new sender.

A rate is kept with one instant, `free_at`: when the letters that were let go would be used up if each took its
interval. Letting one go moves it on by an interval, and nothing has to tick. The same as a bucket of tokens that
holds `Rate.burst` worth of them. Source: the generic cell rate algorithm, ITU-T I.371, annex A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import pairwise
from types import MappingProxyType

from newsletter.domain.addresses import parse_address
from newsletter.errors import AddressError

BURST = timedelta(seconds=0.25)
"""After a rest so much of a rate may leave at once, and one letter. Who asks as often loses nothing of it."""

MOST_A_SECOND = 10_000

EVERY_OTHER = "*"
"""Stands for each domain that is not named."""

_SPANS: Mapping[str, timedelta] = MappingProxyType(
    {
        "second": timedelta(seconds=1),
        "minute": timedelta(minutes=1),
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
    }
)
_RATE = re.compile(r"(\d{1,9})\s*/\s*([a-z]+)")
_FORM = "write a number for a second, minute, hour or day, such as 20/second"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many letters in a span of time, evenly."""

    letters: int
    per: timedelta

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read `20/second`.

        Raises:
            ValueError: the text for whoever wrote it.
        """
        found = _RATE.fullmatch(text.strip().lower())
        if found is None or found[2] not in _SPANS:
            message = f"{text.strip()!r} is no rate; {_FORM}"
            raise ValueError(message)
        letters, per = int(found[1]), _SPANS[found[2]]
        if letters == 0:
            message = (
                f"{text.strip()!r} would never send anything; {_FORM}, or leave the rate out for no limit"
                " (`newsletter stop` stops all sending)"
            )
            raise ValueError(message)
        if letters > MOST_A_SECOND * per.total_seconds():
            message = f"{text.strip()!r} is more than {MOST_A_SECOND}/second; leave the rate out for no limit"
            raise ValueError(message)
        return cls(letters=letters, per=per)

    @property
    def interval(self) -> timedelta:
        """From one letter to the next."""
        return self.per / self.letters

    @property
    def burst(self) -> timedelta:
        """How far letters may run ahead of their time."""
        return BURST + self.interval

    def room(self, free_at: datetime | None, *, now: datetime) -> int:
        """How many letters may leave now."""
        return max(0, (now + self.burst - _not_past(free_at, now)) // self.interval)

    def next_room(self, free_at: datetime | None, *, now: datetime) -> datetime:
        """When there is room for one letter more: now, or later."""
        return max(now, _not_past(free_at, now) + self.interval - self.burst)

    def charge(self, free_at: datetime | None, letters: int, *, now: datetime) -> datetime:
        """What `free_at` becomes when so many letters leave, whether there was room for them or not."""
        return _not_past(free_at, now) + letters * self.interval

    def refund(self, free_at: datetime, letters: int) -> datetime:
        """What `free_at` becomes when so many letters that were let go did not leave."""
        return free_at - letters * self.interval


def _not_past(instant: datetime | None, now: datetime) -> datetime:
    return now if instant is None else max(instant, now)


def slower(one: Rate | None, other: Rate | None) -> Rate | None:
    """The lower of two rates; None is no limit."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda rate: rate.interval)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of an installation: of all letters together, and of those to one domain.

    Attributes:
        overall: for the whole fleet, whatever number of workers it has.
        domains: by the domain of the recipient as the DNS knows it.
        every_other: for each domain that `domains` does not name.
    """

    overall: Rate | None = None
    domains: Mapping[str, Rate] = field(default_factory=lambda: MappingProxyType({}))
    every_other: Rate | None = None

    @classmethod
    def parse(cls, text: str) -> Rates:
        """Read `20/second, gmail.com=5/second, *=600/hour`; each part may be missing.

        Raises:
            ValueError: the text for whoever wrote it.
        """
        named: dict[str, Rate] = {}
        for entry in (part.strip() for part in text.split(",")):
            if not entry:
                continue
            domain, has_domain, rate = entry.rpartition("=")
            name = _domain(domain.strip()) if has_domain else ""
            if name in named:
                message = f"{entry!r} is the second rate of the same; write one for all letters, and one for a domain"
                raise ValueError(message)
            named[name] = Rate.parse(rate)
        overall, every_other = named.pop("", None), named.pop(EVERY_OTHER, None)
        return cls(overall=overall, domains=MappingProxyType(named), every_other=every_other)

    @property
    def know_domains(self) -> bool:
        """Whether any domain has a rate."""
        return bool(self.domains) or self.every_other is not None

    def of(self, domain: str) -> Rate | None:
        """The rate of a recipient's domain; None where it has none."""
        return self.domains.get(domain, self.every_other)


def _domain(text: str) -> str:
    if text == EVERY_OTHER:
        return text
    try:
        return parse_address(f"somebody@{text}").domain_ascii
    except AddressError as error:
        message = f"{text!r} is no domain of an address; write gmail.com=5/second, or *=5/second for each other one"
        raise ValueError(message) from error


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a rate remembers, and the end of the line of those that wait for their turn."""

    free_at: datetime | None = None
    queued_until: datetime | None = None


def line_up(
    rate: Rate, line: Line, waited: Sequence[bool], *, now: datetime, not_before: datetime | None = None
) -> tuple[list[datetime | None], Line]:
    """Say to each of some letters, in order, that it may leave now (None), or when its turn is.

    Turns are an interval apart, so that whoever comes back at theirs finds room and is put off once only. That is
    why a letter that comes for the first time joins the line where there is one.

    Args:
        waited: by letter, whether it was put off before.
        not_before: nothing may leave earlier.
    """
    free_at, tail = line.free_at, line.queued_until
    turns: list[datetime | None] = []
    for has_waited in waited:
        is_closed = not_before is not None and not_before > now
        is_queued = not has_waited and tail is not None and tail > now
        if is_closed or is_queued or rate.room(free_at, now=now) == 0:
            not_sooner = [instant for instant in (tail, not_before) if instant is not None]
            turn = max([rate.next_room(free_at, now=now), *not_sooner])
            turns.append(turn)
            tail = turn + rate.interval
        else:
            free_at = rate.charge(free_at, 1, now=now)
            turns.append(None)
    return turns, Line(free_at=free_at, queued_until=tail)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """How many letters may leave on each of the first days of a new sender; after them there is no limit."""

    days: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> WarmUp | None:
        """Read `50, 100, 500`; None where nothing is written.

        Raises:
            ValueError: the text for whoever wrote it.
        """
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        form = "write how many letters on each day, growing, such as 50,100,500,1000"
        wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part) or int(part) == 0]
        if wrong:
            message = f"{wrong[0]!r} is no number of letters for a day; {form}"
            raise ValueError(message)
        days = tuple(int(part) for part in parts)
        shrinks = [later for earlier, later in pairwise(days) if later < earlier]
        if shrinks:
            message = f"{shrinks[0]} is fewer than on the day before; {form}"
            raise ValueError(message)
        return cls(days=days) if days else None

    @property
    def plan(self) -> str:
        """The plan as it is remembered: another plan begins at its own first day."""
        return ",".join(map(str, self.days))

    def allowance(self, progress: Progress) -> int | None:
        """How many letters may still leave on the day that `progress` has come to; None: the plan is over."""
        if progress.day > len(self.days):
            return None
        return max(0, self.days[progress.day - 1] - progress.sent)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a warm-up has come.

    Attributes:
        day: counted from 1, and only over days on which letters left: a list whose letters all leave on Thursdays
            is not warmed up by the six days between.
        on: the local date of that day.
        sent: how many letters left on it.
    """

    day: int
    on: date
    sent: int


def progress_on(today: date, progress: Progress | None) -> Progress:
    """How far a warm-up is on a date; where the clock has gone back, the later date's day goes on."""
    if progress is None:
        return Progress(day=1, on=today, sent=0)
    if today > progress.on:
        return Progress(day=progress.day + (progress.sent > 0), on=today, sent=0)
    return progress
