"""Every error the program raises on purpose, as one small tree.

NewsletterError                 something was refused or failed; the text is one clear line for a person
├── SettingsError               the settings cannot work
├── ContentError                a content file is wrong (path, line, what to write instead)
│   └── ContentErrors           all the faults of one reading
├── PublishRefused              content is sound, but publishing it would break a promise
├── AddressError                not an e-mail address we can write to
├── InvalidChoice               a form field or option that cannot be
├── NotFound                    a subscriber, sequence or delivery that is not there
├── NotAllowed                  the state of things does not permit it
├── TokenError                  a link that is not ours
│   ├── TokenForged             malformed, foreign or tampered with
│   └── TokenExpired            ours, and too old
├── RenderError                 a letter cannot be rendered
├── DatabaseRefused             the database is newer, older, missing or read-only
├── DatabaseUnavailable         the database is locked, full, gone or unreachable for now
│   └── DatabaseDamaged         a refused one, too: it was sound, or taken for it, until something was read
└── RelayUnavailable            no conversation with the mail server could begin
"""

from __future__ import annotations

from collections.abc import Sequence


class NewsletterError(Exception):
    """Something was refused or failed. `str()` is one clear line that says what to do."""


class SettingsError(NewsletterError):
    """The settings cannot work; the text names every fault at once, a line each."""


class ContentError(NewsletterError):
    """One fault in one content file.

    Attributes:
        path: the file, relative to the content folder.
        line: the line, counted from 1, or None where the whole file is meant.
        message: what is wrong and what to write instead.
    """

    def __init__(self, message: str, *, path: str, line: int | None = None) -> None:
        self.message = message
        self.path = path
        self.line = line
        where = path if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {message}")


class ContentErrors(NewsletterError):
    """All the faults found in one reading of a content folder, in file order."""

    def __init__(self, errors: Sequence[ContentError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class PublishRefused(NewsletterError):
    """Publishing would break a promise; the text says which and how to say that it is meant."""


class AddressError(NewsletterError):
    """Not an e-mail address we can write to; the text is for the person who typed it."""


class InvalidChoice(NewsletterError):
    """A form field or option that cannot be.

    Attributes:
        field: the name of the field, as on the form.
        message: what is wrong and what to choose, for the person.
    """

    def __init__(self, message: str, *, field: str) -> None:
        self.field = field
        self.message = message
        super().__init__(message)


class NotFound(NewsletterError):
    """A subscriber, sequence or delivery that is not there."""


class NotAllowed(NewsletterError):
    """The state of things does not permit it."""


class TokenError(NewsletterError):
    """A link that does not open what it was used for."""


class TokenForged(TokenError):
    """Malformed, tampered with, or made for another purpose."""


class TokenExpired(TokenError):
    """Ours, and too old or already used."""


class RenderError(NewsletterError):
    """A letter cannot be rendered; the reader waits and the operator is told."""


class DatabaseRefused(NewsletterError):
    """The database is newer, older, missing, read-only or damaged; the text says what to do."""


class DatabaseUnavailable(NewsletterError):
    """The database is locked, full, gone or unreachable for now; what was under way was rolled back."""


class DatabaseDamaged(DatabaseRefused, DatabaseUnavailable):
    """The database is damaged, which does not pass: whoever sends ends; the text says how to restore it."""


class RelayUnavailable(NewsletterError):
    """No conversation with the mail server could begin: nothing was handed over, nobody is to blame.

    Attributes:
        reply_code: the server's code, or None where it never spoke.
        reply_text: the server's words or the operating system's.
        lasts: it does not mend itself: the settings, or what they name, must be changed.
    """

    def __init__(
        self, message: str, *, reply_code: int | None = None, reply_text: str = "", lasts: bool = False
    ) -> None:
        self.reply_code = reply_code
        self.reply_text = reply_text
        self.lasts = lasts
        super().__init__(message)
