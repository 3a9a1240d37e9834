"""A revision as text, and back: what the database keeps and what two revisions are compared by."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

from pydantic import TypeAdapter, ValidationError

from newsletter.domain.sequence import Revision
from newsletter.errors import DatabaseRefused

# Where the lines of a file stand says nothing to a reader, and a digest that counted it would change with a release.
_ONLY_READ = {"sequences": {"__all__": {"steps": {"__all__": {"head_lines"}}}}}


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[Revision]:
    return TypeAdapter(Revision)


def to_json(revision: Revision) -> str:
    """`revision` as canonical JSON: sorted keys, no spaces, the fields written out.

    All but what only helps while the files are read. Defaults are written too, so that a later release that changes
    one does not change what was published.
    """
    plain = _adapter().dump_python(revision, mode="json", exclude=_ONLY_READ)
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> Revision:
    """The revision that `to_json` wrote as `text`.

    Raises:
        DatabaseRefused: the text is no revision; it was damaged or written by a newer release.
    """
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "its beginning"
        message = (
            f"A stored revision cannot be read (at {where}: {first['msg']}); "
            "publish the content folder again, or run the release that stored it."
        )
        raise DatabaseRefused(message) from error


def digest(revision: Revision) -> str:
    """The SHA-256 of the canonical JSON, in hexadecimal: equal exactly when the revisions are."""
    return hashlib.sha256(to_json(revision).encode()).hexdigest()
