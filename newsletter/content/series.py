"""One folder of `sequences/`: what the series is, and its letters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from yaml.nodes import MappingNode

from newsletter.content.faults import Faults, Page, shown
from newsletter.content.keys import as_key, key_fault
from newsletter.content.letters import Letter, read_letter
from newsletter.content.text_files import read_text
from newsletter.content.yaml_marks import Fields, compose
from newsletter.domain.addresses import parse_address
from newsletter.domain.sequence import Author, Finish, OnFinish, Reviewed, Sequence, Start
from newsletter.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows
    from pathlib import Path

KNOWN = (
    "title", "description", "expect", "author", "cadence", "start", "sensitive", "public", "on_finish",
    "continue_with", "reviewed",
)  # fmt: skip
SETTINGS_FILE = "sequence.yaml"
_LETTER_FILE = re.compile(r"([0-9]{1,6})-(.+)\.md")
_LOOKS_LIKE_A_LETTER = (".md", ".markdown", ".mdown", ".txt", ".html")


class _Cadence(StrEnum):
    """How often a letter comes; pace and slot are the reader's."""

    WEEKLY = "weekly"


@dataclass(frozen=True, kw_only=True)
class Series:
    """A sequence as read, with the lines of what other files have to bear out.

    Attributes:
        settings_path: its `sequence.yaml`, below the content folder.
        next_line: the line that names the sequence to continue with.
    """

    sequence: Sequence
    letters: tuple[Letter, ...]
    settings_path: str
    next_line: int


def is_ignored(name: str) -> bool:
    """Whether a file or folder of this name is no content: hidden, a draft, a backup or a README."""
    return name.startswith((".", "_")) or name.endswith("~") or name == "README.md"


def read_series(folder: Path, *, name: str, faults: Faults) -> Series | None:
    """The sequence in one folder.

    Args:
        folder: the folder.
        name: the folder below the content folder, for messages.
        faults: where to note what is wrong.

    Returns:
        None when its settings are too broken to say anything more about it.
    """
    key = folder.name
    fault = key_fault(key)
    if fault:
        faults.add(f"the name of the folder: {fault}", path=name)
    letters = _read_letters(folder, name=name, faults=faults)
    page = Page(f"{name}/{SETTINGS_FILE}", faults)
    settings = folder / SETTINGS_FILE
    if not settings.exists():
        page.fault("this file is missing; create it with at least the line title: …")
        return None
    text = read_text(settings, page)
    root = None if text is None else compose(text, page)
    if root is None:
        return None
    fields = Fields(root, page, known=KNOWN, what=SETTINGS_FILE)
    fields.choice("cadence", _Cadence)
    sequence = Sequence(
        key=key,
        title=fields.text("title") or key.replace("-", " ").capitalize(),
        steps=tuple(letter.step for letter in letters),
        description=fields.text("description", one_line=False) or "",
        expect=fields.text("expect", one_line=False) or "",
        author=_author(fields),
        start=fields.choice("start", Start) or Start.ASK,
        on_finish=_on_finish(fields),
        sensitive=fields.flag("sensitive"),
        public=fields.flag("public"),
        reviewed=_reviewed(fields),
    )
    line = fields.line_of("continue_with" if "continue_with" in fields else "on_finish")
    return Series(sequence=sequence, letters=letters, settings_path=page.path, next_line=line)


def _read_letters(folder: Path, *, name: str, faults: Faults) -> tuple[Letter, ...]:
    """The letters of a folder by number; two of one number or one key are a fault of the second."""
    letters: list[Letter] = []
    names: dict[int | str, str] = {}
    files = sorted(entry.name for entry in folder.iterdir() if not is_ignored(entry.name))
    for file in files:
        found = _LETTER_FILE.fullmatch(file)
        path = f"{name}/{file}"
        if found is None:
            _check_stray(file, path=path, taken=files, faults=faults)
            continue
        number, key = int(found[1]), found[2]
        fault = key_fault(key)
        if fault:
            faults.add(f"the name after the number: {fault}", path=path)
            continue
        for mark, what in ((number, f"the number {number}"), (key, f"the key {key}")):
            if mark in names:
                faults.add(f"{what} belongs to {names[mark]} already; rename one of the two.", path=path, line=1)
            names.setdefault(mark, file)
        letter = read_letter(folder / file, name=path, number=number, key=key, faults=faults)
        if letter is not None:
            letters.append(letter)
    if not any(_LETTER_FILE.fullmatch(file) for file in files):
        # In the file that is open in the author's editor, where there is one.
        path, line = (f"{name}/{SETTINGS_FILE}", 1) if SETTINGS_FILE in files else (name, None)
        faults.add("there is no letter in this folder; add a file such as 01-welcome.md.", path=path, line=line)
    return tuple(sorted(letters, key=lambda letter: letter.step.number))


