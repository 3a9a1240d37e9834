"""The pages before and after the letters: subscribe, confirm, leave, and a steady place to stop at."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from newsletter.bootstrap import App
from newsletter.errors import AddressError, InvalidChoice
from newsletter.service.subscribing import SignUp
from newsletter.web import choices
from newsletter.web.forms import Form, read_form
from newsletter.web.pages import Pages
from newsletter.web.problems import Problems, invalid_form, prefers_json

PostedForm = Annotated[Form, Depends(read_form)]

_SUBSCRIBE_FIELDS = ("email", "sequence", "timezone", "weekday", "time", "country", "discreet")
_SLOT_FIELDS = ("timezone", "weekday", "time", "country", "discreet")


class PublicPages:
    """The pages that nobody needs an account for: they have none."""

    def __init__(self, app: App, pages: Pages, problems: Problems) -> None:
        self._app = app
        self._pages = pages
        self._problems = problems

    # --- subscribing ---

    def show_subscribe(self) -> Response:
        """The first page: what comes, and a form."""
        return self._subscribe_page({}, {})

    def subscribe(self, request: Request, form: PostedForm) -> Response:
        """Take an address. The answer is the same whatever was known about it."""
        typed = {name: form.get(name, "") for name in _SUBSCRIBE_FIELDS}
        try:
            signup = SignUp(
                email=typed["email"],
                sequence=typed["sequence"] or None,
                timezone=typed["timezone"] or None,
                weekday=typed["weekday"] or None,
                time=typed["time"] or None,
                country=typed["country"] or None,
                discreet=choices.read_yes(typed["discreet"], field="discreet"),
            )
            self._app.subscribing.request(signup, now=self._app.clock.now())
        except AddressError as error:
            return self._refused(request, typed, {"email": str(error)})
        except InvalidChoice as error:
            return self._refused(request, typed, {error.field: error.message})
        return self._pages.page("sent", {"typed": typed})

    def _refused(self, request: Request, typed: Mapping[str, str], errors: Mapping[str, str]) -> Response:
        if prefers_json(request):
            return invalid_form(errors)
        return self._subscribe_page(typed, errors, status=HTTPStatus.UNPROCESSABLE_ENTITY)

    def unknown_sequence(self, request: Request, error: Exception) -> Response:
        """Letters that are not offered, or no longer, and those that are."""
        if prefers_json(request):
            return self._problems.for_missing(request, error)
        offers = self._app.choices.offers()
        return self._pages.page("unknown-sequence", {"offers": offers}, status=HTTPStatus.NOT_FOUND)

    def _subscribe_page(
        self, typed: Mapping[str, str], errors: Mapping[str, str], *, status: int = HTTPStatus.OK
    ) -> Response:
        slot = self._app.choices.default_slot()
        offers = self._app.choices.offers()
        countries = choices.countries(self._app.choices.countries())
        home = choices.country_of(slot.timezone)
        usual = {
            "email": "",
            "sequence": next((offer.key for offer in offers if offer.selected), ""),
            "timezone": slot.timezone,
            "weekday": choices.weekdays()[slot.weekday].value,
            "time": f"{slot.at:%H:%M}",
            "country": home if any(country.value == home for country in countries) else "",
            "discreet": "",
        }
        values: dict[str, object] = {
            "offers": offers,
            "values": {**usual, **typed},
            "errors": errors,
            "unfold": any(name in _SLOT_FIELDS for name in errors),
            "weekdays": choices.weekdays(),
            "zones": choices.zones(),
            "countries": countries,
            "usual_slot": f"{choices.WEEKDAY_NAMES[slot.weekday]} {slot.at:%H:%M}",
            # A form that comes back keeps what was typed: no script may guess over it.
            "fresh": not typed,
        }
        return self._pages.page("subscribe", values, status=status)

    # --- confirming ---

    def show_confirm(self, token: str) -> Response:
        """A page with one button, or two; opening it changes nothing."""
        view = self._app.subscribing.confirmation(token, now=self._app.clock.now())
        return self._pages.page("confirm", {"view": view, "token": token})

    def confirm(self, token: str, form: PostedForm) -> Response:
        """Confirm, and go on to the page that says when the first letter comes."""
        start = form.get("start") or "slot"
        if start not in {"now", "slot"}:
            message = "Choose whether the first letter comes now or at your usual hour."
            raise InvalidChoice(message, field="start")
        now = self._app.clock.now()
        preferences_token = self._app.subscribing.confirm(token, start_now=start == "now", now=now)
        where = self._pages.path(f"/preferences/{preferences_token}")
        return RedirectResponse(where, status_code=HTTPStatus.SEE_OTHER)

    # --- leaving ---

    def show_leave(self, token: str) -> Response:
        """A page with one button; opening it changes nothing, because mail scanners open every link."""
        view = self._app.leaving.view(token, now=self._app.clock.now())
        return self._pages.page("gone" if view.gone else "leave", {"view": view, "token": token})

    def leave(self, token: str, form: PostedForm) -> Response:
        """Leave: done before it is answered, as often as asked, never with a redirect or a cookie.

        Source: RFC 8058, sections 3.1 and 3.2.
        """
        scope = form.get("scope", "")
        if scope not in {"", "all", "sequence"}:
            message = "Choose whether to leave this one series or all of them."
            raise InvalidChoice(message, field="scope")
        now = self._app.clock.now()
        only_this = scope == "sequence"
        self._app.leaving.leave(token, only_this=only_this, now=now)
        if not only_this:
            return self._pages.page("gone", {})
        view = self._app.leaving.view(token, now=now)
        return self._pages.page("left-one", {"view": view})

    # --- steady ground ---

    def show_too_much(self) -> Response:
        """For when a letter is too much: something to do with both feet, a way to pause, people to call."""
        lines = self._app.choices.help_lines()
        named = [
            (country, lines[country.value])
            for country in choices.countries(code for code in lines if code != "*")
            if lines[country.value]
        ]
        return self._pages.page("too-much", {"countries": named, "everywhere": lines.get("*", ())})
