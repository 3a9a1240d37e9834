"""The bytes of one email: headers, a text part and an HTML part.

The headers are written here and not by `email.message.EmailMessage`. The standard library folds what it takes
for too long a word into encoded words, inside addresses and URLs as well: a List-Unsubscribe of 200
characters comes out as `=?utf-8?q?=3Chttps=3A...?=`, which no mailbox provider reads. It also takes
twenty times as long. What is written here is parsed back by the standard library in the tests.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import unicodedata
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from newsletter.errors import RenderError
from newsletter.rendering.facts import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from newsletter.rendering.facts import Rendered
    from newsletter.rendering.plates import Plate

LINE_LENGTH = 76  # RFC 2045, section 6.7 (5), and RFC 2047, section 2
HARD_LINE_LENGTH = 998  # RFC 5322, section 2.1.1
ENCODED_WORD_LENGTH = 75  # RFC 2047, section 2
PLAIN_NAME_LENGTH = 60

PLAIN_ADDRESS = re.compile(r"[^\s\x00-\x20\x7f-\U0010ffff<>()\[\],;:\\\"@]+@[A-Za-z0-9.-]+")
_ADDRESS = re.compile(r"[^\s\x00-\x20\x7f-\x9f<>()\[\],;:\\\"@]+@[^\s\x00-\x20\x7f-\x9f<>()\[\],;:\\\"@]+")
_MESSAGE_ID = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>")
_URL = re.compile(r"https?://[!#-;=?-~]+")
_MAILTO = re.compile(r"mailto:[!#-;=?-~]+")
_OPAQUE = re.compile(r"[A-Za-z0-9._:@-]+")
_ATOMS = re.compile(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*")
_LONG_SPACE = re.compile(rb"^(.{74,75})(=20|=09)$", re.MULTILINE)
_FIRST_DOT = re.compile(rb"^\.(.*)$", re.MULTILINE)
_SPACE = 0x20
_SAFE_IN_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")


class MessageHeaders(NamedTuple):
    """Everything above the body but the subject.

    Attributes:
        to: the one recipient, without a name.
        date: aware; written with its own offset.
        message_id: with its angle brackets, see `message_id_for`.
        list_id: without brackets, opaque; None for anything that is no letter.
        unsubscribe_url: answers a one-click POST; None for anything that is no letter.
        unsubscribe_mailto: `mailto:` address for programs that know no other way; comes second.
        feedback_id: opaque, the same for many readers.
    """

    from_name: str
    from_address: str
    to: str
    reply_to: str | None
    date: datetime
    message_id: str
    list_id: str | None = None
    unsubscribe_url: str | None = None
    unsubscribe_mailto: str | None = None
    feedback_id: str | None = None


def message_id_for(delivery_id: UUID, domain: str) -> str:
    """The Message-ID of a delivery: the same for each of its attempts, and telling nothing about it."""
    return f"<{hashlib.sha256(delivery_id.bytes).hexdigest()[:32]}@{domain}>"


def encode(rendered: Rendered) -> Encoded:
    """A letter with its parts in quoted-printable.

    Raises:
        RenderError: a part holds half a surrogate pair.
    """
    return Encoded(
        subject=rendered.subject,
        html=quoted_printable(rendered.html),
        text=quoted_printable(rendered.text),
        from_name=rendered.from_name,
        reply_to=rendered.reply_to,
    )


def compose(letter: Encoded, headers: MessageHeaders, *, smtputf8: bool = False) -> bytes:
    """The complete message, with CRLF line ends, in 7-bit ASCII (UTF-8 in the To header with `smtputf8`).

    The same arguments give the same bytes, so that a repeat is indistinguishable from the first.

    Raises:
        RenderError: a header would hold a line break, a control character, or something that it cannot say.
    """
    return b"".join((shared_headers(letter, headers), own_headers(headers, smtputf8=smtputf8), parts(letter)))


def shared_headers(letter: Encoded | Plate, headers: MessageHeaders) -> bytes:
    """The headers above `To`: what all letters of a kind and a moment have in common. Written once for all of them.

    Raises:
        RenderError: as `compose` does.
    """
    return _shared_headers(
        letter.subject, headers.from_name, headers.from_address, headers.reply_to, headers.date,
        headers.date.utcoffset(), headers.list_id, headers.feedback_id,
    )  # fmt: skip


def own_headers(headers: MessageHeaders, *, smtputf8: bool = False) -> bytes:
    """The headers from `To` on: what is one reader's own, and nothing behind them.

    Raises:
        RenderError: as `compose` does.
    """
    lines = [
        f"To: {_recipient(headers.to, smtputf8=smtputf8)}",
        f"Message-ID: {_checked('Message-ID', headers.message_id, _MESSAGE_ID)}",
    ]
    if headers.unsubscribe_url is not None:
        ways = [f"<{_checked('List-Unsubscribe', headers.unsubscribe_url, _URL)}>"]
        if headers.unsubscribe_mailto is not None:
            ways.append(f"<{_checked('List-Unsubscribe', headers.unsubscribe_mailto, _MAILTO)}>")
        lines.append("List-Unsubscribe: " + ",\r\n ".join(ways))
        lines.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    lines.append(f'Content-Type: multipart/alternative; boundary="{_BOUNDARY}"')
    return _bounded(lines).encode("utf-8" if smtputf8 else "ascii")


def parts(letter: Encoded) -> bytes:
    """All that follows the last header."""
    limit = _BOUNDARY.encode()
    return b"".join(
        (
            *(b"\r\n\r\n--", limit, b"\r\n", _PART_TEXT, b"\r\n\r\n", letter.text),
            *(b"\r\n--", limit, b"\r\n", _PART_HTML, b"\r\n\r\n", letter.html),
            *(b"\r\n--", limit, b"--\r\n"),
        )
    )


# "=_" can stand in no quoted-printable line, so that this can never be part of a body.
_BOUNDARY = "=_one-letter-in-two-forms"
_PART_TEXT = b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable'
_PART_HTML = b'Content-Type: text/html; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable'


def quoted_printable(text: str) -> bytes:
    """`text` in quoted-printable, lines of at most 76 characters, CRLF line ends.

    Raises:
        RenderError: the text holds half a surrogate pair.
    """
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        encoded = binascii.b2a_qp(unified.encode("utf-8"), istext=True)
    except UnicodeEncodeError as error:
        message = f"The letter holds {error.object[error.start]!r}, which is no character."
        raise RenderError(message) from error
    # b2a_qp forgets the limit when it encodes a space at the end of a line: up to 78 characters come out.
    encoded = _LONG_SPACE.sub(rb"\1=\n\2", encoded)
    # A dot at the beginning of a line means something to SMTP. Encoded it has to be doubled by nobody on the way
    # (RFC 2049, section 3), and what is sent is what was signed.
    while encoded.startswith(b".") or b"\n." in encoded:
        encoded = _FIRST_DOT.sub(_without_first_dot, encoded)
    # Only now: b2a_qp takes its own line ends from the text's first one, and a text of one line has none.
    return encoded.replace(b"\n", b"\r\n")


def _without_first_dot(line: re.Match[bytes]) -> bytes:
    rest = line[1]
    return b"=2E" + (b"=\n" if len(rest) > LINE_LENGTH - len("=2E") else b"") + rest


@lru_cache(maxsize=256)
def _shared_headers(
    subject: str,
    from_name: str,
    from_address: str,
    reply_to: str | None,
    date: datetime,
    offset: timedelta | None,
    list_id: str | None,
    feedback_id: str | None,
) -> bytes:
    """Written once. `offset` is that of `date`: the same instant in another zone is equal, and written otherwise."""
    lines = [_mailbox("From", from_name, _checked("From", from_address, PLAIN_ADDRESS))]
    if reply_to is not None:
        lines.append(f"Reply-To: {_checked('Reply-To', reply_to, PLAIN_ADDRESS)}")
    lines.append(_unstructured("Subject", subject))
    if offset is None:
        message = "The Date of a message needs an offset from UTC."
        raise RenderError(message)
    lines.append(f"Date: {format_datetime(date)}")
    if list_id is not None:
        lines.append(f"List-Id: <{_checked('List-Id', list_id.strip('<>'), _OPAQUE)}>")
    if feedback_id is not None:
        lines.append(f"Feedback-ID: {_checked('Feedback-ID', feedback_id, _OPAQUE)}")
    # RFC 3834: nobody's out-of-office answers a letter. Old servers know Precedence only.
    lines.append("Auto-Submitted: auto-generated")
    if list_id is not None:
        lines.append("Precedence: bulk")
    lines.append("MIME-Version: 1.0")
    return f"{_bounded(lines)}\r\n".encode("ascii")


def _bounded(lines: Sequence[str]) -> str:
    for line in lines:
        # Most are short, whatever they hold, and what is folded may be long in all.
        if len(line) * 4 > HARD_LINE_LENGTH and any(
            len(one.encode("utf-8")) > HARD_LINE_LENGTH for one in line.split("\r\n")
        ):
            message = f"The {line.split(':')[0]} header is too long for an email; shorten it."
            raise RenderError(message)
    return "\r\n".join(lines)


def _checked(name: str, value: str, pattern: re.Pattern[str]) -> str:
    if pattern.fullmatch(value) is None:
        # A header may hold an address or a token, and an error may end in a log: the value stays out of it.
        message = f"The {name} header cannot say what it was given; look at the settings it comes from."
        raise RenderError(message)
    return value


def _recipient(address: str, *, smtputf8: bool) -> str:
    if smtputf8:
        return _checked("To", address, _ADDRESS)
    if not address.isascii():
        message = "The address holds letters that only a mail server with SMTPUTF8 can take."
        raise RenderError(message)
    return _checked("To", address, PLAIN_ADDRESS)


def _spoken(name: str, value: str) -> str:
    """`value` without space at its ends; refused where it holds what no header may hold."""
    for character in value:
        # Cc are controls (line breaks among them), Cs halves of surrogate pairs, Zl and Zp other line breaks.
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
            message = f"The {name} header holds {character!r}; take the line break or control character out."
            raise RenderError(message)
    return value.strip()


def _unstructured(name: str, value: str) -> str:
    text = _spoken(name, value)
    if text.isascii() and "=?" not in text:
        line, folded = f"{name}:", []
        for word in re.findall(r" +[^ ]*|[^ ]+", " " + text):
            if len(line) + len(word) > LINE_LENGTH and line.strip() and line != f"{name}:":
                folded.append(line)
                line = ""
            line += word
        folded.append(line)
        if all(len(line) <= LINE_LENGTH for line in folded):
            return "\r\n".join(folded)
    return f"{name}: " + "\r\n ".join(_encoded_words(text, first=LINE_LENGTH - len(name) - 2))


def _mailbox(header: str, name: str, address: str) -> str:
    # Any kind of space becomes the plain one: parsers part a name's words there, and some part them wrongly.
    text = " ".join(_spoken(header, name).split())
    if not text:
        return f"{header}: {address}"
    if text.isascii() and "=?" not in text and len(text) <= PLAIN_NAME_LENGTH:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        phrase = [text if _ATOMS.fullmatch(text) else f'"{escaped}"']
    else:
        phrase = _encoded_words(text, first=LINE_LENGTH - len(header) - 2)
    last = f"{header}: {phrase[-1]}" if len(phrase) == 1 else f" {phrase[-1]}"
    joint = " " if len(last) + len(address) + 3 <= LINE_LENGTH else "\r\n "
    return f"{header}: " + "\r\n ".join(phrase) + f"{joint}<{address}>"


def _encoded_words(text: str, *, first: int) -> list[str]:
    """`text` as encoded words of at most 75, the first of at most `first`; broken between characters."""
    words, current, room = [], "", min(first, ENCODED_WORD_LENGTH) - len("=?utf-8?q??=")
    for character in text:
        piece = "".join(
            "_" if byte == _SPACE else chr(byte) if byte in _SAFE_IN_WORD else f"={byte:02X}"
            for byte in character.encode("utf-8")
        )
        if len(current) + len(piece) > room:
            words.append(f"=?utf-8?q?{current}?=")
            current, room = "", ENCODED_WORD_LENGTH - 1 - len("=?utf-8?q??=")
        current += piece
    words.append(f"=?utf-8?q?{current}?=")
    return words
