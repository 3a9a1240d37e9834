"""When the next letter leaves: slots, gaps, pauses and late letters, as pure arithmetic.

A slot is wall-clock time ("Tuesday 09:00 in Berlin" stays 09:00 across both clock changes); an instant is an
aware datetime, returned in UTC. A time that a clock change skips is read with the offset before the change, a
time that comes twice means the first of the two; that is `fold=0`. Source: RFC 5545, section 3.3.5.

A zone that this machine's time zone data does not know counts as UTC, so that one strange row never stops the
planning of all others; whoever takes a name from outside asks `known_timezone` first.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache, lru_cache
from typing import Literal, Self

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

MIN_GAP = timedelta(hours=120)
"""Elapsed time from one acceptance to the next letter of a weekly sequence, at least."""

LATE_AFTER = timedelta(hours=2)
"""A letter further behind its slot than this is late: it leaves in waking hours only."""

WAKING = (time(8), time(20))
"""Local hours in which a late letter may leave: from the first, until just before the second."""

_SLOT_FORM = re.compile(r"\s*([A-Za-z]{3,})\s+([0-9]{1,2}):([0-9]{2})\s*")
_WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)

Rule = Literal["slot", "after", "min_gap", "not_before"]
"""Why a letter is due when it is.

slot: the reader's own rhythm. after: the step's own distance to the last letter. min_gap: a slot was too soon
after the last letter. not_before: something held the letter back until then (a pause, a cap, a hard day).
"""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """When a reader's letters come.

    Attributes:
        weekday: 0 is Monday.
        at: local time, hours and minutes, without a zone.
        timezone: an IANA name.
    """

    weekday: int
    at: time
    timezone: str

    def __post_init__(self) -> None:
        """Refuse a value that means no weekday or no local time.

        Raises:
            ValueError: the weekday is not 0 to 6, or the time has a zone, seconds or a fold.
        """
        if self.weekday not in range(len(WEEKDAYS)):
            message = f"{self.weekday} is no weekday; 0 is Monday and 6 is Sunday."
            raise ValueError(message)
        if self.at != time(self.at.hour, self.at.minute) or self.at.fold:
            message = f"{self.at} is no slot time; a slot has hours and minutes, and its zone stands apart."
            raise ValueError(message)

    @classmethod
    def parse(cls, text: str, *, timezone: str) -> Self:
        """Read a weekday and a time of day such as "thu 08:00" or "Thursday 8:00".

        Raises:
            ValueError: not understood, or the zone is unknown; the text says what to write instead.
        """
        form = _SLOT_FORM.fullmatch(text)
        if form is None:
            message = f"{text!r} is no slot; write a weekday and a time, as in thu 08:00."
            raise ValueError(message)
        name = form[1].lower()
        if not any(day.startswith(name) for day in _WEEKDAY_NAMES):
            message = f"{form[1]!r} is no weekday; write one of {', '.join(WEEKDAYS)}, as in thu 08:00."
            raise ValueError(message)
        try:
            at = time(int(form[2]), int(form[3]))
        except ValueError:
            message = f"{form[2]}:{form[3]} is no time of day; write 00:00 to 23:59, as in thu 08:00."
            raise ValueError(message) from None
        if not known_timezone(timezone):
            message = f"{timezone!r} is no time zone we know; {_zone_advice(timezone)}"
            raise ValueError(message)
        return cls(weekday=WEEKDAYS.index(name[:3]), at=at, timezone=timezone)

    def __str__(self) -> str:
        """The slot as `parse` reads it, followed by its zone."""
        return f"{WEEKDAYS[self.weekday]} {self.at:%H:%M} {self.timezone}"


@dataclass(frozen=True, kw_only=True)
class Due:
    """When a letter is due (UTC), and the rule that decided it."""

    at: datetime
    rule: Rule


def known_timezone(name: str) -> bool:
    """Whether `name` is an IANA zone, or a link to one such as Europe/Kiev, in this machine's data."""
    return name in _timezones()


@lru_cache(maxsize=4096)
def local_date(instant: datetime, timezone: str) -> date:
    """The date in `timezone` at an instant."""
    return _local(instant, timezone).date()


def slot_instant(day: date, at: time, timezone: str) -> datetime:
    """The instant (UTC) at which a wall clock in `timezone` shows `at` on `day`.

    In a gap the offset before the gap applies: 02:30 becomes 03:30. In an overlap it is the first of the two.
    Source: RFC 5545, section 3.3.5.
    """
    return _slot_instant(day, at.replace(fold=0) if at.fold else at, timezone)


@lru_cache(maxsize=4096)
def _slot_instant(day: date, at: time, timezone: str) -> datetime:
    # Kept, since most readers of a zone have the same slot, and each letter asks for several.
    return datetime.combine(day, at, tzinfo=_zone(timezone)).astimezone(UTC)


def first_slot(slot: Slot, *, not_before: datetime) -> datetime:
    """The first instant of the slot at or after `not_before`."""
    # Where a gap swallowed a whole day (Apia, 30 December 2011), that day's slot happens on the next one. The
    # search begins a week early, so that whoever asks on that next day is still given it.
    day = _weekday_on_or_after(slot.weekday, local_date(not_before, slot.timezone)) - _WEEK
    while (instant := slot_instant(day, slot.at, slot.timezone)) < not_before:
        day += _WEEK
    return instant


def min_gap(pace: int) -> timedelta:
    """Elapsed time from one acceptance to the next letter, at least, for one letter every `pace` weeks.

    Raises:
        ValueError: `pace` is below 1.
    """
    if pace < 1:
        message = f"A pace of {pace} weeks is none; 1 is weekly."
        raise ValueError(message)
    return MIN_GAP + (pace - 1) * _WEEK


