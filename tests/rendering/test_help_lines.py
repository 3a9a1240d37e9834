"""How a help line is printed."""

from __future__ import annotations

import pytest

from newsletter.domain.sequence import HelpKind, HelpLine
from newsletter.rendering.help_lines import views

SAID = {
    "call": "call",
    "call_or_text": "call or text",
    "text": "text",
    "chat": "chat at",
    "web": "online at",
    "joined_or": "or",
    "joined_and": "and",
    "spoken": "in",
    "open_always": "day and night",
}


def line(**facts: object) -> HelpLine:
    usual = {"name": "A line", "kind": HelpKind.CRISIS, "hours": "24/7"}
    return HelpLine(**(usual | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "reach"),
    [
        ({"phone": "116 123"}, "Call 116 123."),
        ({"phone": "988", "text": "988"}, "Call or text 988."),
        ({"phone": "1", "text": "HI to 2"}, "Call 1 or text HI to 2."),
        (
            {"phone": "1", "text": "HI to 2", "chat": "https://www.e.org/"},
            "Call 1, text HI to 2 or chat at e.org.",
        ),
        ({"chat": "https://e.org/chat/", "web": "https://e.org/"}, "Chat at e.org/chat or online at e.org."),
        ({"chat": "https://e.org/", "web": "https://e.org/"}, "Chat at e.org."),
        ({}, ""),
    ],
)
def test_the_ways_make_one_sentence(facts: dict[str, object], reach: str) -> None:
    (view,) = views([line(**facts)], say=SAID.__getitem__)
    assert view["reach"] == reach


@pytest.mark.parametrize(
    ("facts", "hours"),
    [
        ({}, "Day and night."),
        ({"hours": "24/7; chat from 10 to 22"}, "Day and night; chat from 10 to 22."),
        ({"hours": "weekdays, 9 to 17"}, "Weekdays, 9 to 17."),
        ({"languages": ("English",)}, "Day and night."),
        ({"languages": ("en",)}, "Day and night."),
        ({"languages": ("German",)}, "Day and night, in German."),
        ({"languages": ("English", "Spanish", "others")}, "Day and night, in English, Spanish and others."),
    ],
)
def test_hours_and_languages(facts: dict[str, object], hours: str) -> None:
    """Languages are named unless English is the only one."""
    (view,) = views([line(**facts)], say=SAID.__getitem__)
    assert view["hours"] == hours


@pytest.mark.parametrize(
    ("phone", "url"),
    [("1-800-799-7233", "tel:18007997233"), ("+44 (0) 20 1", "tel:+440201"), ("0800 SAMARIT", "")],
)
def test_a_number_can_be_tapped_where_it_is_one(phone: str, url: str) -> None:
    (view,) = views([line(phone=phone)], say=SAID.__getitem__)
    (way,) = view["ways"]  # type: ignore[misc]
    assert way["url"] == url
