"""The forms of a page, read and filled in the way a browser does."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from newsletter.errors import NewsletterError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT_LIKE = {"text", "email", "time", "date", "hidden", "search"}


class PageError(NewsletterError):
    """A page is not what a person would expect there."""


@dataclass(kw_only=True)
class Form:
    """One form: what is filled in already, and its buttons as (name, value, label)."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    buttons: list[tuple[str, str, str]] = field(default_factory=list)

    def filled(self, answers: Mapping[str, str], *, button: str = "") -> dict[str, str]:
        """What is sent when somebody answers and presses the button whose label or value is `button`.

        Raises:
            PageError: the form has no such field or button.
        """
        unknown = sorted(set(answers) - self.names)
        if unknown:
            message = f"The form for {self.action} has no field {unknown[0]!r}."
            raise PageError(message)
        sent = {**self.fields, **answers}
        if not button:
            return sent
        for name, value, label in self.buttons:
            if button in (value, label):
                return {**sent, name: value} if name else sent
        message = f"The form for {self.action} has no button {button!r}."
        raise PageError(message)


def read_forms(html: str) -> list[Form]:
    """The forms of a page, in its order."""
    reader = _FormReader()
    reader.feed(html)
    reader.close()
    return reader.forms


class _FormReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._select = ""
        self._button: tuple[str, str] | None = None
        self._label = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._form = Form(action=values.get("action", ""), method=values.get("method", "get").lower())
            self.forms.append(self._form)
        elif self._form is not None:
            self._read_control(self._form, tag, values)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "select":
            self._select = ""
        elif tag == "button" and self._form is not None and self._button is not None:
            self._form.buttons.append((*self._button, " ".join(self._label.split())))
            self._button = None

    def handle_data(self, data: str) -> None:
        if self._button is not None:
            self._label += data

    def _read_control(self, form: Form, tag: str, values: dict[str, str]) -> None:
        name = values.get("name", "")
        match tag:
            case "input":
                self._read_input(form, name, values)
            case "select":
                form.names.add(name)
                self._select = name
            case "option" if self._select:
                if "selected" in values or self._select not in form.fields:
                    form.fields[self._select] = values.get("value", "")
            case "button":
                self._button, self._label = (name, values.get("value", "")), ""

    def _read_input(self, form: Form, name: str, values: dict[str, str]) -> None:
        form.names.add(name)
        kind = values.get("type", "text")
        if kind in _TEXT_LIKE or "checked" in values:
            form.fields[name] = values.get("value", "on" if kind == "checkbox" else "")