def _check_stray(file: str, *, path: str, taken: Rows[str], faults: Faults) -> None:
    """Note a file that may have been meant for a letter or for the settings."""
    stem, dot, ending = file.rpartition(".")
    if (dot + ending).lower() in (".yaml", ".yml"):
        if file != SETTINGS_FILE:
            message = f"this file is not known; call it {SETTINGS_FILE}, or begin its name with _."
            faults.add(message, path=path)
        return
    if (dot + ending).lower() not in _LOOKS_LIKE_A_LETTER:
        return
    digits = re.match(r"[0-9]{1,6}", stem)
    numbers = [int(found[1]) for found in map(_LETTER_FILE.fullmatch, taken) if found]
    number = int(digits[0]) if digits else max(numbers, default=0) + 1
    example = f"{number:02d}-{as_key(stem[len(digits[0]) :] if digits else stem) or 'welcome'}.md"
    faults.add(f"a letter is named number-key.md; call it {example}, or begin its name with _.", path=path)


def _author(fields: Fields) -> Author | None:
    node = fields.node("author")
    if not isinstance(node, MappingNode):
        name = fields.text("author")
        return Author(name=name) if name else None
    inner = Fields(node, fields.page, known=("name", "email"), what="author")
    email = inner.text("email")
    if email:
        try:
            parse_address(email)
        except AddressError as error:
            inner.fault("email", f"email: {shown(email)} cannot be answered. {error}")
    return Author(name=inner.required("name"), email=email)


def _reviewed(fields: Fields) -> Reviewed | None:
    node = fields.node("reviewed")
    if node is None:
        return None
    if not isinstance(node, MappingNode):
        fields.fault("reviewed", "reviewed needs both; write reviewed: {by: Name, on: 2026-11-23}")
        return None
    inner = Fields(node, fields.page, known=("by", "on"), what="reviewed")
    by = inner.required("by")
    if "on" not in inner:
        inner.fault("on", "on is missing; add the day of the review, as in on: 2026-11-23")
    day = inner.day("on")
    return Reviewed(by=by, on=day) if by and day else None


def _on_finish(fields: Fields) -> OnFinish:
    """What happens after the last letter, in whichever of the four ways it was written."""
    node = fields.node("on_finish")
    target = fields.text("continue_with")
    if isinstance(node, MappingNode):
        inner = Fields(node, fields.page, known=("continue_with",), what="on_finish")
        return _continue(fields, inner.required("continue_with"), also=target)
    typed = fields.text("on_finish")
    if typed and typed.startswith("continue_with:"):
        return _continue(fields, typed.partition(":")[2].strip(), also=target)
    if typed == Finish.CONTINUE_WITH:
        if "continue_with" not in fields:
            fields.fault("on_finish", "on_finish names no sequence; write on_finish: {continue_with: KEY}")
        return _continue(fields, target or "", also=None)
    if "continue_with" in fields:
        fields.fault("continue_with", "continue_with needs the line on_finish: continue_with; add it.")
    return OnFinish(finish=fields.choice("on_finish", Finish) or Finish.STOP)


def _continue(fields: Fields, target: str, *, also: str | None) -> OnFinish:
    if also is not None and also != target:
        fields.fault("continue_with", "the sequence to continue with is named twice; remove this line.")
    return OnFinish(finish=Finish.CONTINUE_WITH, continue_with=target) if target else OnFinish()
