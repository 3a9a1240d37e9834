"""The inbox page of the demo: what arrived, the demo's clock, and the story so far. It runs no script.

It stands beside the site, not in it: nothing of it is there when the site is served for real.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from newsletter import resources
from newsletter.demo.expectations import Ledger, Verdict
from newsletter.web.app import create_app
from newsletter.web.pages import Pages
from newsletter.web.security import HEADERS, Shield

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from newsletter.bootstrap import App
    from newsletter.demo.mailbox import Mail, Mailbox
    from newsletter.demo.telling import Chronicle

REFRESH_SECONDS = 2
MOST_MAILS = 60
MOST_LINES = 60

FRAME_POLICY = HEADERS["Content-Security-Policy"] + "; frame-src 'self'"
"""For the page around a mail."""

MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox"
)
"""For a mail itself: its own styles, and links that open beside it; no picture, no script, no request."""

_HEAD = re.compile(r"<head\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the inbox shows.

    Attributes:
        state: what the clock is doing, in a sentence.
    """

    mailbox: Mailbox
    chronicle: Chronicle
    ledger: Ledger
    timezone: str
    place: str
    now: Callable[[], datetime]
    state: Callable[[], str]


def create_demo_app(app: App, scene: Scene) -> ASGIApp:
    """The real site, and the inbox beside it."""
    pages = Pages(site=app.site, folders=[resources.templates_dir()])
    inbox = Inbox(scene, pages)
    return Starlette(
        routes=[*inbox.routes(), Mount("/", app=create_app(app))],
        middleware=[Middleware(Shield, on_failure=_failure)],
    )


class Inbox:
    """Its pages.

    Args:
        pages: the site's own templates and style.
    """

    def __init__(self, scene: Scene, pages: Pages) -> None:
        self._scene = scene
        self._pages = pages
        self._style = (resources.templates_dir() / "demo" / "inbox.css").read_bytes()

    def routes(self) -> list[Route]:
        """Where they stand."""
        return [
            Route("/inbox", self.show_all),
            Route("/inbox/inbox.css", self.show_style),
            Route("/inbox/{number:int}", self.show_mail),
            Route("/inbox/{number:int}/html", self.show_html),
            Route("/inbox/{number:int}/source", self.show_source),
        ]

    def show_all(self, _request: Request) -> Response:
        """All that arrived, the newest first, and the story."""
        mails = self._scene.mailbox.mails()
        lines = self._scene.chronicle.lines()
        rows = self._scene.ledger.rows() if self._scene.ledger.is_complete else []
        return self._page(
            "inbox",
            {
                "mails": mails[: -MOST_MAILS - 1 : -1],
                "older": max(0, len(mails) - MOST_MAILS),
                "lines": lines[: -MOST_LINES - 1 : -1],
                "rows": rows,
                "all_held": all(row.verdict is not Verdict.BROKEN for row in rows),
                "refresh_seconds": REFRESH_SECONDS,
            },
        )

    def show_mail(self, request: Request) -> Response:
        """One mail: HTML, text and headers."""
        mail = self._mail(request)
        values = {
            "mail": mail,
            "html": mail.html(),
            "text": mail.text(),
            "headers": mail.headers(),
            "is_last": mail.number == len(self._scene.mailbox.mails()),
        }
        return self._page("mail", values, headers={"Content-Security-Policy": FRAME_POLICY})

    def show_html(self, request: Request) -> Response:
        """The HTML part alone, shut in; its links open in a page of their own."""
        html = self._mail(request).html()
        if not html:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        html = _HEAD.sub(lambda head: f'{head[0]}<base target="_blank">', html, count=1)
        return HTMLResponse(html, headers={"Content-Security-Policy": MAIL_POLICY})

    def show_source(self, request: Request) -> Response:
        """Every byte, as it was handed over."""
        return PlainTextResponse(self._mail(request).source())

    def show_style(self, _request: Request) -> Response:
        """What the inbox adds to the site's style."""
        return Response(self._style, media_type="text/css")

    def _mail(self, request: Request) -> Mail:
        mail = self._scene.mailbox.mail(request.path_params["number"])
        if mail is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return mail

    def _page(self, name: str, values: Mapping[str, object], *, headers: Mapping[str, str] | None = None) -> Response:
        scene = self._scene
        common = {
            "now": scene.now(), "timezone": scene.timezone, "place": scene.place, "state": scene.state(),
            "local_text": scene.chronicle.local_text,
        }  # fmt: skip
        return self._pages.page(name, {**common, **values}, folder="demo", headers=headers)


def _failure(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("Something went wrong in the demo.\n", status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
