"""The lists that the forms offer."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from newsletter.domain.cadence import Slot, known_timezone
from newsletter.errors import InvalidChoice
from newsletter.web import choices
from newsletter.web.pages import day_text


def test_every_zone_on_the_list_is_one_that_the_program_knows() -> None:
    zones = [zone for region in choices.zones().values() for zone in region]
    assert len(zones) > 400
    assert all(known_timezone(zone.value) for zone in zones)
    assert len({zone.value for zone in zones}) == len(zones)


def test_every_older_name_is_a_zone_and_stands_beside_its_new_one() -> None:
    """A browser in Kolkata says Asia/Calcutta, and both clocks show the same."""
    also = {zone.also: zone.value for region in choices.zones().values() for zone in region if zone.also}
    assert also["Asia/Calcutta"] == "Asia/Kolkata"
    assert len(also) == 19
    instant = datetime(2026, 11, 26, 8, tzinfo=UTC)
    for old, new in also.items():
        assert known_timezone(old)
        assert instant.astimezone(ZoneInfo(old)).utcoffset() == instant.astimezone(ZoneInfo(new)).utcoffset()


@pytest.mark.parametrize(
    ("zone", "label", "country"),
    [
        ("Europe/Berlin", "Berlin time", "DE"),
        ("America/Argentina/Buenos_Aires", "Buenos Aires time", "AR"),
        ("UTC", "UTC", ""),
        ("Etc/GMT+5", "GMT+5", ""),
    ],
)
def test_zones_are_named_as_people_say_them(zone: str, label: str, country: str) -> None:
    assert choices.zone_label(zone) == label
    assert choices.country_of(zone) == country


def test_countries_stand_in_the_order_of_their_names() -> None:
    names = [country.label for country in choices.countries(["US", "GB", "DE", "XX"])]
    assert names == ["Germany", "United Kingdom", "United States", "XX"]


def test_weekdays_are_what_a_slot_is_read_from() -> None:
    for number, weekday in enumerate(choices.weekdays()):
        assert Slot.parse(f"{weekday.value} 08:00", timezone="UTC").weekday == number
        assert weekday.label.lower().startswith(weekday.value)


@pytest.mark.parametrize(
    ("value", "answer"), [(None, False), ("", False), ("no", False), ("on", True), ("yes", True), ("1", True)]
)
def test_a_box_says_yes_or_no(value: str | None, answer: bool) -> None:
    assert choices.read_yes(value, field="discreet") is answer


def test_a_box_that_says_something_else_is_refused() -> None:
    with pytest.raises(InvalidChoice) as refused:
        choices.read_yes("perhaps", field="discreet")
    assert refused.value.field == "discreet"


def test_a_day_is_written_out() -> None:
    assert day_text(date(2026, 11, 26)) == "Thursday 26 November 2026"
    assert day_text(date(2027, 1, 3)) == "Sunday 3 January 2027"
