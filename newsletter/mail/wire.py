"""The bytes of an SMTP connection: replies bounded in time and size, writes of which each byte is accounted for.

The socket never blocks: whoever has to wait does so here, until a deadline of its own.
Source: RFC 5321, sections 4.2 and 4.5.3.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from newsletter.fibres import BLOCKING, READABLE, WRITABLE, Waiting
from newsletter.mail.base import printable

TOO_SLOW = "did not answer in time"

_RECEIVE_BYTES = 4 * 1024
_REPLY_LIMIT_BYTES = 64 * 1024
_SHORT_LINE_BYTES = 64
_EITHER = READABLE | WRITABLE
_BARE_LINE_ENDS = (b"\r\n", b"\n")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a mail server may take.

    Attributes:
        connect: for each address of the host, and for the TLS of smtps.
        command: from a command to the last byte of its reply, and for each 64 KiB of a message.
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
        lasts: another conversation would end in the same way, until the settings or the server are changed.
    """

    def __init__(self, message: str, *, code: int | None = None, text: str = "", lasts: bool = False) -> None:
        self.code = code
        self.text = text
        self.lasts = lasts
        super().__init__(message)


class OutOfTurnError(ConversationError):
    """The server spoke where it had to listen, so that nothing says what its next reply answers."""


FAILURES = (OSError, ConversationError)
"""What everything that reads or writes may raise; after it the connection is of no more use."""


