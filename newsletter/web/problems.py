"""What went wrong, what it means for you, what you can do: one page for each kind of refusal.

A client that asks for JSON before HTML gets the same words as `application/problem+json`. Source: RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from newsletter.errors import NewsletterError, TokenExpired
from newsletter.web.pages import Pages


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A refusal in words.

    Attributes:
        heading: what happened.
        sentences: what it means for the reader and what they can do.
        way_on: the words of the link to the first page; empty for none.
    """

    status: HTTPStatus
    heading: str
    sentences: tuple[str, ...]
    way_on: str = ""


FORGED_LINK = Problem(
    status=HTTPStatus.NOT_FOUND,
    heading="This link does not open anything",
    sentences=(
        "A part of it may be missing: long links are sometimes cut in two on their way. Nothing was changed.",
        "Open it again from the mail it came in, or use the links at the foot of your newest letter.",
        "No letter at hand? Give your address on the first page: the mail that answers brings a new link.",
    ),
    way_on="Go to the first page",
)

EXPIRED_LINK = Problem(
    status=HTTPStatus.GONE,
    heading="This link is too old to open",
    sentences=(
        "The link in a confirmation mail works once, and for seven days. Nothing was changed.",
        "If you would still like the letters, ask again. A new mail then brings a new link.",
        "If you already get the letters, use the links at the foot of the newest one.",
    ),
    way_on="Ask again",
)

UNKNOWN_SEQUENCE = Problem(
    status=HTTPStatus.NOT_FOUND,
    heading="Those letters are not offered here",
    sentences=("Nothing was sent and nothing was changed.",),
)

NOT_NOW = Problem(
    status=HTTPStatus.CONFLICT,
    heading="That cannot be done as things stand",
    sentences=("Nothing was changed.",),
)

UNAVAILABLE = Problem(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    heading="We cannot look anything up right now",
    sentences=(
        "What you asked for was not done, and nothing was half done.",
        "Please try again in a few minutes. The link or the page you came from will still work.",
    ),
)

FAILED = Problem(
    status=HTTPStatus.INTERNAL_SERVER_ERROR,
    heading="Something went wrong on our side",
    sentences=(
        "It is not your doing. We have made a note of it, and the note does not say who you are.",
        "Please try again in a few minutes. The link or the page you came from will still work.",
    ),
)

_BY_STATUS: Mapping[int, Problem] = {
    problem.status: problem
    for problem in (
        Problem(
            status=HTTPStatus.BAD_REQUEST,
            heading="This form arrived damaged",
            sentences=("Nothing was changed. Please go back, look it over, and send it once more.",),
        ),
        Problem(
            status=HTTPStatus.NOT_FOUND,
            heading="There is nothing at this address",
            sentences=(
                "If you followed a link from a letter, a part of it may be missing.",
                "Open it again from the letter, or copy the whole of it.",
            ),
            way_on="Go to the first page",
        ),
        Problem(
            status=HTTPStatus.METHOD_NOT_ALLOWED,
            heading="This page does not work that way",
            sentences=("Nothing was changed. Open it as a page, and press the button on it.",),
        ),
        Problem(
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            heading="That was more than this form can take",
            sentences=("Nothing was changed. An address and a few choices are all it needs.",),
        ),
        Problem(
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            heading="This page cannot read what was sent",
            sentences=("Nothing was changed. Please use the form on the page itself.",),
        ),
        Problem(
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            heading="One thing needs another look",
            sentences=("Nothing was changed. Please go back and choose again.",),
        ),
        UNAVAILABLE,
        FAILED,
    )
}


class Problems:
    """Answers with a problem, as a page or as JSON."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def answer(self, request: Request, problem: Problem, *, headers: Mapping[str, str] | None = None) -> Response:
        """The problem in the form that the client prefers."""
        if prefers_json(request):
            return problem_json(problem, headers=headers)
        return self._pages.page("problem", asdict(problem), status=problem.status, headers=headers)

    def for_token(self, request: Request, error: Exception) -> Response:
        """A link that does not open anything, or no longer."""
        return self.answer(request, EXPIRED_LINK if isinstance(error, TokenExpired) else FORGED_LINK)

    def for_http(self, request: Request, error: Exception) -> Response:
        """A refusal by the framework or by `read_form`; a `detail` of our own is told, too."""
        assert isinstance(error, HTTPException)  # noqa: S101  (Starlette types handlers more widely than it calls them)
        problem = _BY_STATUS.get(error.status_code, replace(FAILED, status=HTTPStatus(error.status_code)))
        if error.detail != HTTPStatus(error.status_code).phrase:
            problem = replace(problem, sentences=(error.detail, *problem.sentences))
        return self.answer(request, problem, headers=error.headers)

    def for_choice(self, request: Request, error: Exception) -> Response:
        """A choice that cannot be, made where no form of ours stands to show it beside the field."""
        problem = _BY_STATUS[HTTPStatus.UNPROCESSABLE_ENTITY]
        detail = (str(error),) if isinstance(error, NewsletterError) else ()
        return self.answer(request, replace(problem, sentences=(*detail, *problem.sentences)))

    def for_missing(self, request: Request, _error: Exception) -> Response:
        """Letters that are not offered here."""
        return self.answer(request, UNKNOWN_SEQUENCE)

    def for_state(self, request: Request, error: Exception) -> Response:
        """Something that cannot be done as things stand; the error says why."""
        return self.answer(request, replace(NOT_NOW, sentences=(str(error), *NOT_NOW.sentences)))

    def for_database(self, request: Request, _error: Exception) -> Response:
        """The database cannot be reached, is full, or does not fit: never a false "done"."""
        return self.answer(request, UNAVAILABLE, headers={"Retry-After": "120"})

    def for_failure(self, request: Request, _error: Exception) -> Response:
        """Whatever nobody foresaw."""
        return self.answer(request, FAILED)


def problem_json(
    problem: Problem, *, headers: Mapping[str, str] | None = None, errors: Mapping[str, str] | None = None
) -> Response:
    """`problem` as RFC 9457 has it; `errors` says what is wrong with each field."""
    content: dict[str, object] = {
        "type": "about:blank",
        "title": problem.heading,
        "status": int(problem.status),
        "detail": " ".join(problem.sentences),
    }
    if errors:
        content["errors"] = [{"field": field, "message": message} for field, message in errors.items()]
    return JSONResponse(
        content,
        status_code=problem.status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def invalid_form(errors: Mapping[str, str]) -> Response:
    """A form that was refused, for a client that asked for JSON."""
    return problem_json(_BY_STATUS[HTTPStatus.UNPROCESSABLE_ENTITY], errors=errors)


def prefers_json(request: Request) -> bool:
    """Whether the client would rather have JSON than a page. Source: RFC 9110, section 12.5.1."""
    ranges = _accepted(request.headers.get("accept", ""))
    json = max(_quality(ranges, "application", "json"), _quality(ranges, "application", "problem+json"))
    return json > _quality(ranges, "text", "html")


def _accepted(header: str) -> Sequence[tuple[str, float]]:
    ranges = []
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            ranges.append((name, float(quality)))
        except ValueError:
            continue
    return ranges


def _quality(ranges: Sequence[tuple[str, float]], kind: str, name: str) -> float:
    """How much a media type is wanted; the most specific range decides."""
    wanted = dict(ranges)
    return wanted.get(f"{kind}/{name}", wanted.get(f"{kind}/*", wanted.get("*/*", 0.0)))
