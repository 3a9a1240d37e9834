"""What the forms offer: weekdays, time zones by region, countries by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from newsletter.domain.cadence import WEEKDAYS, known_timezone
from newsletter.errors import InvalidChoice

WEEKDAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_BROWSER_NAMES = {
    "Africa/Asmara": "Africa/Asmera",
    "America/Argentina/Buenos_Aires": "America/Buenos_Aires",
    "America/Argentina/Catamarca": "America/Catamarca",
    "America/Argentina/Cordoba": "America/Cordoba",
    "America/Argentina/Jujuy": "America/Jujuy",
    "America/Argentina/Mendoza": "America/Mendoza",
    "America/Atikokan": "America/Coral_Harbour",
    "America/Indiana/Indianapolis": "America/Indianapolis",
    "America/Kentucky/Louisville": "America/Louisville",
    "America/Nuuk": "America/Godthab",
    "Asia/Ho_Chi_Minh": "Asia/Saigon",
    "Asia/Kathmandu": "Asia/Katmandu",
    "Asia/Kolkata": "Asia/Calcutta",
    "Asia/Yangon": "Asia/Rangoon",
    "Atlantic/Faroe": "Atlantic/Faeroe",
    "Europe/Kyiv": "Europe/Kiev",
    "Pacific/Chuuk": "Pacific/Truk",
    "Pacific/Kanton": "Pacific/Enderbury",
    "Pacific/Pohnpei": "Pacific/Ponape",
}
"""Zones that browsers still call by an older name. Source: Unicode CLDR, bcp47/timezone.xml."""

_YES = frozenset({"on", "yes", "true", "1"})
_NO = frozenset({"", "off", "no", "false", "0"})


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One entry of a list to choose from."""

    value: str
    label: str


@dataclass(frozen=True, kw_only=True)
class ZoneChoice(Choice):
    """A time zone. `country`: the ISO code it lies in, or "". `also`: its older name, or ""."""

    country: str = ""
    also: str = ""


def weekdays() -> tuple[Choice, ...]:
    """Monday to Sunday, as the services read them."""
    names = zip(WEEKDAYS, WEEKDAY_NAMES, strict=True)
    return tuple(Choice(value=value, label=label) for value, label in names)


@cache
def zones() -> Mapping[str, tuple[ZoneChoice, ...]]:
    """Every zone that people live in, by region, in the order of the alphabet; the region "" holds UTC."""
    regions: dict[str, list[ZoneChoice]] = {"": [ZoneChoice(value="UTC", label="UTC")]}
    for country, name in sorted(_zone_table(), key=lambda row: row[1]):
        region, _, place = name.partition("/")
        label = place.replace("_", " ").replace("/", ", ")
        choice = ZoneChoice(value=name, label=label, country=country, also=_BROWSER_NAMES.get(name, ""))
        regions.setdefault(region, []).append(choice)
    return {region: tuple(choices) for region, choices in regions.items()}


def zone_label(name: str) -> str:
    """A zone as people say it: "Berlin time", "UTC"."""
    place = name.rpartition("/")[2].replace("_", " ")
    return f"{place} time" if "/" in name and not name.startswith("Etc/") else place


def country_of(timezone: str) -> str:
    """The ISO code of the country that a zone lies in, or "" where it lies in none."""
    return next((country for country, name in _zone_table() if name == timezone), "")


def countries(codes: Iterable[str]) -> tuple[Choice, ...]:
    """The countries of these ISO codes, by name."""
    choices = (Choice(value=code, label=country_name(code)) for code in codes)
    return tuple(sorted(choices, key=lambda choice: choice.label))


def country_name(code: str) -> str:
    """A country's English name, or its code where the list has none."""
    return _country_names().get(code, code)


def read_yes(value: str | None, *, field: str) -> bool:
    """What a checkbox says; one that was not sent says no.

    Raises:
        InvalidChoice: neither yes nor no.
    """
    answer = (value or "").lower()
    if answer in _YES:
        return True
    if answer in _NO:
        return False
    message = "This is a yes or a no; tick the box or leave it empty."
    raise InvalidChoice(message, field=field)


@cache
def _zone_table() -> tuple[tuple[str, str], ...]:
    rows = (row.split("\t") for row in _table("zone.tab"))
    return tuple((row[0], row[2]) for row in rows if known_timezone(row[2]))


@cache
def _country_names() -> Mapping[str, str]:
    names = dict(row.split("\t", 1) for row in _table("iso3166.tab"))
    # The list of the time zone database says "Britain (UK)", which few people look for.
    return names | {"GB": "United Kingdom", "US": "United States"}


def _table(name: str) -> list[str]:
    text = resources.files("tzdata.zoneinfo").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
