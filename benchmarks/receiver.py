"""A mail server on this machine that takes everything, as far away as is asked for, and notes when it did.

`python -m benchmarks.receiver 0.05 0.2` answers whatever arrives together after 50 to 200 ms, in order. It prints
its port, and for each line on its standard input what it noted so far; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_END_OF_BODY = b"\r\n.\r\n"
_REPLIES = {
    b"EHLO": b"250-receiver\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 2.0.0 bye\r\n",
}


@dataclass
class Notes:
    """What was noted; seconds of the machine's monotonic clock.

    Attributes:
        accepted: letters whose acceptance has left.
        opened_at: of the first connection; one that was only a question is forgotten.
    """

    accepted: int = 0
    opened_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0


class Conversation(asyncio.Protocol):
    """One connection.

    Args:
        delay: from which to which second a reply waits.
    """

    def __init__(self, notes: Notes, delay: tuple[float, float], dice: random.Random) -> None:
        self._notes = notes
        self._delay = delay
        self._dice = dice
        self._pending = b""
        self._in_body = False
        self._free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError
        self._transport = transport
        self._notes.opened_at = self._notes.opened_at or time.monotonic()
        self._answer(b"220 receiver ESMTP\r\n", accepted=0, last=False)

    def connection_lost(self, _error: Exception | None) -> None:
        """A worker asks once whether its mail server is there, and hangs up."""
        if not self._notes.accepted:
            self._notes.opened_at = 0.0

    def data_received(self, data: bytes) -> None:
        """Answer all that is complete, together."""
        self._pending += data
        replies, accepted, last = b"", 0, False
        while True:
            found, separator, rest = self._pending.partition(_END_OF_BODY if self._in_body else b"\r\n")
            if not separator:
                break
            self._pending = rest
            if self._in_body:
                self._in_body, accepted = False, accepted + 1
                replies += b"250 2.0.0 Ok: queued\r\n"
                continue
            verb = found[:4].upper()
            replies += _REPLIES.get(verb, b"250 2.0.0 Ok\r\n")
            self._in_body, last = verb == b"DATA", verb == b"QUIT"
        if replies:
            self._answer(replies, accepted=accepted, last=last)

    def _answer(self, replies: bytes, *, accepted: int, last: bool) -> None:
        loop = asyncio.get_running_loop()
        # A reply never overtakes the one before it.
        self._free_at = max(self._free_at, loop.time() + self._dice.uniform(*self._delay))
        if self._free_at <= loop.time():
            self._write(replies, accepted=accepted, last=last)
        else:
            loop.call_at(self._free_at, lambda: self._write(replies, accepted=accepted, last=last))

    def _write(self, replies: bytes, *, accepted: int, last: bool) -> None:
        self._transport.write(replies)
        if accepted:
            self._notes.accepted += accepted
            self._notes.last_at = time.monotonic()
            self._notes.first_at = self._notes.first_at or self._notes.last_at
        if last:
            self._transport.close()


async def _receive(delay: tuple[float, float]) -> None:
    notes, dice, loop = Notes(), random.Random(1), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Conversation(notes, delay, dice), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    while await asked.readline():
        print(json.dumps(asdict(notes)), flush=True)
    server.close()


class Receiver:
    """A receiver in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def notes(self) -> Notes:
        """What it noted so far."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Notes(**json.loads(self._process.stdout.readline()))

    def wait_for(self, letters: int, *, seconds: float) -> Notes:
        """Wait until so many letters were accepted, or that long."""
        give_up_at = time.monotonic() + seconds
        while (notes := self.notes()).accepted < letters and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return notes


@contextmanager
def receiver(*, delay: tuple[float, float] = (0.0, 0.0)) -> Iterator[Receiver]:
    """Start one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.receiver", *map(str, delay)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if process.stdout is None:
            raise RuntimeError
        yield Receiver(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(_receive((float(sys.argv[1]), float(sys.argv[2]))))
