"""Judging a revision that could be read: what must not be published, and what deserves a second look."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from newsletter.content.library import HELP_FILE
from newsletter.domain.sequence import FALLBACK_COUNTRY, Revision, Step
from newsletter.domain.sequence import Sequence as Series
from newsletter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST_ALWAYS_OPEN = 2
HELP_LINES_GO_STALE = timedelta(days=180)
SUBJECT_CHARACTERS = (30, 50)
PREHEADER_CHARACTERS = (40, 100)
MOST_WORDS = 600
_MARKUP = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\]\([^)]*\)", re.DOTALL)
_UNKNOWN = (
    (re.compile(r"</?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>"), "a letter knows no HTML; write Markdown"),
    (re.compile(r"^\s*\|.*\|\s*$"), "a letter knows no tables; write a list"),
    (
        re.compile(r"\]\((?:javascript|data|vbscript):[^)]*\)", re.IGNORECASE),
        "such a link leads nowhere; write https://",
    ),
)
_WORD = re.compile(r"\w+(?:[\u2019'\-]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `lint` found.

    Attributes:
        errors: what stands in the way of publishing.
        warnings: what an operator should know, and may overrule.
    """

    errors: tuple[ContentError, ...] = ()
    warnings: tuple[ContentError, ...] = ()


def lint(revision: Revision, *, countries: Sequence[str], today: date) -> Report:
    """Judge `revision` for readers in `countries`.

    Args:
        revision: what would be published.
        countries: the ISO codes that the form offers.
        today: the day on which the age of help lines is counted.
    """
    return Report(
        errors=tuple(_lacking_help(revision, countries)),
        warnings=(*_series_warnings(revision), *_stale_help(revision, today)),
    )


def _lacking_help(revision: Revision, countries: Sequence[str]) -> Iterator[ContentError]:
    """The countries whose readers a sensitive letter would leave without help, each once."""
    sensitive = [one.key for one in revision.sequences if one.sensitive]
    if not sensitive:
        return
    because = f"{', '.join(sensitive)} cannot be published as sensitive without"
    for country in dict.fromkeys(countries):
        services = revision.help_lines.get(country, ())
        always_open = sum(service.always_open for service in services)
        if always_open < LEAST_ALWAYS_OPEN:
            message = f'{country} has {always_open} services with hours: "24/7"; {because} two; add them.'
            yield ContentError(message, path=HELP_FILE)
        if not any(service.online for service in services):
            message = f"{country} has no service that works online; {because} one; add its chat or web."
            yield ContentError(message, path=HELP_FILE)
    if not revision.help_lines.get(FALLBACK_COUNTRY):
        message = f'readers elsewhere have no service; {because} one; add the entry "*":'
        yield ContentError(message, path=HELP_FILE)


def _stale_help(revision: Revision, today: date) -> Iterator[ContentError]:
    for country, services in revision.help_lines.items():
        for service in services:
            what = f"{service.name} ({country})"
            if service.checked_on is None:
                yield ContentError(f"{what} was never checked; look it up and add checked_on: {today}", path=HELP_FILE)
            elif today - service.checked_on > HELP_LINES_GO_STALE:
                days = (today - service.checked_on).days
                message = f"{what} was last checked {days} days ago; look it up and write checked_on: {today}"
                yield ContentError(message, path=HELP_FILE)


def _series_warnings(revision: Revision) -> Iterator[ContentError]:
    for one in revision.sequences:
        if one.sensitive and one.reviewed is None:
            yield ContentError(
                "nobody has reviewed this sensitive series; when somebody qualified has, write "
                "reviewed: {by: Name, on: 2026-11-23}",
                path=f"sequences/{one.key}/sequence.yaml",
            )
        yield from _letter_warnings(one)


def _letter_warnings(one: Series) -> Iterator[ContentError]:
    for step in one.steps:
        yield from _length(step, "subject", step.subject, SUBJECT_CHARACTERS)
        yield from _length(step, "preheader", step.preheader, PREHEADER_CHARACTERS)
        if "!" in step.subject:
            yield ContentError("the subject holds an exclamation mark; a full stop is calmer.", path=step.path)
        yield from _written_out(step)
        words = len(_WORD.findall(_MARKUP.sub(" ", step.body)))
        if words > MOST_WORDS:
            message = f"the letter has {words} words; {MOST_WORDS} are plenty on a telephone."
            yield ContentError(message, path=step.path, line=step.body_line)


def _written_out(step: Step) -> Iterator[ContentError]:
    """What readers would see as it stands, because it is no Markdown that a letter knows."""
    for number, line in enumerate(step.body.split("\n")):
        for pattern, what in _UNKNOWN:
            found = pattern.search(line)
            if found is not None:
                message = f"readers will see {found[0].strip()!r} as it stands: {what}."
                yield ContentError(message, path=step.path, line=step.body_line + number)


def _length(step: Step, what: str, text: str, limits: tuple[int, int]) -> Iterator[ContentError]:
    """A line that an inbox would cut, or that says little; one with Jinja in it is left alone."""
    least, most = limits
    if text and "{" not in text and not least <= len(text) <= most:
        message = f"the {what} has {len(text)} characters; {least} to {most} are read best."
        yield ContentError(message, path=step.path)
