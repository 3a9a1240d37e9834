"""One SMTP connection, command by command: replies bounded in time and size, no byte unaccounted for.

Not built on `smtplib`, since nothing of it would be left: its reply reader has no bound in time or size, its
writer none over TLS, its login tries every mechanism until an account is locked, its STARTTLS overlooks
injected lines, and its `sendmail` raises one exception for 550 and 451.
Source: RFC 5321; RFC 3207 (STARTTLS); RFC 4954 (AUTH).
"""

from __future__ import annotations

import contextlib
import errno
import math
import re
import socket
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from newsletter.mail.base import DONE, NEVER, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from newsletter.mail.base import MailRoute

GREETING = 220
LOGGED_IN = 235
LOGIN_GOES_ON = 334
SHUTTING_DOWN = 421

_CHUNK_BYTES = 64 * 1024
_REPLY_LIMIT_BYTES = 64 * 1024
_GOODBYE = timedelta(seconds=2)
_REPLY_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])([^\0\n]*))?\r?\n")
_TOO_SLOW = "did not answer in time"
_NO_TLS = (
    "does not offer STARTTLS, and letters are not sent in clear text; use smtps://, or add ?tls=never to "
    "NEWSLETTER_MAIL_URL if clear text is really meant"
)
_INJECTED = "went on in clear text after its answer to STARTTLS; somebody may be in between"
_NO_LOGIN = "offers neither AUTH PLAIN nor AUTH LOGIN, and NEWSLETTER_MAIL_URL has a user and a password"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a mail server may take.

    Attributes:
        connect: for each address of the host.
        command: from a command to the last byte of its reply, and for each 64 KiB of a body.
        dot: for the answer to the terminator. Less than ten minutes makes doubles (RFC 5321, 4.5.3.2.6).
        message: for one letter in all. The wait for the answer is never shortened: the terminator is written
            within `message - dot` of the start, or not at all.
    """

    connect: timedelta = timedelta(seconds=30)
    command: timedelta = timedelta(seconds=60)
    dot: timedelta = timedelta(minutes=10)
    message: timedelta = timedelta(minutes=10, seconds=45)

    def __post_init__(self) -> None:
        if min(self.connect, self.command, self.dot) <= timedelta(0) or self.message <= self.dot:
            message = "Timeouts are positive, and the one for the whole message is longer than the dot's."
            raise ValueError(message)


class ConversationError(Exception):
    """The conversation cannot go on. `str()` goes on from the words "The mail server".

    Attributes:
        code: the reply that ended it, or None.
        text: that reply's text.
    """

    def __init__(self, message: str, *, code: int | None = None, text: str = "") -> None:
        self.code = code
        self.text = text
        super().__init__(message)


class OutOfTurnError(ConversationError):
    """The server spoke where it had to listen, so that nothing says what its next reply answers."""


FAILURES = (OSError, ConversationError)
"""What every method of a conversation may raise; after it the connection is of no more use."""


class Conversation:
    """A connection to a mail server, greeted, secured and logged in as its route says.

    Attributes:
        extensions: what EHLO offered: keyword in capitals, parameters.
        not_after: the monotonic instant after which nothing more is written or waited for.
    """

    def __init__(self, route: MailRoute, *, context: ssl.SSLContext | None, hello: str, timeouts: Timeouts) -> None:
        """Connect, greet, secure, log in.

        Args:
            route: of kind smtp or smtps.
            context: how to check the server's certificate; None for clear text.
            hello: our own name for EHLO.
            timeouts: how long the server may take.

        Raises:
            OSError, ConversationError: any of it failed; nothing stays open.
        """
        self.extensions: Mapping[str, str] = {}
        self.not_after = math.inf
        self._hello = hello
        self._timeouts = timeouts
        self._patience = timeouts.command
        self._unread = bytearray()
        self._socket = socket.create_connection((route.host, route.port), timeouts.connect.total_seconds())
        try:
            self._begin(route, context)
        except BaseException:
            self.hang_up()
            raise

    def _begin(self, route: MailRoute, context: ssl.SSLContext | None) -> None:
        # The terminator is a packet of its own, and Nagle's algorithm would hold each one back for 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None and route.kind == "smtps":
            self._wrap(context, route.host)
        self._expect(GREETING, "greeted with", self._read_reply())
        self._greet()
        if context is not None and route.kind == "smtp":
            self._start_tls(context, route.host)
            self._greet()
        if route.user is not None and route.password is not None:
            self._log_in(route.user, route.password)

    def _greet(self) -> None:
        code, text = self.ask(f"EHLO {self._hello}")
        # The first line is the server's name; what it said before TLS counts for nothing (RFC 3207, 4.2).
        offers = (line.split(maxsplit=1) for line in text.split("\n")[1:])
        self.extensions = {words[0].upper(): " ".join(words[1:]) for words in offers if words}
        if code // 100 == NEVER:
            self.extensions = {}
            code, text = self.ask(f"HELO {self._hello}")
        if not is_positive(code):
            what = "answered EHLO with"
            raise _refusal(what, code, text)

    def _start_tls(self, context: ssl.SSLContext, host: str) -> None:
        if "STARTTLS" not in self.extensions:
            raise ConversationError(_NO_TLS)
        self._expect(GREETING, "answered STARTTLS with", self.ask("STARTTLS"))
        if self._look():
            raise ConversationError(_INJECTED)
        self._wrap(context, host)

    def _wrap(self, context: ssl.SSLContext, host: str) -> None:
        self._socket.settimeout(self._timeouts.command.total_seconds())
        self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def _log_in(self, user: str, password: str) -> None:
        # One mechanism, tried once: three wrong passwords may lock an account. Here TLS is on, or the
        # operator chose clear text, or nothing leaves this machine.
        offered = self.extensions.get("AUTH", "").upper().split()
        if "PLAIN" in offered:
            reply = self.ask(f"AUTH PLAIN {_base64(f'{chr(0)}{user}{chr(0)}{password}')}")
        elif "LOGIN" in offered:
            reply = self.ask("AUTH LOGIN")
            for answer in (user, password):
                if reply[0] == LOGIN_GOES_ON:
                    reply = self.ask(_base64(answer))
        else:
            raise ConversationError(_NO_LOGIN)
        self._expect(LOGGED_IN, "did not take user and password of NEWSLETTER_MAIL_URL:", reply)

    @staticmethod
    def _expect(wanted: int, what: str, reply: tuple[int, str]) -> None:
        if reply[0] != wanted:
            raise _refusal(what, *reply)

    def say_goodbye(self) -> None:
        """Say QUIT, do not wait long for the answer, and hang up."""
        self._patience = min(self._patience, _GOODBYE)
        with contextlib.suppress(*FAILURES):
            self.ask("QUIT")
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection at once, wherever it stands."""
        with contextlib.suppress(OSError):
            self._socket.close()

    @property
    def size_limit_bytes(self) -> int | None:
        """The largest message the server takes, or None where it names no limit (RFC 1870)."""
        size = self.extensions.get("SIZE", "")
        return int(size) if re.fullmatch(r"0*[1-9][0-9]{0,17}", size) else None

    def ask(self, command: str) -> tuple[int, str]:
        """Send one command and read its reply: code, and text with the lines of a longer one kept apart.

        Raises:
            OutOfTurnError: something unread was there before the command, so that no reply could be trusted.
            OSError, ConversationError: no usable reply came.
        """
        if self._look():
            raise self._out_of_turn()
        self._write(command.encode() + b"\r\n")
        return self._read_reply()

    def write_body(self, content: bytes) -> None:
        """Write a message but for its terminator.

        Raises:
            OutOfTurnError: the server answered before the message was complete.
            OSError, ConversationError: the connection failed. The message was certainly not accepted.
        """
        try:
            for chunk in _wire_chunks(content):
                self._write(chunk)
                if self._look():
                    break
        except FAILURES:
            # A server that refuses early may stop reading or hang up; its words may be here all the same.
            if not self._look():
                raise
        if self._unread:
            raise self._out_of_turn()

    def end_body(self) -> tuple[int, str]:
        """Write the terminator and wait for the answer, in `dot` in all. From here on, no answer means doubt."""
        self._patience = self._timeouts.dot
        self.not_after = time.monotonic() + self._timeouts.dot.total_seconds()
        try:
            self._write(b".\r\n")
            return self._read_reply()
        finally:
            self._patience = self._timeouts.command
            self.not_after = math.inf

    def is_quiet(self) -> bool:
        """Whether the server is, as far as can be seen, there and listening."""
        try:
            return not self._look()
        except FAILURES:
            return False

    def _out_of_turn(self) -> OutOfTurnError:
        code, text = self._read_reply()
        return OutOfTurnError(f"spoke out of turn: {code} {printable(text)}", code=code, text=text)

    def _look(self) -> bool:
        """Look, without waiting, whether something came that nobody has read."""
        try:
            if not self._receive(seconds=0) and not self._unread:
                raise _hung_up()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # Silence, as it should be.
        return bool(self._unread)

    def _read_reply(self) -> tuple[int, str]:
        deadline = self._deadline(self._patience)
        room = _REPLY_LIMIT_BYTES
        code = 0
        texts: list[str] = []
        while True:
            line = self._read_line(deadline, limit_bytes=room)
            room -= len(line)
            found = _REPLY_LINE.fullmatch(line)
            if found is None or (texts and int(found[1]) != code):
                message = f"sent what is no reply: {printable(_decoded(line[:80]))}"
                raise ConversationError(message)
            code = int(found[1])
            texts.append(_decoded(found[3] or b"").strip())
            if found[2] != b"-":
                return code, "\n".join(texts)

    def _read_line(self, deadline: float, *, limit_bytes: int) -> bytes:
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0 and len(self._unread) < limit_bytes:
            searched = len(self._unread)
            if not self._receive(seconds=_seconds_until(deadline)):
                raise _hung_up()
        if end < 0:
            message = "sent a reply without end"
            raise ConversationError(message)
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        return line

    def _receive(self, *, seconds: float) -> int:
        self._socket.settimeout(seconds)
        received = self._socket.recv(_CHUNK_BYTES)
        self._unread += received
        return len(received)

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        deadline = self._deadline(self._timeouts.command)
        while rest:
            self._socket.settimeout(_seconds_until(deadline))
            rest = rest[self._socket.send(rest) :]

    def _deadline(self, patience: timedelta) -> float:
        return min(time.monotonic() + patience.total_seconds(), self.not_after)


