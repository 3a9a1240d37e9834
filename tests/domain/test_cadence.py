"""When the next letter leaves: every zone, every clock change, and whatever a reader does to their slot."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from newsletter.domain.cadence import (
    LATE_AFTER,
    MIN_GAP,
    WAKING,
    WEEKDAYS,
    Due,
    Slot,
    first_slot,
    first_slot_in_later_week,
    is_late,
    known_timezone,
    local_week,
    min_gap,
    next_due,
    resume_due,
    slot_instant,
    waking_from,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = timedelta(days=1)
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)

ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})

STRANGE_ZONES = {
    "Africa/Cairo": (2023, 2030),  # its gap is at midnight
    "Africa/Casablanca": (2019, 2030),  # back for Ramadan
    "Africa/El_Aaiun": (2019, 2030),
    "America/Asuncion": (2020, 2030),  # gaps at midnight until 2024
    "America/Caracas": (2007, 2017),  # by half an hour, and back
    "America/Ciudad_Juarez": (2022, 2023),
    "America/Havana": (2020, 2030),
    "America/Mexico_City": (2021, 2023),
    "America/Nuuk": (2022, 2030),
    "America/Santiago": (2020, 2030),
    "America/Sao_Paulo": (2015, 2020),
    "America/Scoresbysund": (2022, 2030),
    "Antarctica/Troll": (2005, 2030),  # by two hours
    "Antarctica/Vostok": (1993, 2024),  # by seven hours in 1994
    "Asia/Almaty": (2023, 2025),
    "Asia/Amman": (2021, 2023),
    "Asia/Beirut": (2020, 2030),
    "Asia/Damascus": (2021, 2023),
    "Asia/Gaza": (2020, 2030),
    "Asia/Hebron": (2020, 2030),
    "Asia/Kathmandu": (1985, 1987),
    "Asia/Pyongyang": (2015, 2019),
    "Australia/Lord_Howe": (2020, 2030),  # by half an hour
    "Europe/Dublin": (2020, 2030),  # its winter time is the exception
    "Europe/Volgograd": (2018, 2021),
    "Pacific/Apia": (2011, 2013),  # had no 30 December 2011
    "Pacific/Chatham": (2020, 2030),
    "Pacific/Kanton": (1994, 1996),  # had no 31 December 1994
    "Pacific/Kiritimati": (1994, 1996),
    "Pacific/Kwajalein": (1993, 1994),  # had no 21 August 1993
    "Pacific/Pago_Pago": (2024, 2025),
}

a_zone = st.one_of(st.sampled_from(sorted(STRANGE_ZONES)), st.sampled_from(ZONES))
a_time = st.one_of(
    st.sampled_from([time(0), time(0, 30), time(2), time(2, 30), time(3), time(8), time(23, 30), time(23, 59)]),
    st.builds(time, st.integers(0, 23), st.integers(0, 59)),
)
a_day = st.dates(date(1985, 1, 7), date(2037, 11, 30))
an_instant = st.integers(0, 53 * 365 * 86_400).map(lambda s: utc("1985-01-07T00:00Z") + timedelta(seconds=s))
a_slot = st.builds(Slot, weekday=st.integers(0, 6), at=a_time, timezone=a_zone)
a_pace = st.integers(1, 5)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def slot(text: str, timezone: str = "Europe/Berlin") -> Slot:
    return Slot.parse(text, timezone=timezone)


def wall(instant: datetime, timezone: str) -> datetime:
    """What a clock on the wall shows, without a zone."""
    return instant.astimezone(ZoneInfo(timezone)).replace(tzinfo=None, fold=0)


class Change(NamedTuple):
    """An instant at which the wall clocks of a zone were or will be put forward or back."""

    at: datetime
    offset: timedelta


def changes(timezone: str, begin: datetime, end: datetime) -> Iterator[Change]:
    """Every clock change, found by looking at the offset alone."""
    zone = ZoneInfo(timezone)

    def offset(instant: datetime) -> timedelta:
        return instant.astimezone(zone).utcoffset() or timedelta(0)

    here = begin
    while here < end:
        there = here + 3 * DAY
        if offset(there) != offset(here):
            before, after = here, there
            while after - before > timedelta(seconds=1):
                middle = (before + (after - before) / 2).replace(microsecond=0)
                before, after = (middle, after) if offset(middle) == offset(here) else (before, middle)
            yield Change(after, offset(after))
        here = there


@cache
def zones_that_change_from_2020_to_2030() -> dict[tuple[timedelta, tuple[Change, ...]], list[str]]:
    """Every zone whose clocks change in these years, those that always show the same time together."""
    begin, end = utc("2019-12-01T00:00Z"), utc("2031-02-01T00:00Z")
    alike: dict[tuple[timedelta, tuple[Change, ...]], list[str]] = {}
    for timezone in ZONES:
        if found := tuple(changes(timezone, begin, end)):
            offset = begin.astimezone(ZoneInfo(timezone)).utcoffset() or timedelta(0)
            alike.setdefault((offset, found), []).append(timezone)
    return alike


def undisturbed(which: Slot, first: int, last: int) -> Iterator[datetime]:
    """The letters of a weekly sequence, each accepted the moment that it is due."""
    at = first_slot(which, not_before=datetime(first, 1, 1, tzinfo=UTC))
    while at.year <= last:
        yield at
        at = next_due(which, now=at, last_letter_at=at, after=None, pace=1).at


def assert_one_letter_per_local_week(which: Slot, first: int, last: int) -> None:
    due = list(undisturbed(which, first, last))
    mondays = [date.fromisocalendar(*local_week(at, which.timezone), 1) for at in due]
    assert len(due) > 50 * (last - first)
    for i in range(1, len(due)):
        assert mondays[i] - mondays[i - 1] == WEEK, f"{which}: {due[i - 1]} and {due[i]}"
        assert 144 * HOUR <= due[i] - due[i - 1] <= 175 * HOUR, f"{which}: {due[i - 1]} and {due[i]}"


class TestASlotAsText:
    @pytest.mark.parametrize(
        ("text", "weekday", "at"),
        [
            ("thu 08:00", 3, time(8)),
            ("Thursday 8:05", 3, time(8, 5)),
            ("  MON   00:00 ", 0, time(0)),
            ("Tues 23:59", 1, time(23, 59)),
            ("sun 07:30", 6, time(7, 30)),
        ],
    )
    def test_is_read_in_the_ways_that_people_write_it(self, text: str, weekday: int, at: time):
        assert slot(text) == Slot(weekday=weekday, at=at, timezone="Europe/Berlin")

    @pytest.mark.parametrize(
        ("text", "advice"),
        [
            ("", "write a weekday and a time, as in thu 08:00"),
            ("thu", "write a weekday and a time"),
            ("08:00", "write a weekday and a time"),
            ("th 08:00", "write a weekday and a time"),
            ("thu 8", "write a weekday and a time"),
            ("thu 08:00:30", "write a weekday and a time"),
            ("thu 08:00 pm", "write a weekday and a time"),
            ("thu \u0660\u0668:00", "write a weekday and a time"),
            ("thu 08:\u0660\u0660", "write a weekday and a time"),
            ("don 08:00", "write one of mon, tue, wed, thu, fri, sat, sun"),
            ("thursdays 08:00", "write one of mon,"),
            ("thu 24:00", "write 00:00 to 23:59"),
            ("thu 08:60", "write 00:00 to 23:59"),
        ],
    )
    def test_is_refused_with_what_to_write_instead(self, text: str, advice: str):
        with pytest.raises(ValueError, match=advice):
            slot(text)

    @pytest.mark.parametrize(
        ("timezone", "advice"),
        [
            ("Berlin", r"write Europe/Berlin\."),
            ("europe/berlin", r"write Europe/Berlin\."),
            ("New York", r"write America/New_York\."),
            ("Europe/Kijev", r"write Europe/Kiev\."),
            ("", "as in Europe/Berlin"),
            ("+02:00", "as in Europe/Berlin"),
        ],
    )
    def test_names_the_zone_that_was_probably_meant(self, timezone: str, advice: str):
        with pytest.raises(ValueError, match=advice):
            slot("thu 08:00", timezone)

    @given(a_slot)
    def test_comes_back_as_the_same_slot(self, which: Slot):
        text, _, timezone = str(which).rpartition(" ")
        assert Slot.parse(text, timezone=timezone) == which

    @pytest.mark.parametrize("weekday", [-1, 7])
    def test_has_one_of_seven_weekdays(self, weekday: int):
        with pytest.raises(ValueError, match="no weekday"):
            Slot(weekday=weekday, at=time(8), timezone="UTC")

    @pytest.mark.parametrize("at", [time(8, 0, 1), time(8, 0, 0, 1), time(8, tzinfo=UTC), time(8, fold=1)])
    def test_has_hours_and_minutes_and_nothing_else(self, at: time):
        with pytest.raises(ValueError, match="no slot time"):
            Slot(weekday=0, at=at, timezone="UTC")


class TestTimeZones:
    def test_every_zone_of_the_data_is_known_and_so_are_its_links(self):
        assert all(known_timezone(timezone) for timezone in ZONES)
        assert all(known_timezone(link) for link in ("Europe/Kiev", "US/Pacific", "Asia/Calcutta"))

    @pytest.mark.parametrize(
        "name", ["", "Berlin", "europe/berlin", "Europe", "../etc/passwd", "/etc/localtime", "\0", "\ud800"]
    )
    def test_what_is_no_zone_is_unknown(self, name: str):
        assert not known_timezone(name)

    @pytest.mark.parametrize("name", ["localtime", "Factory", "posixrules"])
    def test_a_name_that_means_another_time_on_each_machine_is_unknown(self, name: str):
        assert not known_timezone(name)

    @pytest.mark.parametrize(
        ("link", "zone"),
        [
            ("Europe/Kiev", "Europe/Kyiv"),
            ("US/Pacific", "America/Los_Angeles"),
            ("Asia/Calcutta", "Asia/Kolkata"),
        ],
    )
    def test_a_link_shows_the_time_of_the_zone_it_leads_to(self, link: str, zone: str):
        days = [date(2026, 1, 1) + n * WEEK for n in range(52)]
        ours = [slot_instant(day, time(2, 30), link) for day in days]
        assert ours == [slot_instant(day, time(2, 30), zone) for day in days]

    @pytest.mark.parametrize("name", ["Mars/Olympus_Mons", "../../etc/passwd", "", "Europe"])
    def test_a_zone_that_has_gone_counts_as_utc_and_stops_nobody(self, name: str):
        lost = Slot(weekday=3, at=time(8), timezone=name)
        now = utc("2026-11-23T10:00Z")
        assert first_slot(lost, not_before=now) == utc("2026-11-26T08:00Z")
        assert waking_from(utc("2026-11-23T21:00Z"), name) == utc("2026-11-24T08:00Z")

    @pytest.mark.parametrize(
        "ask",
        [
            pytest.param(lambda naive: local_week(naive, "UTC"), id="local_week"),
            pytest.param(lambda naive: waking_from(naive, "UTC"), id="waking_from"),
            pytest.param(lambda naive: first_slot(slot("thu 08:00"), not_before=naive), id="first_slot"),
        ],
    )
    def test_an_instant_without_a_zone_is_refused(self, ask: Callable[[datetime], object]):
        with pytest.raises(ValueError, match="an instant is aware"):
            ask(datetime.fromisoformat("2026-11-26T08:00"))


class TestTheInstantOfASlot:
    @pytest.mark.parametrize(
        ("timezone", "local", "instant"),
        [
            ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:30Z"),  # gap
            ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30Z"),  # overlap
            ("Europe/Dublin", "2026-03-29T01:30", "2026-03-29T01:30Z"),
            ("Europe/Dublin", "2026-10-25T01:30", "2026-10-25T00:30Z"),
            ("Africa/Cairo", "2026-04-24T00:30", "2026-04-23T22:30Z"),  # the gap is at midnight
            ("America/Havana", "2026-03-08T00:30", "2026-03-08T05:30Z"),
            ("America/Santiago", "2025-09-07T00:30", "2025-09-07T04:30Z"),
            ("America/Asuncion", "2024-10-06T00:30", "2024-10-06T04:30Z"),
            ("America/Sao_Paulo", "2018-11-04T00:30", "2018-11-04T03:30Z"),
            ("Africa/Casablanca", "2025-02-23T02:30", "2025-02-23T01:30Z"),  # overlap as Ramadan nears
            ("Africa/Casablanca", "2025-04-06T02:30", "2025-04-06T02:30Z"),  # gap when it is over
            ("Australia/Lord_Howe", "2025-10-05T02:15", "2025-10-04T15:45Z"),  # half an hour
            ("Australia/Lord_Howe", "2025-04-06T01:45", "2025-04-05T14:45Z"),
            ("Antarctica/Troll", "2025-03-30T02:30", "2025-03-30T02:30Z"),  # two hours
            ("Antarctica/Troll", "2025-10-26T02:30", "2025-10-26T00:30Z"),
            ("Pacific/Apia", "2011-12-30T08:00", "2011-12-30T18:00Z"),  # a day that never was
            ("Pacific/Kwajalein", "1993-08-21T08:00", "1993-08-21T20:00Z"),
            ("Asia/Pyongyang", "2015-08-14T23:45", "2015-08-14T14:45Z"),
            ("Asia/Pyongyang", "2018-05-04T23:45", "2018-05-04T15:15Z"),
            ("America/Caracas", "2016-05-01T02:45", "2016-05-01T07:15Z"),
            ("Europe/Volgograd", "2020-12-27T01:30", "2020-12-26T21:30Z"),
            ("Asia/Kathmandu", "2026-05-05T09:00", "2026-05-05T03:15Z"),
            ("Pacific/Chatham", "2026-05-05T09:00", "2026-05-04T20:15Z"),
            ("Pacific/Kiritimati", "2026-05-05T09:00", "2026-05-04T19:00Z"),
            ("Pacific/Pago_Pago", "2026-05-05T09:00", "2026-05-05T20:00Z"),
        ],
    )
    def test_on_hard_days_is_the_one_that_the_calendar_standard_says(self, timezone: str, local: str, instant: str):
        day = datetime.fromisoformat(local)
        assert slot_instant(day.date(), day.time(), timezone) == utc(instant)
        assert slot_instant(day.date(), day.time().replace(fold=1), timezone) == utc(instant)

    @settings(max_examples=400, deadline=None)
    @given(timezone=a_zone, day=a_day, at=a_time)
    def test_is_the_first_that_shows_this_time_or_in_a_gap_the_offset_before(self, timezone: str, day: date, at: time):
        """Told from the other side: from instants to wall clocks, without asking Python about folds."""
        told = datetime.combine(day, at)
        around = [told.replace(tzinfo=UTC) + n * HOUR for n in range(-48, 49)]
        offsets = {instant.astimezone(ZoneInfo(timezone)).utcoffset() for instant in around}
        assume(len(offsets) <= 2)
        instants = [(told - offset).replace(tzinfo=UTC) for offset in offsets if offset is not None]
        showing = [instant for instant in instants if wall(instant, timezone) == told]
        expected = min(showing) if showing else max(instants)
        assert slot_instant(day, at, timezone) == expected

    @given(timezone=a_zone, day=a_day, at=a_time)
    def test_is_told_in_utc(self, timezone: str, day: date, at: time):
        assert slot_instant(day, at, timezone).tzinfo is UTC

    @pytest.mark.parametrize(("timezone", "years"), STRANGE_ZONES.items(), ids=list(STRANGE_ZONES))
    def test_on_the_days_around_a_clock_change_follows_the_standard_at_every_quarter(
        self, timezone: str, years: tuple[int, int]
    ):
        begin, end = (datetime(year, 1, 1, tzinfo=UTC) for year in years)
        for change in list(changes(timezone, begin, end))[-6:]:
            before = wall(change.at - timedelta(seconds=1), timezone) + timedelta(seconds=1)
            after = wall(change.at, timezone)
            for quarter in range(int(abs(after - before) / timedelta(minutes=15))):
                told = min(before, after) + quarter * timedelta(minutes=15)
                instant = slot_instant(told.date(), told.time(), timezone)
                # In a gap and in an overlap alike, it is told as if the clock had not been changed yet.
                assert instant == change.at + (told - before)


class TestTheFirstSlot:
    @settings(max_examples=300, deadline=None)
    @given(which=a_slot, not_before=an_instant)
    @example(which=Slot(weekday=4, at=time(8), timezone="Pacific/Apia"), not_before=utc("2011-12-30T17:00Z")).via(
        "local Saturday, and Friday's slot is yet to come"
    )
    def test_is_the_smallest_instant_of_the_slot_that_is_not_too_early(self, which: Slot, not_before: datetime):
        near = [not_before.date() + n * DAY for n in range(-21, 22)]
        instants = [slot_instant(day, which.at, which.timezone) for day in near if day.weekday() == which.weekday]
        assert first_slot(which, not_before=not_before) == min(at for at in instants if at >= not_before)

    @given(which=a_slot, not_before=an_instant)
    def test_of_its_own_instant_is_that_instant(self, which: Slot, not_before: datetime):
        found = first_slot(which, not_before=not_before)
        assert first_slot(which, not_before=found) == found
        assert first_slot(which, not_before=found + timedelta(microseconds=1)) > found

    def test_does_not_care_in_which_zone_the_instant_is_told(self):
        in_berlin = utc("2026-11-26T07:00Z").astimezone(ZoneInfo("Asia/Tokyo"))
        assert first_slot(slot("thu 08:00"), not_before=in_berlin) == utc("2026-11-26T07:00Z")


class TestAnUndisturbedSequence:
    @pytest.mark.parametrize("weekday", ["mon", "thu", "fri", "sat", "sun"])
    def test_sends_one_letter_per_local_week_in_every_zone_that_changes_its_clocks(self, weekday: str):
        """Every week of 2020 to 2030; one zone stands for all that show the same time in all these years."""
        alike = zones_that_change_from_2020_to_2030()
        assert sum(len(zones) for zones in alike.values()) > 200
        for zones in alike.values():
            for at in ("00:00", "00:30", "02:30", "08:00", "23:30"):
                assert_one_letter_per_local_week(slot(f"{weekday} {at}", zones[0]), 2020, 2030)

    @pytest.mark.parametrize(("timezone", "years"), STRANGE_ZONES.items(), ids=list(STRANGE_ZONES))
    def test_sends_one_letter_per_local_week_in_the_strangest_zones(self, timezone: str, years: tuple[int, int]):
        first, last = max(years[0], years[1] - 6), years[1]
        for weekday in WEEKDAYS:
            for at in ("00:15", "00:45", "01:45", "02:15", "23:45"):
                assert_one_letter_per_local_week(slot(f"{weekday} {at}", timezone), first, last)

    def test_stays_at_nine_in_berlin_across_both_clock_changes(self):
        due = list(undisturbed(slot("tue 09:00"), 2026, 2026))
        assert {wall(at, "Europe/Berlin").time() for at in due} == {time(9)}
        assert {at.time() for at in due} == {time(7), time(8)}

    @pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=40), HOUR, 2 * HOUR, 46 * HOUR])
    def test_keeps_its_slot_when_letters_are_accepted_late(self, late: timedelta):
        which, last = slot("sun 02:30"), utc("2026-01-04T01:30Z")
        for _ in range(60):
            due = next_due(which, now=last + late, last_letter_at=last + late, after=None, pace=1)
            assert due.rule == "slot"
            assert local_week(due.at, which.timezone) > local_week(last, which.timezone)
            assert due.at - last < 7.1 * DAY
            last = due.at

    @given(which=a_slot, begin=an_instant, pace=a_pace)
    def test_sends_one_letter_in_pace_weeks(self, which: Slot, begin: datetime, pace: int):
        last = first_slot(which, not_before=begin)
        for _ in range(6):
            due = next_due(which, now=last, last_letter_at=last, after=None, pace=pace)
            mondays = [date.fromisocalendar(*local_week(at, which.timezone), 1) for at in (last, due.at)]
            assert mondays[1] - mondays[0] == pace * WEEK
            assert due.rule == "slot"
            last = due.at


class Disturbance(NamedTuple):
    """What may happen between one letter and the next."""

    slot: Slot
    pace: int
    accepted_late: timedelta
    clock_jump: timedelta
    held_back: timedelta | None
    after: timedelta | None


a_disturbance = st.builds(
    Disturbance,
    slot=a_slot,
    pace=a_pace,
    accepted_late=st.timedeltas(timedelta(0), 20 * DAY) | st.timedeltas(timedelta(0), 3 * HOUR),
    clock_jump=st.just(timedelta(0)) | st.timedeltas(-30 * DAY, 30 * DAY),
    held_back=st.none() | st.timedeltas(-10 * DAY, 40 * DAY),
    after=st.none() | st.integers(1, 30).map(lambda days: days * DAY),
)


class TestADisturbedSequence:
    @settings(max_examples=300, deadline=None)
    @given(begin=an_instant, disturbances=st.lists(a_disturbance, min_size=1, max_size=12))
    def test_never_sends_two_letters_closer_than_the_gap(self, begin: datetime, disturbances: list[Disturbance]):
        """Whatever happens to slot, zone, pace and clock, and however late a letter was accepted."""
        last_due = begin
        for to in disturbances:
            accepted = last_due + to.accepted_late
            now = accepted + to.clock_jump
            held = None if to.held_back is None else now + to.held_back
            due = next_due(to.slot, now=now, last_letter_at=accepted, after=to.after, pace=to.pace, not_before=held)
            assert due.at >= now
            assert held is None or due.at >= held
            assert due.at > accepted
            if to.after is None:
                assert due.at - accepted >= min_gap(to.pace)
            else:
                # A local date is counted from its midnight: one day less than said, at the very least.
                assert due.at - accepted > to.after * to.pace - DAY - 26 * HOUR
            last_due = due.at

    @settings(max_examples=300, deadline=None)
    @given(to=a_disturbance, last=an_instant)
    def test_never_waits_longer_than_for_the_next_slot(self, to: Disturbance, last: datetime):
        now = last + to.clock_jump
        held = now if to.held_back is None else now + to.held_back
        due = next_due(to.slot, now=now, last_letter_at=last, after=None, pace=to.pace, not_before=held)
        assert due.at == first_slot(to.slot, not_before=max(now, held, last + min_gap(to.pace)))

    @given(which=a_slot, now=an_instant, after=st.none() | st.just(3 * DAY))
    def test_begins_at_the_first_slot(self, which: Slot, now: datetime, after: timedelta | None):
        due = next_due(which, now=now, last_letter_at=None, after=after, pace=2)
        assert due == Due(at=first_slot(which, not_before=now), rule="slot")

    @pytest.mark.parametrize("jump", [timedelta(0), -HOUR, -DAY, -300 * DAY])
    def test_is_not_hurried_by_a_clock_that_was_set_back(self, jump: timedelta):
        last = utc("2026-11-26T07:00Z")
        due = next_due(slot("thu 08:00"), now=last + jump, last_letter_at=last, after=None, pace=1)
        assert due.at == utc("2026-12-03T07:00Z")
        due = next_due(slot("thu 08:00"), now=last + jump, last_letter_at=last, after=3 * DAY, pace=1)
        assert due == Due(at=utc("2026-11-29T07:00Z"), rule="after")

    def test_after_a_change_of_slot_may_leave_a_week_without_a_letter_and_never_doubles(self):
        last = utc("2026-11-26T07:00Z")  # Thursday
        to_monday = next_due(slot("mon 08:00"), now=last, last_letter_at=last, after=None, pace=1)
        assert to_monday == Due(at=utc("2026-12-07T07:00Z"), rule="min_gap")
        to_wednesday = next_due(slot("wed 08:00"), now=last, last_letter_at=last, after=None, pace=1)
        assert to_wednesday == Due(at=utc("2026-12-02T07:00Z"), rule="slot")

    def test_after_days_without_service_returns_to_its_slot(self):
        caught_up = utc("2026-11-30T09:00Z")  # Monday, for a slot on Thursdays
        due = next_due(slot("thu 08:00"), now=caught_up, last_letter_at=caught_up, after=None, pace=1)
        assert due == Due(at=utc("2026-12-10T07:00Z"), rule="min_gap")

    def test_follows_a_reader_around_the_world_without_a_double(self):
        last = utc("2026-11-25T19:00Z")  # Thursday 08:00 in Auckland
        due = next_due(slot("wed 09:00", "Pacific/Honolulu"), now=last, last_letter_at=last, after=None, pace=1)
        assert due == Due(at=utc("2026-12-02T19:00Z"), rule="slot")

    def test_says_which_rule_decided(self):
        thursday, last = slot("thu 08:00"), utc("2026-11-26T07:00Z")

        def rule(
            which: Slot = thursday, *, pace: int = 1, now: datetime = last, not_before: datetime | None = None
        ) -> str:
            return next_due(which, now=now, last_letter_at=last, after=None, pace=pace, not_before=not_before).rule

        assert rule() == "slot"
        assert rule(pace=4) == "slot"
        assert rule(now=last + 30 * DAY) == "slot"
        assert rule(not_before=last + 6 * DAY) == "slot"
        assert rule(not_before=last + 8 * DAY) == "not_before"
        assert rule(slot("sat 08:00")) == "min_gap"
        assert rule(slot("sat 08:00"), now=last + 3 * DAY) == "slot"
        assert rule(slot("mon 08:00"), pace=2) == "min_gap"
        assert rule(slot("wed 08:00"), pace=2) == "slot"
        assert rule(slot("sat 08:00"), not_before=last + 60 * DAY) == "not_before"


class TestTheGap:
    @given(a_pace)
    def test_is_two_days_short_of_the_pace(self, pace: int):
        assert min_gap(pace) == pace * WEEK - 2 * DAY

    def test_is_120_hours_for_a_weekly_sequence(self):
        assert min_gap(1) == MIN_GAP == timedelta(hours=120)

    @pytest.mark.parametrize("pace", [0, -1])
    def test_of_no_pace_at_all_is_refused(self, pace: int):
        with pytest.raises(ValueError, match="1 is weekly"):
            min_gap(pace)


class TestAStepsOwnDistance:
    @settings(max_examples=300, deadline=None)
    @given(which=a_slot, last=an_instant, days=st.integers(1, 60), pace=a_pace)
    def test_keeps_the_slots_time_on_that_local_date_across_clock_changes(
        self, which: Slot, last: datetime, days: int, pace: int
    ):
        due = next_due(which, now=last, last_letter_at=last, after=days * DAY, pace=pace)
        day = wall(last, which.timezone).date() + days * pace * DAY
        assert due == Due(at=slot_instant(day, which.at, which.timezone), rule="after")

    def test_counts_days_and_not_hours(self):
        last = utc("2026-03-27T21:15Z")  # Friday 22:15 in Berlin, before the clocks go forward
        due = next_due(slot("thu 08:00"), now=last, last_letter_at=last, after=3 * DAY, pace=1)
        assert wall(due.at, "Europe/Berlin") == datetime.fromisoformat("2026-03-30T08:00")  # a Monday

    def test_in_a_gap_is_the_hour_that_stands_for_it(self):
        last = utc("2026-03-26T01:30Z")
        due = next_due(slot("thu 02:30"), now=last, last_letter_at=last, after=3 * DAY, pace=1)
        assert due.at == utc("2026-03-29T01:30Z")

    def test_counts_a_begun_day_as_a_whole_one(self):
        last = utc("2026-11-26T07:00Z")
        for after in (timedelta(0), HOUR, 23 * HOUR, DAY):
            due = next_due(slot("thu 08:00"), now=last, last_letter_at=last, after=after, pace=1)
            assert due == Due(at=utc("2026-11-27T07:00Z"), rule="after")
        due = next_due(slot("thu 08:00"), now=last, last_letter_at=last, after=25 * HOUR, pace=1)
        assert due == Due(at=utc("2026-11-28T07:00Z"), rule="after")

    def test_that_has_passed_leads_to_the_next_slot(self):
        last, now = utc("2026-11-26T07:00Z"), utc("2026-11-30T12:00Z")
        due = next_due(slot("thu 08:00"), now=now, last_letter_at=last, after=3 * DAY, pace=1)
        assert due == Due(at=utc("2026-12-03T07:00Z"), rule="slot")

    def test_never_goes_before_what_holds_the_letter_back(self):
        last, thursday = utc("2026-11-26T07:00Z"), slot("thu 08:00")

        def due(not_before: str, now: datetime = last + HOUR) -> Due:
            return next_due(thursday, now=now, last_letter_at=last, after=3 * DAY, pace=1, not_before=utc(not_before))

        assert due("2026-11-29T07:00Z") == Due(at=utc("2026-11-29T07:00Z"), rule="after")
        assert due("2026-11-29T07:01Z") == Due(at=utc("2026-12-03T07:00Z"), rule="not_before")
        missed = last + 4 * DAY
        assert due("2026-12-01T07:00Z", now=missed) == Due(at=utc("2026-12-03T07:00Z"), rule="slot")
        assert due("2026-12-04T07:00Z", now=missed) == Due(at=utc("2026-12-10T07:00Z"), rule="not_before")

    def test_is_kept_where_a_whole_day_came_twice(self):
        """Kwajalein repeated 30 September 1969: tomorrow's early hours may lie in the past."""
        kwajalein = slot("wed 00:30", "Pacific/Kwajalein")
        for hours in range(72):
            last = utc("1969-09-29T00:00Z") + hours * HOUR
            due = next_due(kwajalein, now=last, last_letter_at=last, after=DAY, pace=1)
            assert due.at > last


