"""One whole message as all readers of a kind get it, with holes for what is one reader's own.

`message.compose` writes a message; a form is what it writes, cut where readers differ. Filled for a reader it is the
same message, byte for byte, in a tenth of the time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from newsletter.rendering.facts import Encoded
from newsletter.rendering.message import own_headers, parts
from newsletter.rendering.plates import woven

if TYPE_CHECKING:
    from collections.abc import Mapping

    from newsletter.rendering.message import MessageHeaders
    from newsletter.rendering.plates import Pattern, Plate

_MARK = "\0"  # stands in no quoted-printable text
_MARKED = re.compile(rb"\0([a-z_]+)\0")
_TO = "qztoqz@qz.invalid"
_MESSAGE_ID = "<qzidqz@qz.invalid>"
_URL = "https://qzurlqz.invalid"
_HEADER_HOLES = {_TO: "to", _MESSAGE_ID: "message_id", _URL: "unsubscribe_url"}
_HEADER_HOLE = re.compile("|".join(map(re.escape, _HEADER_HOLES)).encode())


class Form:
    """The message of a plate from its `To` header on; what stands above that changes with the second.

    Args:
        headers: those of any reader.
    """

    def __init__(self, plate: Plate, headers: MessageHeaders) -> None:
        top = own_headers(headers._replace(to=_TO, message_id=_MESSAGE_ID, unsubscribe_url=_URL))
        below = parts(
            Encoded(
                subject=plate.subject, html=_marked(plate.html), text=_marked(plate.text),
                from_name=plate.from_name, reply_to=plate.reply_to,
            )
        )  # fmt: skip
        *pieces, last = _HEADER_HOLE.split(top)
        first, *others = _MARKED.split(below)
        self._pieces = (*pieces, last + first, *others[1::2])
        self._holes = [_HEADER_HOLES[found.decode()] for found in _HEADER_HOLE.findall(top)]
        self._holes += [name.decode() for name in others[::2]]

    def filled(self, head: bytes, own: Mapping[str, bytes]) -> bytes:
        """The message of one reader.

        Args:
            head: see `message.shared_headers`.
            own: what goes into the holes: `to`, `message_id`, `unsubscribe_url` as they stand in a header, and each
                link by its name, as it stands between two soft breaks (`plates.folded`).
        """
        made = woven(self._pieces, [own[hole] for hole in self._holes])
        made[0] = head + made[0]
        return b"".join(made)


def _marked(pattern: Pattern) -> bytes:
    return pattern.filled_encoded({name: f"{_MARK}{name}{_MARK}".encode() for name in pattern.holes})
