"""The faults of one reading of a content folder, collected so that an operator sees all of them at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from newsletter.errors import ContentError, ContentErrors

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_FAULTS = 50
"""More than this on one screen helps nobody."""

_LONGEST_SHOWN = 60
_MOST_NAMED = 12


class Faults:
    """What is wrong with a content folder; empty when nothing is."""

    def __init__(self) -> None:
        self._found: list[ContentError] = []
        self._count = 0
        self._paths: set[str] = set()

    def add(self, message: str, *, path: str, line: int | None = None) -> None:
        """Note a fault of `path`, at `line` where one line is to blame."""
        self._count += 1
        self._paths.add(path)
        # A file name may hold anything but a slash; a message is one line.
        path = path if path.isprintable() else repr(path)[1:-1]
        # A file of a megabyte can hold a hundred thousand faults; twenty screens of them are kept and sorted.
        if len(self._found) < 20 * MAX_FAULTS:
            self._found.append(ContentError(message, path=path, line=line))

    def touch(self, path: str) -> bool:
        """Whether a fault of that file was found."""
        return path in self._paths

    def raise_any(self, folder: str) -> None:
        """Raise what was found, in file order.

        Raises:
            ContentErrors: at least one fault was found.
        """
        if not self._found:
            return
        ordered = sorted(self._found, key=lambda error: (error.path, error.line or 0))
        kept = ordered[:MAX_FAULTS]
        if self._count > MAX_FAULTS:
            more = f"{self._count - MAX_FAULTS} more faults were found; mend these first, then look again."
            kept.append(ContentError(more, path=folder))
        raise ContentErrors(kept)


class Page:
    """One file being read: the path for messages, and where its faults go.

    Attributes:
        path: the file as an operator would type it from within the content folder.
        first_line: the line of the file at which the text being read begins, counted from 1.
    """

    def __init__(self, path: str, faults: Faults, *, first_line: int = 1) -> None:
        self.path = path
        self.faults = faults
        self.first_line = first_line

    def fault(self, message: str, *, line: int | None = None) -> None:
        """Note a fault; `line` counts within the file."""
        self.faults.add(message, path=self.path, line=line)

    def starting_at(self, line: int) -> Page:
        """The same file, read from `line` on."""
        return Page(self.path, self.faults, first_line=line)


def shown(text: str) -> str:
    """`text` in quotation marks for a message: escaped where it must be, and cut where it is long."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…")


def suggestion(word: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown `word`: the nearest known one, or all of them."""
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    names = sorted(known)
    if not names:
        return "there is none yet."
    if len(names) == 1:
        return f"write {names[0]}."
    more = ", …" if len(names) > _MOST_NAMED else ""
    return f"write one of {', '.join(names[:_MOST_NAMED])}{more}."
