"""The site as one application: its paths, what goes wrong on them, and what stands around them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from newsletter import resources
from newsletter.bootstrap import App
from newsletter.errors import DatabaseRefused, DatabaseUnavailable, InvalidChoice, NotAllowed, NotFound, TokenError
from newsletter.web.pages import Pages
from newsletter.web.preferences import PreferencesPages
from newsletter.web.problems import Problems
from newsletter.web.public import PublicPages
from newsletter.web.security import SILENT_TELEMETRY, Shield

Handler = Callable[..., Response]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A path of the site, what GET (and HEAD) shows there, and what POST does."""

    path: str
    show: Handler | None = None
    act: Handler | None = None

    @property
    def allow(self) -> str:
        """The methods it answers, as the Allow header names them."""
        reading = ["GET", "HEAD"] if self.show else []
        writing = ["POST"] if self.act else []
        return ", ".join([*reading, *writing, "OPTIONS"])


def create_app(app: App) -> FastAPI:
    """The site of `app`, ready to be served. GET, HEAD and OPTIONS change nothing anywhere."""
    own = app.settings.templates_dir
    folders = [*([own] if own else []), resources.templates_dir()]
    pages = Pages(site=app.site, folders=folders)
    problems = Problems(pages)
    public = PublicPages(app, pages, problems)
    table = _table(app, pages, public)
    site = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=SILENT_TELEMETRY,
        middleware=[Middleware(Shield, on_failure=problems.for_failure)],
        exception_handlers=_exception_handlers(problems, public, {page.path: page.allow for page in table}),
    )
    for page in table:
        if page.show is not None:
            site.add_api_route(page.path, page.show, methods=["GET", "HEAD"], response_model=None)
        if page.act is not None:
            site.add_api_route(page.path, page.act, methods=["POST"], response_model=None)
    return site


def _table(app: App, pages: Pages, public: PublicPages) -> tuple[Page, ...]:
    preferences = PreferencesPages(app, pages)
    plain = PlainAnswers(app, pages)
    return (
        Page(path="/", show=public.show_subscribe),
        Page(path="/subscribe", act=public.subscribe),
        Page(path="/confirm/{token}", show=public.show_confirm, act=public.confirm),
        Page(path="/preferences/{token}", show=preferences.show, act=preferences.change),
        Page(path="/unsubscribe/{token}", show=public.show_leave, act=public.leave),
        Page(path="/too-much", show=public.show_too_much),
        Page(path="/static/{name}", show=plain.static),
        Page(path="/robots.txt", show=plain.robots),
        Page(path="/healthz", show=plain.health),
    )


class PlainAnswers:
    """What machines ask for."""

    def __init__(self, app: App, pages: Pages) -> None:
        self._app = app
        self._pages = pages

    def static(self, request: Request, name: str) -> Response:
        """A file that pages draw on; its address names its content, so a browser may keep it."""
        asset = self._pages.assets.get(name)
        if asset is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        headers = {"Cache-Control": "public, max-age=86400", "ETag": f'"{asset.digest}"'}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    def robots(self) -> Response:
        """Nothing here is for search engines."""
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    def health(self) -> Response:
        """Whether the database answers; a process that cannot reach it is of no use to anybody."""
        try:
            with self._app.database.read() as connection:
                connection.exec_driver_sql("SELECT 1")
        except (DatabaseUnavailable, DatabaseRefused):
            return JSONResponse({"status": "unavailable"}, status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "ok"})


def _exception_handlers(problems: Problems, public: PublicPages, allowed: dict[str, str]) -> dict[Any, Any]:
    def method_not_allowed(request: Request, error: Exception) -> Response:
        # Several handlers share a path, and the framework's own Allow names only the first one's methods.
        allow = {"Allow": allowed[request.scope["route"].path]}
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=allow)
        response = problems.for_http(request, error)
        response.headers.update(allow)
        return response

    return {
        HTTPException: problems.for_http,
        int(HTTPStatus.METHOD_NOT_ALLOWED): method_not_allowed,
        RequestValidationError: problems.for_choice,
        TokenError: problems.for_token,
        InvalidChoice: problems.for_choice,
        NotAllowed: problems.for_state,
        NotFound: public.unknown_sequence,
        DatabaseUnavailable: problems.for_database,
        DatabaseRefused: problems.for_database,
    }