class Wire:
    """What is written to a mail server, and the replies read from it.

    A deadline is a `time.monotonic()` instant, in seconds.

    Attributes:
        socket: the one in use, or None before `attach`.
    """

    def __init__(self, waiting: Waiting = BLOCKING) -> None:
        """Prepare, without a socket.

        Args:
            waiting: how to wait for the server.
        """
        self.socket: socket.socket | None = None
        self._waiting = waiting
        self._unread = b""
        self._buffers = False  # TLS may hold bytes that came, so that the kernel knows of none
        self._readable = select.poll()

    def attach(self, connected: socket.socket) -> None:
        """Use a socket from now on, which must be connected. What was read before stays."""
        # A group of commands and a message are each a packet of their own, and Nagle's algorithm would hold
        # each one back for 40 ms.
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(0)
        self.socket = connected
        self._buffers = isinstance(connected, ssl.SSLSocket)
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def close(self) -> None:
        """Let go of the socket at once. May be called twice."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()

    def look(self) -> bool:
        """Look, without waiting, whether something came that nobody has read.

        Raises:
            OSError, ConversationError: the connection is gone, and nothing unread is left.
        """
        if self._unread:
            return True
        connected = self._connected
        if not self._buffers and not self._readable.poll(0):
            return False  # Silence, as it should be; an exception would say so more slowly.
        try:
            self._take(connected.recv(_RECEIVE_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def say(self, commands: bytes, *, deadline: float) -> None:
        """Write whole command lines to a server that listens.

        Raises:
            OutOfTurnError: something unread was there before them, so that no reply could be trusted.
            OSError, ConversationError: the connection failed.
        """
        if self.look() or not self.write(commands, deadline=deadline):
            raise self.out_of_turn(deadline=deadline)

    def out_of_turn(self, *, deadline: float) -> OutOfTurnError:
        """Make the error that tells of an unread reply.

        Raises:
            OSError, ConversationError: what is unread is no reply.
        """
        code, text = self.read_reply(deadline=deadline)
        return OutOfTurnError(f"spoke out of turn: {code} {printable(text)}", code=code, text=text)

    def write(self, data: bytes | memoryview, *, deadline: float) -> bool:
        """Hand all of `data` to the kernel, or give up once the server speaks instead of reading.

        Returns:
            Whether the last byte was handed over. Where this is False, or anything is raised, it certainly was
            not; those before it may have been.

        Raises:
            OSError, ConversationError: the connection failed, or the time was over.
        """
        connected = self._connected
        rest = data
        while True:
            _seconds_until(deadline)  # raises once it is over
            try:
                # Over TLS it returns when the last record has left as a whole, and part of a record is as good
                # as none.
                sent = connected.send(rest)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as blocked:
                self._wait(READABLE if isinstance(blocked, ssl.SSLWantReadError) else _EITHER, deadline)
                if self.look():
                    return False
                continue
            if sent == len(rest):
                return True
            rest = memoryview(rest)[sent:]

    def write_both(self, data: bytes, then: bytes, *, deadline: float) -> tuple[bool, bool]:
        """Hand `data` to the kernel as `write` does, and `then` behind it: together, where that can be accounted for.

        Returns:
            Whether the last byte of each was handed over. That of `then` may be missing for any reason.

        Raises:
            OSError, ConversationError: the last byte of `data` was not handed over.
        """
        if not then:
            return self.write(data, deadline=deadline), True
        sent = 0
        if not self._buffers:
            # Not over TLS: where sending failed, nobody could say which of them is in a record that has left.
            _seconds_until(deadline)
            with contextlib.suppress(BlockingIOError):
                sent = self._connected.sendmsg((data, then))
        if sent < len(data) and not self.write(memoryview(data)[sent:], deadline=deadline):
            return False, False
        rest = then[max(0, sent - len(data)) :]
        try:
            return True, not rest or self.write(rest, deadline=deadline)
        except FAILURES:
            return True, False

    def read_reply(self, *, deadline: float) -> tuple[int, str]:
        """Read one reply: code, and text with the lines of a longer one kept apart.

        Raises:
            OSError, ConversationError: none came in time, or none that is one.
        """
        code, text, goes_on = _parsed(line := self._read_line(deadline, limit_bytes=_REPLY_LIMIT_BYTES))
        if not goes_on:
            return code, text
        texts = [text]
        room = _REPLY_LIMIT_BYTES - len(line)
        while goes_on:
            line = self._read_line(deadline, limit_bytes=room)
            room -= len(line)
            next_code, text, goes_on = _parsed(line)
            if next_code != code:
                raise _no_reply(line)
            texts.append(text)
        return code, "\n".join(texts)

    def _read_line(self, deadline: float, *, limit_bytes: int) -> bytes:
        searched = 0
        while (end := self._unread.find(b"\n", searched, limit_bytes)) < 0:
            searched = len(self._unread)
            if searched >= limit_bytes:
                message = "sent a reply without end"
                raise ConversationError(message)
            self._receive(deadline)
        line = self._unread[: end + 1]
        self._unread = self._unread[end + 1 :]
        return line

    def _receive(self, deadline: float) -> None:
        connected = self._connected
        if not self._buffers:
            self._wait(READABLE, deadline)
        while True:
            try:
                received = connected.recv(_RECEIVE_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(READABLE, deadline)
            except ssl.SSLWantWriteError:
                self._wait(_EITHER, deadline)
            else:
                self._take(received)
                return

    def _take(self, received: bytes) -> None:
        if not received:
            message = "closed the connection"
            raise ConversationError(message)
        self._unread += received

    def _wait(self, events: int, deadline: float) -> None:
        self._waiting.for_socket(self._connected, events, _seconds_until(deadline))

    @property
    def _connected(self) -> socket.socket:
        if self.socket is None:
            message = "is not connected"
            raise ConversationError(message)
        return self.socket


def _parsed(line: bytes) -> tuple[int, str, bool]:
    """Take a line of a reply apart: its code, its text, and whether another line follows."""
    # A server says the same to every letter, in few words; what is long is not kept.
    return _parsed_once(line) if len(line) <= _SHORT_LINE_BYTES else _parsed_once.__wrapped__(line)


@lru_cache(maxsize=256)
def _parsed_once(line: bytes) -> tuple[int, str, bool]:
    digits, mark, text = line[:3], line[3:4], line[4:]
    if digits.isdigit() and b"2" <= digits < b"6":
        if mark in (b" ", b"-") and b"\0" not in text:
            return int(digits), text.decode("utf-8", errors="replace").strip(), mark == b"-"
        if line[3:] in _BARE_LINE_ENDS:
            return int(digits), "", False
    raise _no_reply(line)


def _no_reply(line: bytes) -> ConversationError:
    return ConversationError(f"sent what is no reply: {printable(line[:80].decode('utf-8', errors='replace'))}")


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError(errno.ETIMEDOUT, TOO_SLOW)
    return seconds
