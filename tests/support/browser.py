"""The browser of the tests: the system's own Chromium, driven by playwright.

Playwright would rather download a browser of its own; that is a second supply of software, and one that
many machines cannot reach.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("chromium", "chromium-browser", "google-chrome")

# `--no-sandbox` because the tests may run as root in a container, where Chromium's sandbox cannot start; it
# opens nothing but our own pages. The rest keeps it from calling its maker.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class BrowserMissingError(Exception):
    """There is no Chromium here."""


def find_browser(environment: Mapping[str, str] = os.environ) -> str:
    """Return the path of Chromium: what `CHROMIUM` names, or else the first of the usual names on PATH.

    Raises:
        BrowserMissingError: There is none.
    """
    if wanted := environment.get("CHROMIUM"):
        if found := shutil.which(wanted):
            return found
        message = f"no browser: CHROMIUM names {wanted}, which is no program"
        raise BrowserMissingError(message)
    for name in NAMES:
        if found := shutil.which(name, path=environment.get("PATH")):
            return found
    message = f"no browser: CHROMIUM is not set, and none of {', '.join(NAMES)} is on PATH"
    raise BrowserMissingError(message)