class TestAPause:
    @settings(max_examples=300, deadline=None)
    @given(which=a_slot, on=a_day, now=an_instant, last=st.none() | an_instant, pace=a_pace)
    def test_ends_at_the_first_slot_on_or_after_the_local_date(
        self, which: Slot, on: date, now: datetime, last: datetime | None, pace: int
    ):
        due = resume_due(which, on=on, now=now, last_letter_at=last, pace=pace)
        floor = now if last is None else max(now, last + min_gap(pace))
        days = {day + n * DAY for day in (on, floor.date()) for n in range(-1, 22)}
        candidates = (
            slot_instant(day, which.at, which.timezone) for day in days if day >= on and day.weekday() == which.weekday
        )
        assert due.at == min(at for at in candidates if at >= floor)

    def test_ends_on_that_very_day_where_it_is_the_slots_weekday(self):
        due = resume_due(
            slot("thu 08:00"),
            on=date(2026, 12, 17),
            now=utc("2026-12-01T09:00Z"),
            last_letter_at=utc("2026-11-26T07:00Z"),
            pace=1,
        )
        assert due == Due(at=utc("2026-12-17T07:00Z"), rule="not_before")

    def test_that_ends_in_a_midnight_gap_does_not_lose_the_slot_of_that_day(self):
        due = resume_due(
            slot("fri 00:30", "Africa/Cairo"),
            on=date(2026, 4, 24),
            now=utc("2026-04-01T09:00Z"),
            last_letter_at=None,
            pace=1,
        )
        assert due.at == utc("2026-04-23T22:30Z")

    def test_that_ends_in_a_gap_across_midnight_does_not_lose_it_either(self):
        """Toronto went from Sunday 23:30 to Monday 00:30, so that Monday began half an hour late."""
        toronto, now = slot("mon 00:45", "America/Toronto"), utc("1919-03-20T12:00Z")
        due = resume_due(toronto, on=date(1919, 3, 31), now=now, last_letter_at=None, pace=1)
        assert due.at == utc("1919-03-31T04:45Z")

    def test_that_is_shorter_than_the_gap_keeps_the_gap(self):
        last = utc("2026-11-26T07:00Z")
        due = resume_due(slot("fri 08:00"), on=date(2026, 11, 27), now=last, last_letter_at=last, pace=1)
        assert due == Due(at=utc("2026-12-04T07:00Z"), rule="min_gap")


