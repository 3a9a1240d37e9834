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
"""A link that reads the same in HTML and in quoted-printable."""
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
    return encoded[: start + cut] + _SOFT_BREAK + last[cut:]


@dataclass(frozen=True)
class Pattern:
    """One part of a letter between its holes.

    Attributes:
        pieces: one more than there are holes.
        encoded: the pieces in quoted-printable, each ready to stand at the beginning of a line.
        holes: names of links.
        has_dots: a line of a piece begins with a dot. To look for that in each letter takes longer than filling it.
    """

    pieces: tuple[str, ...]
    encoded: tuple[bytes, ...]
    holes: tuple[str, ...]
    has_dots: bool

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
        has_dots = any(b"\n." in b"\n" + part for part in encoded)
        return cls(pieces, tuple(encoded), tuple(names[link] for link in found.findall(text)), has_dots)

    def filled(self, values: Mapping[str, str]) -> str:
        """The part with `values` in its holes."""
        return "".join(_woven(self.pieces, [values[hole] for hole in self.holes]))

    def filled_encoded(self, values: Mapping[str, bytes]) -> bytes:
        """The same in quoted-printable; `values` are encoded already."""
        return b"".join(_woven(self.encoded, [values[hole] for hole in self.holes]))


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
        plain = links._asdict()
        if _PLAIN_LINK.fullmatch("".join(links)):
            escaped = encoded = {name: _folded(link) for name, link in plain.items()}
        else:
            encoded = {name: _encoded_link(link) for name, link in plain.items()}
            escaped = {name: _encoded_link(link) for name, link in _escaped(links).items()}
        # A link begins a line, and so does each of its rests where it was folded.
        begun = b"\n".join((b"", *encoded.values(), *(() if escaped is encoded else escaped.values())))
        return Encoded(
            subject=self.subject,
            html=self.html.filled_encoded(escaped),
            text=self.text.filled_encoded(encoded),
            from_name=self.from_name,
            reply_to=self.reply_to,
            has_dots=b"\n." in begun or self.html.has_dots or self.text.has_dots,
        )


def _woven(pieces: tuple[T, ...], fillings: list[T]) -> list[T]:
    """The pieces with a filling between each two."""
    woven: list[T] = [*pieces, *fillings]
    woven[::2] = pieces
    woven[1::2] = fillings
    return woven


def _encoded_link(link: str) -> bytes:
    """A link as it stands between two soft breaks."""
    return _folded(link) if _PLAIN_LINK.fullmatch(link) else _with_room(quoted_printable(link))


def _folded(link: str) -> bytes:
    """The same where there is nothing to encode."""
    if len(link) <= _ROOM:
        return link.encode("ascii")
    return "=\r\n".join([link[at : at + _ROOM] for at in range(0, len(link), _ROOM)]).encode("ascii")


def _escaped(links: Links) -> dict[str, str]:
    """The links as they stand in HTML."""
    return {name: str(escape(link)) for name, link in links._asdict().items()}
