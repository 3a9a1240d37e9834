"""Keys: what sequences, steps, affirmations and posts are known by."""

from __future__ import annotations

import re

from newsletter.content.faults import shown

MAX_KEY_LENGTH = 60
_KEY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_RESERVED = frozenset({"all", "newest", "next", "none"})


def as_key(text: str) -> str:
    """The key nearest to `text`, for a suggestion; empty when nothing of it can stay."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return "-".join(words)[:MAX_KEY_LENGTH].rstrip("-")


def key_fault(text: str) -> str | None:
    """What is wrong with `text` as a key and what to write instead, or None when it is one."""
    if text in _RESERVED:
        return f"{shown(text)} has a meaning of its own; choose another key."
    if _KEY.fullmatch(text) and len(text) <= MAX_KEY_LENGTH:
        return None
    example = as_key(text) or "my-key"
    return (
        f"{shown(text)} cannot be a key (small letters, digits, single dashes, at most {MAX_KEY_LENGTH}); "
        f"write {example}."
    )
