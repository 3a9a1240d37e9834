"""One letter of a sequence: a file of front matter and a body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from newsletter.content.body import check_containers, check_letter_text
from newsletter.content.faults import Faults, Page, shown
from newsletter.content.keys import key_fault
from newsletter.content.text_files import read_text
from newsletter.content.yaml_marks import Fields, compose
from newsletter.domain.sequence import Step

if TYPE_CHECKING:
    from collections.abc import Sequence as Rows
    from pathlib import Path

KNOWN = ("subject", "preheader", "heading", "affirmation", "related", "related_discreet", "after", "formerly")
_AFTER = re.compile(r"([0-9]{1,3}) (day|days|week|weeks)")
_LONGEST_AFTER = timedelta(days=366)


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A step as read, with the lines of whatever other files and steps have to bear out."""

    step: Step
    lines: dict[str, int]


def read_letter(path: Path, *, name: str, number: int, key: str, faults: Faults) -> Letter | None:
    """The letter in one file.

    Args:
        path: the file.
        name: the file below the content folder, for messages.
        number: from the file name.
        key: from the file name.
        faults: where to note what is wrong.

    Returns:
        None when the file is too broken to say anything more about it.
    """
    page = Page(name, faults)
    text = read_text(path, page)
    split = None if text is None else _split(text.split("\n"), page)
    if split is None:
        return None
    front, body, body_line = split
    root = compose(front, page.starting_at(2))
    if not body:
        page.fault("the letter has no text; write it below the second line ---.", line=body_line)
    else:
        check_letter_text(body, page.starting_at(body_line))
        check_containers(body, page.starting_at(body_line))
    if root is None:
        return None
    fields = Fields(root, page.starting_at(2), known=KNOWN, what="the head of a letter")
    step = Step(
        key=key,
        number=number,
        path=name,
        subject=_jinja(fields, "subject", fields.required("subject")),
        preheader=_jinja(fields, "preheader", fields.text("preheader")),
        heading=_jinja(fields, "heading", fields.text("heading")) or None,
        affirmation=_affirmation(fields),
        related=_related(fields, "related") if "related" in fields else ("newest",),
        related_discreet=_related(fields, "related_discreet") if "related_discreet" in fields else None,
        after=_after(fields),
        formerly=_formerly(fields, key),
        body=body,
        body_line=body_line,
        head_lines={name: fields.line_of(name) for name in KNOWN if name in fields},
    )
    return Letter(step=step, lines={name: fields.line_of(name) for name in KNOWN})


def _split(lines: Rows[str], page: Page) -> tuple[str, str, int] | None:
    """Front matter, body and the body's first line; None, and a fault, when a line --- is not in place."""
    if lines[0].rstrip() != "---":
        page.fault("the first line must be ---, then subject: …, then --- again, then the letter.", line=1)
        return None
    close = next((at for at, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if close is None:
        page.fault("the head of the letter is never closed; write --- on a line of its own below it.", line=1)
        return None
    front = "\n".join(lines[1:close])
    if not front.strip():
        page.fault("the head of the letter is empty; write subject: … between the two lines ---.", line=2)
        return None
    start = next((at for at in range(close + 1, len(lines)) if lines[at].strip()), None)
    if start is None:
        return front, "", close + 1
    return front, "\n".join(lines[start:]).rstrip() + "\n", start + 1


def _jinja(fields: Fields, name: str, text: str | None) -> str:
    """A text of the head, whose Jinja is looked at as that of the body is."""
    if text:
        check_letter_text(text, fields.page.starting_at(fields.line_of(name)), head=True)
    return text or ""


def _affirmation(fields: Fields) -> str | None:
    text = fields.text("affirmation")
    return None if text == "none" else text or "next"


def _related(fields: Fields, name: str) -> tuple[str, ...]:
    """Keys of posts, ("newest",), or () for none."""
    keys = fields.texts(name)
    if keys == ("none",):
        return ()
    if len(keys) > 1 and {"newest", "none"} & set(keys):
        fields.fault(name, f"{name}: newest and none stand alone; write {name}: newest, or a list of keys.")
    if len(set(keys)) < len(keys):
        fields.fault(name, f"{name} names a post twice; keep one.")
    return keys


def _after(fields: Fields) -> timedelta | None:
    text = fields.text("after")
    if text is None:
        return None
    found = _AFTER.fullmatch(text)
    if found:
        unit = timedelta(weeks=1) if found[2].startswith("week") else timedelta(days=1)
        length = int(found[1]) * unit
        if timedelta(days=1) <= length <= _LONGEST_AFTER:
            return length
    fields.fault("after", f"after: {shown(text)} is no number of days; write after: 3 days or after: 1 week.")
    return None


def _formerly(fields: Fields, key: str) -> str | None:
    text = fields.text("formerly")
    if text is None:
        return None
    fault = key_fault(text)
    if fault:
        fields.fault("formerly", f"formerly: {fault}")
    elif text == key:
        fields.fault("formerly", "formerly names the letter's present key; remove the line.")
    else:
        return text
    return None
