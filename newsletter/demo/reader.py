"""A person with a browser, as far as the site can tell: opens links, fills in forms, presses buttons."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from newsletter.demo.forms import Form, PageError, read_forms

if TYPE_CHECKING:
    from collections.abc import Mapping

_TIMEOUT_SECONDS = 30
_MOST_REDIRECTS = 3
_FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the site answered."""

    url: str
    status: int
    headers: Mapping[str, str]
    html: str

    def forms(self) -> list[Form]:
        """Every form of the page, in its order."""
        return read_forms(self.html)

    def form(self, *, field: str = "", button: str = "") -> Form:
        """The first form with a field of that name and a button of that label or value.

        Raises:
            PageError: the page has none.
        """
        for form in self.forms():
            has_button = not button or any(button in (value, label) for _, value, label in form.buttons)
            if has_button and (not field or field in form.names):
                return form
        message = f"A page has no form with {button or field!r}."
        raise PageError(message)


class Reader:
    """Somebody who visits the site, without a cookie jar: the site sets no cookies.

    Args:
        site_url: where the site is.
    """

    def __init__(self, site_url: str) -> None:
        self._site_url = site_url

    def open(self, url: str, *, method: str = "GET") -> Page:
        """Open a link of the site, absolute or below its first page.

        Raises:
            PageError: nobody answers, or with something else than a page.
        """
        page = self._ask(method, url)
        if page.status != HTTPStatus.OK:
            message = f"A link opened with {page.status} instead of a page."
            raise PageError(message)
        return page

    def answer(self, page: Page, answers: Mapping[str, str], *, field: str = "", button: str = "") -> Page:
        """Fill in the form of a page, press its button, and see where that leads.

        Raises:
            PageError: there is no such form, or it was refused.
        """
        form = page.form(field=field, button=button)
        landed = self.post(form.action, form.filled(answers, button=button))
        if landed.status != HTTPStatus.OK:
            message = f"A form was answered with {landed.status}."
            raise PageError(message)
        return landed

    def post(self, url: str, fields: Mapping[str, str]) -> Page:
        """Send a form, and follow where that leads.

        Raises:
            PageError: nobody answers.
        """
        page = self._ask("POST", url, body=urlencode(fields))
        for _ in range(_MOST_REDIRECTS):
            if page.status != HTTPStatus.SEE_OTHER:
                break
            page = self._ask("GET", page.headers["location"])
        return page

    def _ask(self, method: str, url: str, *, body: str | None = None) -> Page:
        parts = urlsplit(url)
        address = urlsplit(self._site_url)
        connection = HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept": "text/html", **({"Content-Type": _FORM_TYPE} if body is not None else {})}
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            html = answer.read().decode("utf-8", "replace")
        except (OSError, HTTPException) as error:
            message = f"The site does not answer ({type(error).__name__})."
            raise PageError(message) from error
        finally:
            connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Page(url=url, status=answer.status, headers=found, html=html)