class TestALocalWeek:
    @pytest.mark.parametrize(
        ("instant", "timezone", "week"),
        [
            ("2027-01-03T22:59Z", "Europe/Berlin", (2026, 53)),
            ("2027-01-03T23:00Z", "Europe/Berlin", (2027, 1)),
            ("2026-11-22T11:00Z", "Pacific/Kiritimati", (2026, 48)),
            ("2026-11-22T11:00Z", "Pacific/Pago_Pago", (2026, 47)),
            ("2029-12-31T12:00Z", "UTC", (2030, 1)),
        ],
    )
    def test_is_the_iso_week_of_the_local_date(self, instant: str, timezone: str, week: tuple[int, int]):
        assert local_week(utc(instant), timezone) == week

    @given(timezone=a_zone, at=an_instant, later=st.timedeltas(timedelta(0), 400 * DAY))
    def test_never_goes_back_but_where_a_midnight_comes_twice(self, timezone: str, at: datetime, later: timedelta):
        assert local_week(at, timezone) <= local_week(at + later + DAY, timezone)

    @settings(max_examples=300, deadline=None)
    @given(which=a_slot, counted=an_instant, ahead=st.timedeltas(-20 * DAY, 20 * DAY))
    def test_that_is_full_leads_to_the_first_slot_of_a_later_one(
        self, which: Slot, counted: datetime, ahead: timedelta
    ):
        week, not_before = local_week(counted, which.timezone), counted + ahead
        found = first_slot_in_later_week(which, week=week, not_before=not_before)
        one = first_slot(which, not_before=not_before)
        while local_week(one, which.timezone) <= week:
            one = first_slot(which, not_before=one + DAY)
        assert found == one

    def test_that_is_the_last_of_a_long_year_is_followed_by_the_first_of_the_next(self):
        found = first_slot_in_later_week(slot("thu 08:00"), week=(2026, 53), not_before=utc("2026-12-28T00:00Z"))
        assert found == utc("2027-01-07T07:00Z")


