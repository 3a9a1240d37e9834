"""What every answer carries, and what no log may hold."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
"""On every answer that does not say otherwise itself."""

SILENT_TELEMETRY: TelemetryConfig = {
    # FastAPI would hand paths, and with them readers' tokens, to any OpenTelemetry exporter of the process.
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


class Shield:
    """Puts the headers on every answer, sends no body to HEAD, and answers when nothing else could.

    It stands around everything of ours, because Starlette's own last resort would answer without headers and
    hand the exception, whose text may hold an address, to the server's log.

    Args:
        on_failure: makes the page for an exception that nobody handled.
    """

    def __init__(self, app: ASGIApp, *, on_failure: Callable[[Request, Exception], Response]) -> None:
        self._app = app
        self._on_failure = on_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Source: the ASGI specification, version 3."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _complete(MutableHeaders(scope=message))
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:  # noqa: BLE001  (the last resort for whatever nobody foresaw)
            _log_failure(scope, error)
            if started:
                raise ConnectionError from None
            response = self._page(Request(scope), error)
            await response(scope, receive, guarded)

    def _page(self, request: Request, error: Exception) -> Response:
        try:
            return self._on_failure(request, error)
        except Exception:  # noqa: BLE001  (see below)
            # A broken template of the operator's must not take the error page with it.
            text = "Something went wrong on our side. Please try again in a few minutes.\n"
            return PlainTextResponse(text, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)


def _complete(headers: MutableHeaders) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)


def _log_failure(scope: Scope, error: Exception) -> None:
    # The exception's own text may quote an address or a token: only its kind and its place are told.
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    route = getattr(scope.get("route"), "path", None)
    log = structlog.get_logger("newsletter.web")
    log.error("page_failed", method=scope["method"], route=route, error=type(error).__name__, where=where)
