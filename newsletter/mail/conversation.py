"""One SMTP connection: its handshake by the standard library, its transactions pipelined and our own.

`smtplib` waits for the reply to each command and raises one exception for 550 and 451, so a transaction is
none of its business: where the server offers PIPELINING, MAIL, RCPT and DATA go out in one write, and those of the
next letter together with a message and its terminator.
Source: RFC 5321; RFC 2920 (PIPELINING), section 3.1 on what may be grouped.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import ssl
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from newsletter.fibres import BLOCKING, Waiting
from newsletter.mail.base import DONE
from newsletter.mail.handshake import shake_hands
from newsletter.mail.wire import FAILURES, TOO_SLOW, ConversationError, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from newsletter.mail.base import MailRoute
    from newsletter.mail.wire import Timeouts

SHUTTING_DOWN = 421

_NO_TLS_THERE = frozenset({"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"})
"""Reasons of OpenSSL: the server answers in clear text, or with a TLS that is too old to be trusted."""

_CHUNK_BYTES = 64 * 1024
_GOODBYE = timedelta(seconds=2)


class Conversation:
    """A connection to a mail server, greeted, secured and logged in as its route says.

    Attributes:
        extensions: what EHLO offered: keyword in small letters, parameters.
        pipelines: whether the server takes MAIL, RCPT and DATA in one go (RFC 2920).
        size_limit_bytes: the largest message the server takes, or None where it names no limit (RFC 1870).
        not_after: the monotonic instant after which no command and nothing of a message is written, and no
            reply but that to the terminator waited for.
    """

    def __init__(
        self,
        route: MailRoute,
        *,
        context: ssl.SSLContext | None,
        hello: str,
        timeouts: Timeouts,
        waiting: Waiting = BLOCKING,
    ) -> None:
        """Connect, greet, secure, log in.

        Args:
            route: of kind smtp or smtps.
            context: how to check the server's certificate; None for clear text.
            hello: our own name for EHLO.
            timeouts: how long the server may take.
            waiting: how to wait for it from then on.

        Raises:
            OSError, ConversationError: any of it failed; nothing stays open.
        """
        self.not_after = math.inf
        self._patience_seconds = timeouts.command.total_seconds()
        self._dot_seconds = timeouts.dot.total_seconds()
        self._wire = Wire(waiting)
        try:
            self.extensions: Mapping[str, str] = shake_hands(
                self._wire, route, context=context, hello=hello, timeouts=timeouts
            )
        except BaseException:
            self.hang_up()
            raise
        self.pipelines = "pipelining" in self.extensions
        size = self.extensions.get("size", "")
        self.size_limit_bytes = int(size) if re.fullmatch(r"0*[1-9][0-9]{0,17}", size) else None

    def say_goodbye(self) -> None:
        """Say QUIT, do not wait long for the answer, and hang up."""
        self._patience_seconds = min(self._patience_seconds, _GOODBYE.total_seconds())
        with contextlib.suppress(*FAILURES):
            self.ask("QUIT")
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection at once, wherever it stands."""
        self._wire.close()

    def ask(self, command: str) -> tuple[int, str]:
        """Send one command and read its reply: code, and text with the lines of a longer one kept apart.

        Raises:
            OutOfTurnError: something unread was there before the command, so that no reply could be trusted.
            OSError, ConversationError: no usable reply came.
        """
        self._wire.say(command.encode() + b"\r\n", deadline=self._deadline())
        return self._wire.read_reply(deadline=self._deadline())

    def ask_in_turn(self, commands: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Send commands and read their replies in order: all at once where the server pipelines, else by turns.

        Raises:
            OutOfTurnError, OSError, ConversationError: as `ask` does, for the command whose reply is due.
        """
        if not self.pipelines:
            for command in commands:
                yield self.ask(command)
            return
        self._wire.say(_lines(commands), deadline=self._deadline())
        yield from self.hear(commands)

    def hear(self, commands: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Read the replies to commands that were sent already.

        Raises:
            OSError, ConversationError: no usable reply came to the command whose reply is due.
        """
        for _ in commands:
            yield self._wire.read_reply(deadline=self._deadline())

    def write_message(self, content: bytes, *, has_dots: bool = True, then: Sequence[str] = ()) -> bool:
        """Write a message and its terminator, and the commands that follow it.

        From its return on the server may have the message, and no answer means doubt. Where it raises, the last
        byte of the terminator was not handed over, and the message was certainly not accepted.

        Args:
            content: with CRLF line ends.
            has_dots: a line of it may begin with a dot.
            then: commands of the next letter, for a server that pipelines; `hear` reads their replies once the
                answer to this message was read.

        Returns:
            Whether the commands have left, too.

        Raises:
            OutOfTurnError: the server answered before the message was complete.
            OSError, ConversationError: the connection failed.
        """
        wire, following = self._wire, _lines(then)
        *others, last = _chunks(_on_the_wire(content, has_dots=has_dots))
        try:
            for chunk in others:
                if wire.look() or not wire.write(chunk, deadline=self._deadline()):
                    break
            else:
                if not wire.look():
                    is_complete, followed = wire.write_both(last, following, deadline=self._deadline())
                    if is_complete:
                        return followed
        except OSError:
            # A server that refuses early may stop reading or hang up; its words may be here all the same.
            if not wire.look():
                raise
        raise wire.out_of_turn(deadline=self._deadline())

    def read_answer(self) -> tuple[int, str]:
        """Wait for the answer to a message, in `dot` in all.

        Raises:
            OSError, ConversationError: no usable answer came.
        """
        return self._wire.read_reply(deadline=time.monotonic() + self._dot_seconds)

    def has_spoken(self) -> bool:
        """Look, without waiting, whether the server said something that nobody has read.

        Raises:
            OSError, ConversationError: it hung up.
        """
        return self._wire.look()

    def is_alive(self) -> bool:
        """Whether the server is, as far as can be seen, still there; it may have spoken."""
        try:
            self._wire.look()
        except FAILURES:
            return False
        return True

    def is_quiet(self) -> bool:
        """Whether the server is, as far as can be seen, there and listening."""
        try:
            return not self._wire.look()
        except FAILURES:
            return False

    def _deadline(self) -> float:
        return min(time.monotonic() + self._patience_seconds, self.not_after)


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
            return TOO_SLOW
        case OSError():
            return f"cannot be reached ({failure.strerror or failure})"
        case _:
            return str(failure)


def lasts(failure: Exception) -> bool:
    """Whether one of `FAILURES` is there until somebody changes the settings or the server."""
    match failure:
        case ssl.SSLError():
            # A connection that breaks off within the handshake is none of these.
            return isinstance(failure, ssl.SSLCertVerificationError) or failure.reason in _NO_TLS_THERE
        case ConversationError():
            return failure.lasts
        case _:
            return False


def _on_the_wire(content: bytes, *, has_dots: bool) -> bytes:
    """Write a message as it goes out: a dot doubled at the start of a line, the last line ended, terminated."""
    wire = content
    if has_dots:
        wire = content.replace(b"\r\n.", b"\r\n..")
        if wire.startswith(b"."):
            wire = b"." + wire
    return wire + (b".\r\n" if wire.endswith(b"\r\n") else b"\r\n.\r\n")


def _chunks(wire: bytes) -> list[bytes]:
    if len(wire) <= _CHUNK_BYTES:
        return [wire]
    return [wire[start : start + _CHUNK_BYTES] for start in range(0, len(wire), _CHUNK_BYTES)]


def _lines(commands: Sequence[str]) -> bytes:
    return "".join([f"{command}\r\n" for command in commands]).encode()