@lru_cache(maxsize=1024)
def next_due(
    slot: Slot,
    *,
    now: datetime,
    last_letter_at: datetime | None,
    after: timedelta | None,
    pace: int,
    not_before: datetime | None = None,
) -> Due:
    """When the letter that follows the one accepted at `last_letter_at` is due.

    Without `after`: the first slot that is neither past, nor before `not_before`, nor closer than `min_gap`
    to the last letter. With it: slot time on the local date that lies `after` times `pace` behind the last
    letter's, on whichever weekday; where that is past or before `not_before`, the first slot that is neither.

    Never before `now`, and never closer to the last letter than that, even where the clock was set back and
    `now` lies before `last_letter_at`. `after` is the step's own distance in days, a begun day counted as a
    whole one; before the first letter it means nothing. `not_before` comes from a pause, a cap or a hard day.
    """
    # Kept, since those of one slot get their letters in the same moment, and with them the same answer.
    if last_letter_at is not None and after is not None:
        return _due_after(slot, now, last_letter_at, max(1, -(-after // _DAY)) * pace, not_before)

    gap_ends = now if last_letter_at is None else last_letter_at + min_gap(pace)
    free = first_slot(slot, not_before=max(now, gap_ends))
    if not_before is not None and not_before > free:
        return Due(at=first_slot(slot, not_before=not_before), rule="not_before")
    if gap_ends <= now or last_letter_at is None:
        return Due(at=free, rule="slot")
    # The reader's rhythm alone would give a slot `pace` weeks on, or the first one that is not past. What is
    # later than both was held back by min_gap, and `explain` has to be able to say so.
    rested = local_date(last_letter_at, slot.timezone) + (pace - 1) * _WEEK + _DAY
    in_rhythm = free == _slot_on_or_after(slot, rested) or free == first_slot(slot, not_before=now)
    return Due(at=free, rule="slot" if in_rhythm else "min_gap")


def resume_due(slot: Slot, *, on: date, now: datetime, last_letter_at: datetime | None, pace: int) -> Due:
    """When the next letter is due after a pause until `on`: the first slot on or after that local date.

    `min_gap` to the last letter is kept. The rule "not_before" means that the pause decided.
    """
    resumed = _slot_on_or_after(slot, on)
    return next_due(slot, now=now, last_letter_at=last_letter_at, after=None, pace=pace, not_before=resumed)


def local_week(instant: datetime, timezone: str) -> tuple[int, int]:
    """ISO year and week of the local date; pairs compare in the order of time."""
    year, week, _ = local_date(instant, timezone).isocalendar()
    return year, week


def first_slot_in_later_week(slot: Slot, *, week: tuple[int, int], not_before: datetime) -> datetime:
    """The first slot at or after `not_before` whose local week comes after `week`."""
    monday_after = date.fromisocalendar(*week, 1) + _WEEK
    return first_slot(slot, not_before=max(not_before, _slot_on_or_after(slot, monday_after)))


def is_late(due_at: datetime, *, now: datetime) -> bool:
    """Whether a letter due at `due_at` is more than LATE_AFTER behind."""
    return now - due_at > LATE_AFTER


def waking_from(now: datetime, timezone: str) -> datetime:
    """When a late letter may leave (UTC): `now` from 08:00 to 20:00 local, else the next local 08:00."""
    if _awake(now, timezone):
        return now.astimezone(UTC)
    zone, today = _zone(timezone), local_date(now, timezone)
    # Where a day comes twice, its first 08:00 may be over and its second one yet to come. Where a gap
    # swallowed 08:00, the hour that stands for it may be no waking one; then it is the day after.
    mornings = [
        datetime.combine(today + days * _DAY, WAKING[0].replace(fold=fold), tzinfo=zone).astimezone(UTC)
        for days in range(3)
        for fold in (0, 1)
    ]
    return min(morning for morning in mornings if morning >= now and _awake(morning, timezone))


def _awake(instant: datetime, timezone: str) -> bool:
    begins, ends = WAKING
    return begins <= _local(instant, timezone).time() < ends


def _due_after(slot: Slot, now: datetime, last_letter_at: datetime, days: int, not_before: datetime | None) -> Due:
    earliest = now if not_before is None else max(now, not_before)
    target = slot_instant(local_date(last_letter_at, slot.timezone) + days * _DAY, slot.at, slot.timezone)
    if target >= earliest:
        return Due(at=target, rule="after")
    at = first_slot(slot, not_before=earliest)
    held_back = target >= now or at > first_slot(slot, not_before=now)
    return Due(at=at, rule="not_before" if held_back else "slot")


def _weekday_on_or_after(weekday: int, day: date) -> date:
    return day + (weekday - day.weekday()) % 7 * _DAY


def _slot_on_or_after(slot: Slot, day: date) -> datetime:
    return slot_instant(_weekday_on_or_after(slot.weekday, day), slot.at, slot.timezone)


def _local(instant: datetime, timezone: str) -> datetime:
    if instant.tzinfo is None:
        # Python would read a naive value as this machine's local time, and be wrong without a sound.
        message = f"{instant} has no zone; an instant is aware."
        raise ValueError(message)
    return instant.astimezone(_zone(timezone))


@lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    # zoneinfo itself keeps only its eight latest zones alive, and reads the others from disk again and again.
    return zoneinfo.ZoneInfo(name) if known_timezone(name) else UTC


@cache
def _timezones() -> frozenset[str]:
    # Both of these are in some systems' data: one means whatever this machine is set to, the other "not set".
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _zone_advice(name: str) -> str:
    cities = {known.rpartition("/")[2].casefold(): known for known in sorted(_timezones())}
    names = cities | {known.casefold(): known for known in _timezones()}
    close = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.75)
    return f"write {names[close[0]]}." if close else "write a region and a city, as in Europe/Berlin."
