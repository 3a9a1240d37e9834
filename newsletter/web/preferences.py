"""One reader's own page: when the next letter comes, and everything they may change about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from newsletter.bootstrap import App
from newsletter.domain.subscription import State
from newsletter.errors import InvalidChoice
from newsletter.web import choices
from newsletter.web.forms import Form
from newsletter.web.pages import Pages
from newsletter.web.problems import invalid_form, prefers_json
from newsletter.web.public import PostedForm

PAUSE_WEEKS = (1, 2, 4)

_PAUSABLE = frozenset({State.ACTIVE, State.PAUSED})


class PreferencesPages:
    """The page behind the link in every letter. It shows no address, and changes none."""

    def __init__(self, app: App, pages: Pages) -> None:
        self._app = app
        self._pages = pages

    def show(self, token: str) -> Response:
        """What is true now; opening it changes nothing."""
        return self._page(token, {}, {})

    def change(self, request: Request, token: str, form: PostedForm) -> Response:
        """Save, pause or resume, and show the page again: it says what is true then."""
        try:
            self._act(token, form)
        except InvalidChoice as error:
            errors = {error.field: error.message}
            if prefers_json(request):
                return invalid_form(errors)
            return self._page(token, form, errors, status=HTTPStatus.UNPROCESSABLE_ENTITY)
        return RedirectResponse(self._pages.path(f"/preferences/{token}"), status_code=HTTPStatus.SEE_OTHER)

    def _act(self, token: str, form: Form) -> None:
        staying, now = self._app.staying, self._app.clock.now()
        match form.get("action", ""):
            case "save":
                staying.change(
                    token,
                    weekday=form.get("weekday", ""),
                    time=form.get("time", ""),
                    timezone=form.get("timezone", ""),
                    country=form.get("country") or None,
                    discreet=choices.read_yes(form.get("discreet"), field="discreet"),
                    now=now,
                )
            case "pause":
                weeks, until = _read_pause(form)
                staying.pause(token, weeks=weeks, until=until, now=now)
            case "resume":
                staying.resume(token, now=now)
            case _:
                message = "Choose what to do: save, pause or resume."
                raise InvalidChoice(message, field="action")

    def _page(
        self, token: str, typed: Mapping[str, str], errors: Mapping[str, str], *, status: int = HTTPStatus.OK
    ) -> Response:
        now = self._app.clock.now()
        view = self._app.staying.view(token, now=now)
        saved = {
            "timezone": view.slot.timezone,
            "weekday": choices.weekdays()[view.slot.weekday].value,
            "time": f"{view.slot.at:%H:%M}",
            "country": view.country or "",
            "discreet": "yes" if view.discreet else "",
            "until": "",
        }
        # A box that is not ticked is not sent: only a form that was saved says something about it.
        retyped = {name: typed.get(name, "") for name in saved} if typed.get("action") == "save" else {}
        values: dict[str, object] = {
            "view": view,
            "now": now,
            "token": token,
            "values": {**saved, **retyped, "until": typed.get("until", "")},
            "errors": errors,
            "gone": all(item.state is State.LEFT for item in view.subscriptions),
            "may_pause": any(item.state in _PAUSABLE for item in view.subscriptions),
            "pause_weeks": PAUSE_WEEKS,
            "weekdays": choices.weekdays(),
            "zones": choices.zones(),
            "countries": choices.countries(self._app.choices.countries()),
        }
        return self._pages.page("preferences", values, status=status)


def _read_pause(form: Form) -> tuple[int | None, date | None]:
    """The weeks or the day of a pause, exactly one of them.

    Raises:
        InvalidChoice: neither, both, or not understood.
    """
    weeks, until = form.get("weeks", ""), form.get("until", "")
    if weeks and until:
        message = "Choose a number of weeks or a day, not both."
        raise InvalidChoice(message, field="until")
    if weeks:
        if weeks not in {str(number) for number in PAUSE_WEEKS}:
            message = "Choose one, two or four weeks, or a day of your own."
            raise InvalidChoice(message, field="weeks")
        return int(weeks), None
    try:
        return None, date.fromisoformat(until)
    except ValueError as error:
        message = "Choose the day on which the letters may begin again."
        raise InvalidChoice(message, field="until") from error