def is_positive(code: int) -> bool:
    """Whether a reply says that what was asked for is done."""
    return code // 100 == DONE


def own_name() -> str:
    """Name this machine for EHLO; asks the resolver, so it may take a moment.

    Source: RFC 5321, section 4.1.4: a full domain name, or else an address literal.
    """
    name = socket.getfqdn()
    return name if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name) else "[127.0.0.1]"


def why(failure: Exception) -> str:
    """Say what one of `FAILURES` is, in words that go on from "The mail server"."""
    match failure:
        case ssl.SSLCertVerificationError():
            return (
                f"has a certificate that is not trusted ({failure.verify_message}); that of a private "
                "authority goes into NEWSLETTER_MAIL_URL as ?cafile=/path/ca.pem"
            )
        case ssl.SSLError():
            return f"does not speak TLS ({failure.reason}); is its port for smtp:// or for smtps://?"
        case TimeoutError():
            return _TOO_SLOW
        case OSError():
            return f"cannot be reached ({failure.strerror or failure})"
        case _:
            return str(failure)


def _wire_chunks(content: bytes) -> Iterator[memoryview]:
    """Cut a message as it goes on the wire: a dot doubled at the start of a line, the last line ended."""
    wire = content.replace(b"\r\n.", b"\r\n..")
    if wire.startswith(b"."):
        wire = b"." + wire
    if not wire.endswith(b"\r\n"):
        wire += b"\r\n"
    view = memoryview(wire)
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


def _refusal(what: str, code: int, text: str) -> ConversationError:
    return ConversationError(f"{what} {code} {printable(text)}", code=code, text=text)


def _hung_up() -> ConversationError:
    return ConversationError("closed the connection")


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError(errno.ETIMEDOUT, _TOO_SLOW)
    return seconds


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode("ascii")
