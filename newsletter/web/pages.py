"""Turns a template and its values into a page, and keeps the few files that pages draw on."""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from newsletter.domain.cadence import known_timezone
from newsletter.rendering.facts import Site
from newsletter.web import choices

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file that pages draw on. `digest`: names its content, for caches."""

    content: bytes
    media_type: str
    digest: str


class Pages:
    """The templates of the site.

    Args:
        site: what every page says about its owner.
        folders: where templates and static files lie; an earlier folder rules over a later one.
    """

    def __init__(self, *, site: Site, folders: Sequence[Path]) -> None:
        self._prefix = urlsplit(site.base_url).path.rstrip("/")
        self.assets = _read_assets(folders)
        # Operators may put templates of their own before ours, so they run in the sandbox like their letters.
        self._environment = ImmutableSandboxedEnvironment(
            loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
            undefined=StrictUndefined,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(site=site, path=self.path, asset=self._asset_path)
        self._environment.filters.update(
            day=day_text,
            dialled=_dialled,
            spoken=_spoken,
            local_day=_local_day,
            local_weekday=_local_weekday,
            local_clock=_local_clock,
            zone_label=choices.zone_label,
        )

    def path(self, path: str) -> str:
        """Where `path` of this site is found from the browser, below the path of BASE_URL."""
        return self._prefix + path

    def page(
        self,
        template: str,
        values: Mapping[str, object],
        *,
        folder: str = "pages",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The page that `templates/<folder>/<template>.html` makes of `values`."""
        html = self._environment.get_template(f"{folder}/{template}.html").render(values)
        return HTMLResponse(html, status_code=status, headers=dict(headers or {}))

    def _asset_path(self, name: str) -> str:
        return self.path(f"/static/{name}?v={self.assets[name].digest}")


def day_text(day: date) -> str:
    """A day as people write it: Thursday 26 November 2026."""
    return f"{choices.WEEKDAY_NAMES[day.weekday()]} {day.day} {_MONTHS[day.month - 1]} {day.year}"


def _local_day(instant: datetime, timezone: str) -> str:
    return day_text(instant.astimezone(_zone(timezone)).date())


def _local_weekday(instant: datetime, timezone: str) -> str:
    return choices.WEEKDAY_NAMES[instant.astimezone(_zone(timezone)).weekday()]


def _local_clock(instant: datetime, timezone: str) -> str:
    return f"{instant.astimezone(_zone(timezone)):%H:%M}"


def _dialled(phone: str) -> str:
    """What a telephone dials, or nothing where the number is spelt in letters."""
    return "" if re.search(r"[^\d+ ()/.-]", phone) else re.sub(r"[^\d+]", "", phone)


def _spoken(url: str) -> str:
    """An address as one reads it out: no scheme, no www, no last slash."""
    return re.sub(r"^https?://(?:www\.)?", "", url).rstrip("/")


def _zone(name: str) -> tzinfo:
    # A zone this machine does not know counts as UTC everywhere in the program.
    return ZoneInfo(name) if known_timezone(name) else UTC


def _read_assets(folders: Sequence[Path]) -> dict[str, Asset]:
    assets: dict[str, Asset] = {}
    for folder in reversed(folders):
        for file in sorted((folder / "static").glob("*.*")):
            content = file.read_bytes()
            media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            digest = hashlib.sha256(content).hexdigest()[:12]
            assets[file.name] = Asset(content=content, media_type=media_type, digest=digest)
    return assets
