"""One letter as all readers of a kind get it, with holes for their own links.

Readers of one step differ in little more than their four links. What is the same is rendered and encoded
once; another reader's letter is then four links put into place, a hundred times quicker than rendering.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from markupsafe import escape

from newsletter.rendering.facts import Encoded, Links, Rendered
from newsletter.rendering.message import LINE_LENGTH, quoted_printable

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

# A name below .invalid belongs to nobody (RFC 2606), so no letter can hold it by chance.
PLACEHOLDERS = Links(
    unsubscribe="https://qzunsubscribeqz.invalid",
    preferences="https://qzpreferencesqz.invalid",
    pause="https://qzpauseqz.invalid",
    too_much="https://qztoomuchqz.invalid",
)
_PLAIN_LINK = re.compile(r"[A-Za-z0-9:/?#._~-]*")
_DOT = ord(".")
_ROOM = LINE_LENGTH - 1
_SOFT_BREAK = b"=\r\n"


def _with_room(encoded: bytes) -> bytes:
    """`encoded` with room in its last line for the "=" of a soft break."""
    start = encoded.rfind(b"\r\n") + 2 if b"\r\n" in encoded else 0
    last = encoded[start:]
    if len(last) < LINE_LENGTH:
        return encoded
    cut = LINE_LENGTH - 4
    cut -= 1 if last[cut - 1 : cut] == b"=" else 2 if last[cut - 2 : cut - 1] == b"=" else 0
    rest = last[cut:]
    return encoded[: start + cut] + _SOFT_BREAK + (b"=2E" + rest[1:] if rest.startswith(b".") else rest)


@dataclass(frozen=True)
class Pattern:
    """One part of a letter between its holes.

    Attributes:
        pieces: one more than there are holes.
        encoded: the pieces in quoted-printable, each ready to stand at the beginning of a line. None of their lines
            begins with a dot.
        holes: names of links.
    """

    pieces: tuple[str, ...]
    encoded: tuple[bytes, ...]
    holes: tuple[str, ...]

    @classmethod
    def of(cls, text: str, links: Mapping[str, str]) -> Pattern:
        """The pattern of a text that was rendered with `links`, each by its name as it stands there."""
        names = {link: name for name, link in links.items()}
        # The longest first: one link may begin like another.
        found = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
        pieces = tuple(found.split(text))
        last = len(pieces) - 1
        encoded = []
        for number, piece in enumerate(pieces):
            part = quoted_printable(piece)
            # A soft break before and behind each link, so that its length moves nothing else.
            if number > 0 and not piece.startswith("\n"):
                part = _SOFT_BREAK + part
            if number < last and piece and not piece.endswith("\n"):
                part = _with_room(part) + _SOFT_BREAK
            encoded.append(part)
        return cls(pieces, tuple(encoded), tuple(names[link] for link in found.findall(text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The part with `values` in its holes."""
        return "".join(woven(self.pieces, [values[hole] for hole in self.holes]))

    def filled_encoded(self, values: Mapping[str, bytes]) -> bytes:
        """The same in quoted-printable; `values` are encoded already."""
        return b"".join(woven(self.encoded, [values[hole] for hole in self.holes]))


@dataclass(frozen=True)
class Plate:
    """A letter with holes for the links of one reader."""

    subject: str
    from_name: str
    reply_to: str | None
    html: Pattern
    text: Pattern

    @classmethod
    def of(cls, rendered: Rendered, links: Links = PLACEHOLDERS) -> Plate:
        """The plate of a letter that was rendered with `links`."""
        return cls(
            rendered.subject,
            rendered.from_name,
            rendered.reply_to,
            Pattern.of(rendered.html, _escaped(links)),
            Pattern.of(rendered.text, links._asdict()),
        )

    def printed(self, links: Links) -> Rendered:
        """The letter of the reader who has these links."""
        return Rendered(
            subject=self.subject,
            html=self.html.filled(_escaped(links)),
            text=self.text.filled(links._asdict()),
            from_name=self.from_name,
            reply_to=self.reply_to,
        )

    def encoded(self, links: Links) -> Encoded:
        """The same, as it travels."""
        encoded = {name: _encoded_link(link) for name, link in links._asdict().items()}
        escaped = {name: _encoded_link(link) for name, link in _escaped(links).items()}
        return Encoded(
            subject=self.subject,
            html=self.html.filled_encoded(escaped),
            text=self.text.filled_encoded(encoded),
            from_name=self.from_name,
            reply_to=self.reply_to,
        )


def woven(pieces: tuple[T, ...], fillings: list[T]) -> list[T]:
    """The pieces with a filling between each two."""
    made: list[T] = [*pieces, *fillings]
    made[::2] = pieces
    made[1::2] = fillings
    return made


def is_plain(link: str) -> bool:
    """Whether a link reads the same in HTML and in quoted-printable, wherever it is folded."""
    return _PLAIN_LINK.fullmatch(link) is not None and not link.startswith(".") and ".." not in link


def folded(link: bytes) -> bytes:
    """A plain link as it stands between two soft breaks; no line of it begins with a dot."""
    if len(link) <= _ROOM:
        return link
    lines, at = [], 0
    while len(link) - at > _ROOM:
        end = at + _ROOM
        if link[end] == _DOT:
            end -= 1
        lines.append(link[at:end])
        at = end
    lines.append(link[at:])
    return _SOFT_BREAK.join(lines)


def _encoded_link(link: str) -> bytes:
    """A link as it stands between two soft breaks."""
    return folded(link.encode("ascii")) if is_plain(link) else _with_room(quoted_printable(link))


def _escaped(links: Links) -> dict[str, str]:
    """The links as they stand in HTML."""
    return {name: str(escape(link)) for name, link in links._asdict().items()}
