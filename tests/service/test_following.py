"""A reader who is followed for two years gets one letter in each local week."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from tests.support.building import House, local

WEEKS = 104
SLOTS = {
    "Europe/Berlin": "sun 02:30",  # in the hour that a clock change skips or repeats
    "America/New_York": "mon 00:00",
    "Australia/Lord_Howe": "thu 08:00",  # its clocks change by half an hour, in the other season
}


def test_two_years_bring_one_letter_a_local_week(house: House):
    """Over 104 weeks, across every clock change, each local week has exactly one letter, at the reader's hour."""
    keys = [f"note-{number}" for number in range(1, 13)]
    house.sequence("trust", *keys, on_finish="repeat")
    house.publish()
    house.at("2026-11-23 00:30")
    readers = {
        zone: house.reader(f"reader{number}@example.org", slot=slot, zone=zone)
        for number, (zone, slot) in enumerate(SLOTS.items())
    }
    first_monday = {zone: local("2026-11-23 00:00", zone) for zone in SLOTS}
    house.live(weeks=WEEKS + 1)
    for zone, reader in readers.items():
        instants = [mail.date.astimezone(ZoneInfo(zone)) for mail in reader.letters()]
        weeks = Counter(tuple(instant.isocalendar())[:2] for instant in instants)
        for number in range(1, WEEKS):  # the first week had begun when they came
            monday = (first_monday[zone] + timedelta(weeks=number, hours=12)).astimezone(ZoneInfo(zone))
            assert weeks[tuple(monday.isocalendar())[:2]] == 1, (zone, monday)
        hours = {f"{instant:%H:%M}" for instant in instants}
        assert hours == {SLOTS[zone][4:]} | ({"03:30"} if zone == "Europe/Berlin" else set())
        assert all(later - sooner > timedelta(days=6, hours=20) for sooner, later in pairwise(instants))
        received = reader.steps()
        assert received == [keys[at % 12] for at in range(len(received))]
        assert len(received) >= WEEKS
