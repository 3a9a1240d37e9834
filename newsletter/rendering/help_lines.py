"""How a help line is printed: who answers, by which ways, when, and in which languages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from newsletter.domain.sequence import HelpKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from newsletter.domain.sequence import HelpLine

_DIALLED = re.compile(r"\+?[\d ()/.-]+")
_ENGLISH = frozenset({"en", "english"})


MOST_IN_A_LETTER = 3
"""A letter names a few services; all of them stand on the page "If this is too much today"."""


def few(services: Sequence[HelpLine]) -> tuple[HelpLine, ...]:
    """The services that a letter names, in their own order.

    One for a crisis and one for abuse that never close, and one that works without a telephone; then the next ones.
    """
    open_now = [line for line in services if line.always_open]
    firsts = (
        next((line for line in open_now if line.kind is HelpKind.CRISIS), None),
        next((line for line in open_now if line.kind is HelpKind.ABUSE), None),
        next((line for line in services if line.chat or line.text), None),
    )
    chosen = list(dict.fromkeys([line for line in firsts if line is not None] + list(services)))[:MOST_IN_A_LETTER]
    return tuple(line for line in services if line in chosen)


def views(services: Sequence[HelpLine], *, say: Callable[..., str]) -> tuple[dict[str, object], ...]:
    """`services` as templates print them.

    Args:
        services: in the order of the operator's file.
        say: speaks the words of email/words.txt.
    """
    return tuple(_view(service, say) for service in services)


def _view(service: HelpLine, say: Callable[..., str]) -> dict[str, object]:
    ways = _ways(service, say)
    return {
        "name": service.name,
        "ways": ways,
        "reach": "".join(f"{way['before']}{way['words']}{way['behind']}" for way in ways),
        "hours": _hours(service, say),
    }


def _ways(service: HelpLine, say: Callable[..., str]) -> tuple[dict[str, str], ...]:
    """Each way with the words around it, so that together they make a sentence.

    `url` is what the words link to, `page` the same where it is a web page; both may be empty.
    """
    found: list[tuple[str, str, str]] = []
    if service.phone:
        verb = say("call_or_text" if service.text == service.phone else "call")
        found.append((verb, service.phone, _dialling(service.phone)))
    if service.text and service.text != service.phone:
        found.append((say("text"), service.text, ""))
    if service.chat:
        found.append((say("chat"), _spoken(service.chat), service.chat))
    if service.web and service.web != service.chat:
        found.append((say("web"), _spoken(service.web), service.web))
    last = len(found) - 1
    return tuple(
        {
            "before": f"{verb if number else _capitalised(verb)} ",
            "words": words,
            "url": url,
            "page": url if url.startswith("http") else "",
            "behind": "." if number == last else f" {say('joined_or')} " if number == last - 1 else ", ",
        }
        for number, (verb, words, url) in enumerate(found)
    )


def _dialling(phone: str) -> str:
    """A telephone link, or nothing where the number is spelt in letters."""
    return "tel:" + re.sub(r"[^\d+]", "", phone) if _DIALLED.fullmatch(phone) else ""


def _spoken(url: str) -> str:
    """An address as one reads it out: no scheme, no www, no last slash."""
    return re.sub(r"^https?://(?:www\.)?", "", url).rstrip("/")


def _hours(service: HelpLine, say: Callable[..., str]) -> str:
    hours = service.hours.replace("24/7", say("open_always"), 1).strip().rstrip(".")
    if any(language.casefold() not in _ENGLISH for language in service.languages):
        *others, last = service.languages
        spoken = f"{', '.join(others)} {say('joined_and')} {last}" if others else last
        hours = f"{hours}, {say('spoken')} {spoken}"
    return f"{_capitalised(hours)}."


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]
