"""How a help line is printed: who answers, by which ways, when, and in which languages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from newsletter.domain.sequence import HelpLine

_DIALLED = re.compile(r"\+?[\d ()/.-]+")
_ENGLISH = frozenset({"en", "english"})


def views(services: Sequence[HelpLine], *, say: Callable[..., str]) -> tuple[dict[str, Any], ...]:
    """`services` as templates print them.

    Args:
        say: speaks the words of email/words.txt.
    """
    return tuple(
        {
            "name": service.name,
            "ways": (ways := _ways(service, say)),
            "reach": "".join(f"{way['before']}{way['words']}{way['behind']}" for way in ways),
            "hours": _hours(service, say),
        }
        for service in services
    )


def _ways(service: HelpLine, say: Callable[..., str]) -> tuple[dict[str, str], ...]:
    found: list[tuple[str, str, str]] = []
    if service.phone:
        verb = "call_or_text" if service.text == service.phone else "call"
        found.append((say(verb), service.phone, _dialling(service.phone)))
    if service.text and service.text != service.phone:
        found.append((say("text"), service.text, ""))
    if service.chat:
        found.append((say("chat"), _spoken(service.chat), service.chat))
    if service.web and service.web != service.chat:
        found.append((say("web"), _spoken(service.web), service.web))
    ways = []
    for number, (verb, words, url) in enumerate(found):
        ways.append(
            {
                "before": f"{verb[:1].upper() + verb[1:] if number == 0 else verb} ",
                "words": words,
                "url": url,
                "page": url if url.startswith("http") else "",
                "behind": _joint(number, len(found), say),
            }
        )
    return tuple(ways)


def _joint(number: int, count: int, say: Callable[..., str]) -> str:
    if number == count - 1:
        return "."
    return f" {say('joined_or')} " if number == count - 2 else ", "


def _dialling(phone: str) -> str:
    """A telephone link, or nothing where the number is spelt in letters."""
    return "tel:" + re.sub(r"[^\d+]", "", phone) if _DIALLED.fullmatch(phone) else ""


def _spoken(url: str) -> str:
    """An address as one reads it out: no scheme, no www, no last slash."""
    return re.sub(r"^https?://(?:www\.)?", "", url).rstrip("/")


def _hours(service: HelpLine, say: Callable[..., str]) -> str:
    hours = service.hours.replace("24/7", say("open_always"), 1).strip()
    if service.languages and not all(language.casefold() in _ENGLISH for language in service.languages):
        *others, last = service.languages
        spoken = f"{', '.join(others)} {say('joined_and')} {last}" if others else last
        hours = f"{hours}, {say('spoken')} {spoken}"
    return f"{hours[:1].upper()}{hours[1:]}".rstrip(".") + "."
