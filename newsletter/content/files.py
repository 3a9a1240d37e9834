"""Reading the content folder: all of it, or every fault in it with file, line and what to write instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from newsletter.content.body import parse_template
from newsletter.content.faults import Faults, Page, suggestion
from newsletter.content.keys import as_key
from newsletter.content.library import AFFIRMATIONS_FILE, HELP_FILE, POSTS_FILE, read_library
from newsletter.content.references import check_references
from newsletter.content.series import Series, is_ignored, read_series
from newsletter.content.text_files import UNWANTED, decode, read_bytes
from newsletter.domain.sequence import Revision

MAX_FILES = 5_000
SEQUENCES_FOLDER = "sequences"
_KNOWN_FILES = (AFFIRMATIONS_FILE, POSTS_FILE, HELP_FILE, "hard-days.yaml")


def read_content(folder: Path, *, templates: Path | None = None) -> Revision:
    """The content folder as one value. Nothing in it is run.

    Args:
        folder: the content folder.
        templates: the folder of overridden templates, where the operator has one.

    Returns:
        The revision; `identity` of its steps is left empty, since only publishing can tell it.

    Raises:
        ContentErrors: all that is wrong, at most 50 faults; paths are relative to `folder`.
    """
    faults = Faults()
    try:
        revision = _read(folder, templates, faults)
    except OSError as error:
        message = f"this cannot be read ({error.strerror}); give the newsletter's user the right to."
        faults.add(message, path=str(error.filename or folder))
        revision = Revision()
    faults.raise_any(folder.name)
    return revision


def _read(folder: Path, templates: Path | None, faults: Faults) -> Revision:
    """What is right in the two folders; what is not is noted."""
    if not folder.is_dir():
        faults.add("there is no such folder; create it, or set NEWSLETTER_CONTENT_DIR.", path=str(folder))
        return Revision()
    if not _is_small(folder, faults):
        return Revision()
    series, keys = _read_sequences(folder, faults)
    _check_strays(folder, faults)
    library = read_library(folder, faults)
    check_references(series, library, keys, faults)
    return Revision(
        sequences=tuple(one.sequence for one in series),
        affirmations=library.affirmations,
        related_posts=library.related_posts,
        help_lines=library.help_lines,
        templates={} if templates is None else _read_templates(templates, faults),
    )


def _is_small(folder: Path, faults: Faults) -> bool:
    """Whether a folder holds no more files than a newsletter can have; more are noted, and not read."""
    count = 0
    for _, _, files in os.walk(folder, onerror=_raise):
        count += len(files)
        if count > MAX_FILES:
            message = f"there are more than {MAX_FILES} files here; is this the right folder?"
            faults.add(message, path=folder.name)
            return False
    return True


def _raise(error: OSError) -> NoReturn:
    raise error


def _read_sequences(folder: Path, faults: Faults) -> tuple[list[Series], list[str]]:
    """The sequences in the order of their keys, and the keys of all, readable or not."""
    home = folder / SEQUENCES_FOLDER
    entries = sorted(home.iterdir()) if home.is_dir() else []
    entries = [entry for entry in entries if not is_ignored(entry.name)]
    keys = [entry.name for entry in entries if entry.is_dir()]
    if not keys:
        message = "there is no sequence here; create a folder such as weekly-note with a sequence.yaml."
        faults.add(message, path=SEQUENCES_FOLDER)
    for entry in entries:
        if not entry.is_dir() and entry.suffix in (".md", ".yaml", ".yml"):
            name = f"{SEQUENCES_FOLDER}/{entry.name}"
            wanted = f"{SEQUENCES_FOLDER}/{as_key(entry.stem) or 'my-series'}"
            faults.add(f"this file is in no sequence; move it into a folder such as {wanted}.", path=name)
    read = (read_series(home / key, name=f"{SEQUENCES_FOLDER}/{key}", faults=faults) for key in keys)
    return [one for one in read if one is not None], keys


def _check_strays(folder: Path, faults: Faults) -> None:
    """Note a YAML file that nothing reads: most likely its name is misspelt."""
    for entry in sorted(folder.iterdir()):
        if is_ignored(entry.name) or entry.name in _KNOWN_FILES or entry.is_dir():
            continue
        if entry.suffix in (".yaml", ".yml", ".md"):
            near = suggestion(f"{entry.stem}.yaml", _KNOWN_FILES)
            message = f"nothing reads a file of this name; {near} A name that begins with _ is left alone."
            faults.add(message, path=entry.name)


def _read_templates(folder: Path, faults: Faults) -> dict[str, str]:
    """The overridden templates by their path below `folder`, their Jinja looked at and not run."""
    if not folder.is_dir():
        faults.add("there is no such folder; create it, or unset NEWSLETTER_TEMPLATES_DIR.", path=str(folder))
        return {}
    if not _is_small(folder, faults):
        return {}
    found: dict[str, str] = {}
    paths = (Path(top) / file for top, _, files in os.walk(folder) for file in files)
    for path in sorted(path for path in paths if not is_ignored(path.name)):
        name = path.relative_to(folder).as_posix()
        page = Page(f"{folder.name}/{name}", faults)
        if UNWANTED.search(name):
            page.fault("the name of this file holds an invisible character; rename it.")
            continue
        content = read_bytes(path, page)
        text = None if content is None else decode(content, page)
        # What lies in static/ is served as it stands; braces mean something else in CSS.
        if text is not None and (name.startswith("static/") or parse_template(text, page) is not None):
            found[name] = text
    return found
