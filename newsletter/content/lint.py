"""Judging a revision that could be read: what must not be published, and what deserves a second look."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from newsletter.content import style
from newsletter.content.library import HELP_FILE
from newsletter.domain.sequence import FALLBACK_COUNTRY, Revision, Step
from newsletter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LEAST_ALWAYS_OPEN = 2
HELP_LINES_GO_STALE = timedelta(days=180)
_UNKNOWN = (
    (re.compile(r"</?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>"), "a letter knows no HTML; write Markdown"),
    (re.compile(r"^\s*\|.*\|\s*$"), "a letter knows no tables; write a list"),
    (
        re.compile(r"\]\((?:javascript|data|vbscript):[^)]*\)", re.IGNORECASE),
        "such a link leads nowhere; write https://",
    ),
)


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
        warnings=(
            *_unreviewed(revision),
            *_unreadable(revision),
            *style.remarks(revision),
            *_stale_help(revision, today),
        ),
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


def _unreviewed(revision: Revision) -> Iterator[ContentError]:
    for one in revision.sequences:
        if one.sensitive and one.reviewed is None:
            yield ContentError(
                "nobody has reviewed this sensitive series; when somebody qualified has, write "
                "reviewed: {by: Name, on: 2026-11-23}",
                path=f"sequences/{one.key}/sequence.yaml",
            )


def _unreadable(revision: Revision) -> Iterator[ContentError]:
    for one in revision.sequences:
        for step in one.steps:
            yield from _written_out(step)


def _written_out(step: Step) -> Iterator[ContentError]:
    """What readers would see as it stands, because it is no Markdown that a letter knows."""
    for number, line in enumerate(step.body.split("\n")):
        for pattern, what in _UNKNOWN:
            found = pattern.search(line)
            if found is not None:
                message = f"readers will see {found[0].strip()!r} as it stands: {what}."
                yield ContentError(message, path=step.path, line=step.body_line + number)
