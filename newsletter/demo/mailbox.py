"""The mails that arrived: the demo's maildir, read as a mail program would."""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ONE_CLICK = "List-Unsubscribe=One-Click"
_ADDRESS = re.compile(r"<(https?://[^<>\s]+)>")
_POSITION = re.compile(r"\bLetter (\d+) of (\d+)\b")


@dataclass(frozen=True, kw_only=True)
class Mail:
    """One mail as it was handed over. `number` counts from 1 in the order of arrival; `at` is its Date."""

    number: int
    path: Path
    sender: str
    to: str
    subject: str
    at: datetime
    message_id: str

    def source(self) -> bytes:
        """Every byte of it."""
        return self.path.read_bytes()

    def message(self) -> EmailMessage:
        """The mail, parsed."""
        return _parse(self.source())

    def html(self) -> str:
        """The HTML part, or nothing."""
        return _part(self.message(), "html")

    def text(self) -> str:
        """The text part, or nothing."""
        return _part(self.message(), "plain")

    def headers(self) -> list[tuple[str, str]]:
        """Every header in its order, as a person reads it."""
        return [(name, " ".join(str(value).split())) for name, value in self.message().items()]

    def position(self) -> tuple[int, int] | None:
        """The n and m of "Letter n of m"; None where it says no such thing."""
        found = _POSITION.search(self.text())
        return (int(found[1]), int(found[2])) if found else None

    def link(self, path: str) -> str | None:
        """The first link in the text part whose path begins with `path`, such as "/confirm/"."""
        found = re.search(rf"https?://[^\s/]+{re.escape(path)}[^\s#]*", self.text())
        return found[0] if found else None

    def unsubscribe_link(self) -> str | None:
        """Where one POST leaves, as the headers say; None where they do not offer it. Source: RFC 8058."""
        message = self.message()
        found = _ADDRESS.search(str(message.get("List-Unsubscribe", "")))
        offers = str(message.get("List-Unsubscribe-Post", "")).strip() == _ONE_CLICK
        return found[1] if found and offers else None


class Mailbox:
    """All that arrived in a maildir, whoever it is for.

    Args:
        folder: the maildir; it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._known: set[str] = set()
        self._mails: list[Mail] = []

    def mails(self) -> tuple[Mail, ...]:
        """Every mail so far, the oldest first. Any thread may ask."""
        with self._lock:
            new = self._folder / "new"
            names = sorted(path.name for path in new.iterdir()) if new.is_dir() else []
            for name in names:
                if name not in self._known:
                    self._known.add(name)
                    self._mails.append(_read(new / name, number=len(self._mails) + 1))
            return tuple(self._mails)

    def mail(self, number: int) -> Mail | None:
        """The mail of that number, or None."""
        mails = self.mails()
        return mails[number - 1] if 1 <= number <= len(mails) else None


def _read(path: Path, *, number: int) -> Mail:
    message = _parse(path.read_bytes())
    return Mail(
        number=number,
        path=path,
        sender=str(message["From"]),
        to=str(message["To"]),
        subject=str(message["Subject"]),
        at=parsedate_to_datetime(str(message["Date"])).astimezone(UTC),
        message_id=str(message["Message-ID"]),
    )


def _parse(source: bytes) -> EmailMessage:
    return email.message_from_bytes(source, _class=EmailMessage, policy=SMTP)


def _part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    return str(body.get_content()).replace("\r\n", "\n") if body is not None else ""