class TestALateLetter:
    def test_is_more_than_two_hours_behind_its_slot(self):
        due = utc("2026-11-26T07:00Z")
        assert timedelta(hours=2) == LATE_AFTER
        assert not is_late(due, now=due - DAY)
        assert not is_late(due, now=due + 2 * HOUR)
        assert is_late(due, now=due + 2 * HOUR + timedelta(microseconds=1))

    @pytest.mark.parametrize(
        ("now", "leaves"),
        [
            ("2026-11-26T06:59:59Z", "2026-11-26T07:00Z"),
            ("2026-11-26T07:00Z", "2026-11-26T07:00Z"),
            ("2026-11-26T18:59:59Z", "2026-11-26T18:59:59Z"),
            ("2026-11-26T19:00Z", "2026-11-27T07:00Z"),
            ("2026-11-26T23:30Z", "2026-11-27T07:00Z"),
            ("2026-03-28T22:00Z", "2026-03-29T06:00Z"),  # an hour of that night is missing
            ("2026-10-24T21:00Z", "2026-10-25T07:00Z"),  # an hour of that night comes twice
        ],
    )
    def test_leaves_from_eight_to_eight_in_berlin(self, now: str, leaves: str):
        assert waking_from(utc(now), "Europe/Berlin") == utc(leaves)

    @settings(max_examples=400, deadline=None)
    @given(timezone=a_zone, now=an_instant)
    @example(timezone="Pacific/Apia", now=utc("2011-12-30T08:00Z")).via("the day that never was begins")
    @example(timezone="Pacific/Kwajalein", now=utc("1993-08-21T11:30Z")).via("another such day")
    @example(timezone="Antarctica/Macquarie", now=utc("1948-03-24T21:30Z")).via("no time from 00:00 to 10:00")
    @example(timezone="Antarctica/McMurdo", now=utc("1955-12-31T21:00Z")).via("no time from 00:00 to 12:00")
    def test_leaves_in_waking_hours_and_never_in_the_past(self, timezone: str, now: datetime):
        leaves = waking_from(now, timezone)
        assert leaves.tzinfo is UTC
        assert leaves >= now
        assert WAKING[0] <= wall(leaves, timezone).time() < WAKING[1]

    @settings(max_examples=300, deadline=None)
    @given(timezone=a_zone, now=an_instant)
    def test_leaves_no_later_than_the_first_waking_instant(self, timezone: str, now: datetime):
        before, leaves = now, waking_from(now, timezone)
        while before < leaves:
            assert not WAKING[0] <= wall(before, timezone).time() < WAKING[1]
            before += timedelta(minutes=15)

    def test_leaves_at_an_instant_told_in_utc_wherever_it_is_asked(self):
        now = utc("2026-11-26T07:00Z").astimezone(ZoneInfo("Asia/Tokyo"))
        assert waking_from(now, "Europe/Berlin").tzinfo is UTC

    def test_leaves_at_the_second_eight_o_clock_of_a_day_that_came_twice(self):
        """Kwajalein went from one side of the date line to the other, and had 30 September 1969 again."""
        early_again = utc("1969-09-30T17:00Z")
        assert wall(early_again, "Pacific/Kwajalein") == datetime.fromisoformat("1969-09-30T05:00")
        assert waking_from(early_again, "Pacific/Kwajalein") == utc("1969-09-30T20:00Z")
