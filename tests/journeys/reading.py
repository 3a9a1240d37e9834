"""What a reader sees: the form on a page, the link in a mail."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser

from tests.support.smtp_server import Received


@dataclass
class Form:
    """A form as a browser would send it: its fields with the values they have at first, and its buttons."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(action=has["action"], method=has["method"]))
        elif self.found:
            self._take(self.found[-1], tag, has)

    def _take(self, form: Form, tag: str, has: dict[str, str]) -> None:
        match tag:
            case "input" if has.get("type") not in {"radio", "checkbox"} or "checked" in has:
                form.fields[has["name"]] = has.get("value", "")
            case "button" if "name" in has:
                form.buttons.append((has["name"], has.get("value", "")))
            case "select":
                self._select = has["name"]
                form.fields.setdefault(self._select, "")
            case "option" if "selected" in has:
                form.fields[self._select] = has.get("value", "")


def forms_in(page: str) -> list[Form]:
    """Every form of a page."""
    parser = _Forms()
    parser.feed(page)
    return parser.found


def read(received: Received) -> EmailMessage:
    """A message as a mail program reads it."""
    return message_from_bytes(received.content, policy=policy.SMTP)


def part(message: EmailMessage, kind: str) -> str:
    """The text of its part `plain` or `html`."""
    body = message.get_body((kind,))
    assert body is not None, f"no {kind} part"
    text = body.get_content()
    assert isinstance(text, str)
    return text


def link(message: EmailMessage, path: str) -> str:
    """The path, below the site's address, of the link in the text part that begins with `path`."""
    found = re.search(rf"https?://[^/\s]+({re.escape(path)}[\w.~=-]+)", part(message, "plain"))
    assert found is not None, f"no link to {path}"
    return found[1]
