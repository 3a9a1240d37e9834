"""Reading one text file: its size, encoding and characters, before anything is made of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from newsletter.content.faults import Page

MAX_FILE_BYTES = 1_000_000

UNWANTED = re.compile(r"[^\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Control characters, lone surrogates, byte order marks, and line ends that editors do not show."""


def read_bytes(path: Path, page: Page) -> bytes | None:
    """The bytes of a file; None when it cannot be read, which is then noted as a fault."""
    try:
        if not path.is_file():
            page.fault("this is not a file; put a text file of this name in its place.")
            return None
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        page.fault(f"this file cannot be read ({reason}); give the newsletter's user the right to read it.")
        return None
    if len(content) > MAX_FILE_BYTES:
        page.fault("this file is larger than 1 MB; split it, or move what is no text out of it.")
        return None
    return content


def decode(content: bytes, page: Page) -> str | None:
    """`content` as UTF-8 text; None, and a fault at the right line, when it is not."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        page.fault('this file is saved as UTF-16; save it again as "UTF-8".', line=1)
        return None
    if content.startswith(b"\xef\xbb\xbf"):
        page.fault('this file begins with a byte order mark; save it again as "UTF-8" without "BOM".', line=1)
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        page.fault(
            f'the byte {content[error.start]:#04x} on this line is not UTF-8; save the file as "UTF-8".',
            line=line,
        )
        return None


def read_text(path: Path, page: Page) -> str | None:
    """The text of a file an operator writes, its lines ended by line feeds and free of odd characters.

    Returns:
        None when there is something to mend, which is then noted as one fault.
    """
    content = read_bytes(path, page)
    text = None if content is None else decode(content, page)
    if text is None:
        return None
    if not text.strip():
        page.fault("this file is empty; write it, or delete it.")
        return None
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        page.fault('lines end the Windows way (CRLF); save the file with Unix line ends ("LF").', line=line)
        return None
    found = UNWANTED.search(text)
    if found is None:
        return text
    line = text.count("\n", 0, found.start()) + 1
    if found.group() == "\t":
        page.fault("there is a tab on this line; write spaces instead.", line=line)
    else:
        name = f"U+{ord(found.group()):04X}"
        page.fault(f"there is an invisible character ({name}) on this line; delete it.", line=line)
    return None
