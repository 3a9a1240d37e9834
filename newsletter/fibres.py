"""Many waits in one thread.

A worker keeps many conversations with a mail server, and nearly all the time each of them waits. A thread for each
would be woken for every reply, and all of them would queue up for the interpreter's lock: with thirty, that took
longer than the work itself. Here each conversation is a fibre (a greenlet) of one thread: plain, synchronous code
that says what it waits for through `Waiting`, and meanwhile another one goes on.

What blocks in any other way (a name that is looked up, a handshake, the database) runs `elsewhere`: in a thread,
while the fibre waits for it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import greenlet

if TYPE_CHECKING:
    import socket

T = TypeVar("T")

READABLE = select.POLLIN
WRITABLE = select.POLLOUT
"""The same numbers as epoll's."""

_LOOK_EVERY_SECONDS = 0.1
"""How often the hub looks whose time is over; no earlier end of a wait depends on it."""

_THREADS = 512
"""At most, for all that is elsewhere at once: a mail server that is far away keeps each handshake waiting, and neither
the other handshakes nor the database must wait behind it. There are never more than are needed."""


_NOT_RUNNING = "The hub does not run."


class Signal(Protocol):
    """Something that happens once. It may be told in any thread."""

    def set(self) -> None:
        """It happened."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it happened, or until the time is over; whether it happened."""


class Waiting(Protocol):
    """How to wait: `Blocking`, or as a fibre of a `Hub`."""

    def for_socket(self, connected: socket.socket, events: int, seconds: float) -> bool:
        """Wait until a socket is ready for one of `events`; whether it was, before the time was over."""

    def sleep(self, seconds: float) -> None:
        """Wait for nothing but the time."""

    def give_way(self) -> None:
        """Let everybody go on who can, before oneself."""

    def signal(self) -> Signal:
        """A new signal, for one who waits."""

    def elsewhere(self, call: Callable[[], T]) -> T:
        """Make a call that blocks, where that keeps nobody else waiting."""


class Blocking:
    """Waits as a thread does."""

    def for_socket(self, connected: socket.socket, events: int, seconds: float) -> bool:
        """Wait until a socket is ready for one of `events`; whether it was, before the time was over."""
        poll = select.poll()
        poll.register(connected, events)
        return bool(poll.poll(seconds * 1000))

    def sleep(self, seconds: float) -> None:
        """Wait for nothing but the time."""
        time.sleep(seconds)

    def give_way(self) -> None:
        """Nobody else is in this thread."""

    def signal(self) -> Signal:
        """A new signal."""
        return threading.Event()

    def elsewhere(self, call: Callable[[], T]) -> T:
        """Make a call, here."""
        return call()


BLOCKING = Blocking()


class Fibre(greenlet.greenlet):
    """Plain code that waits beside others.

    Attributes:
        outcome: what it came to: its result, or what it raised.
    """

    def __init__(self, hub: Hub, action: Callable[[], Any]) -> None:
        super().__init__(self._live, hub.root)
        self.hub = hub
        self._action = action
        self.has_ended = False
        self.outcome: tuple[Any, BaseException | None] = (None, None)

    def result(self) -> Any:  # noqa: ANN401  (whatever the action returns)
        """What the action returned.

        Raises:
            BaseException: what it raised.
        """
        value, error = self.outcome
        if error is not None:
            raise error
        return value

    def _live(self, _value: object) -> None:
        try:
            self.outcome = self._action(), None
        except greenlet.GreenletExit:
            raise
        except BaseException as error:  # noqa: BLE001  (raised again by whoever asks for the result)
            self.outcome = None, error
        finally:
            self.has_ended = True


class _HubSignal:
    """A signal for a fibre. Waits and tellings may come in either order."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._is_set = False
        self._blocked: threading.Event | None = None
        self.fibre: Fibre | None = None

    def set(self) -> None:
        self._is_set = True
        blocked = self._blocked
        if blocked is not None:
            blocked.set()
        elif self.fibre is not None:
            self._hub.post(self)

    def wait(self, seconds: float | None = None) -> bool:
        fibre = greenlet.getcurrent()
        if not isinstance(fibre, Fibre):
            self._blocked = threading.Event()
            return self._is_set or self._blocked.wait(seconds)
        self.fibre = fibre
        if not self._is_set:
            self._hub.suspend(fibre, seconds)
        self.fibre = None
        return self._is_set


class Hub:
    """Runs fibres, in the thread that calls `run`. Outside of a fibre its waits block, as `Blocking` does.

    May be run again and again, each time in another thread.
    """

    def __init__(self) -> None:
        self.root: greenlet.greenlet | None = None
        self._alive = 0
        self._ready: deque[tuple[Fibre, object]] = deque()
        self._last: deque[Fibre] = deque()
        self._on_sockets: dict[int, tuple[Fibre, float]] = {}
        self._timed: dict[Fibre, int] = {}
        self._times: list[tuple[float, int, Fibre]] = []
        self._numbers = count()
        self._posted: deque[_HubSignal] = deque()
        self._epoll: select.epoll | None = None
        self._is_asleep = False
        self._pipe: tuple[int, int] | None = None
        self._threads: ThreadPoolExecutor | None = None

    def run(self, action: Callable[[], T]) -> T:
        """Run a fibre, and all that it starts, to their ends.

        Returns:
            What `action` returns.
        """
        self.root = greenlet.getcurrent()
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[0], False)
        os.set_blocking(self._pipe[1], False)
        self._epoll = select.epoll()
        self._epoll.register(self._pipe[0], READABLE)
        try:
            first = self.start(action)
            self._run_all()
            result: T = first.result()
            return result
        finally:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None
            self._epoll.close()
            self._epoll = None
            pipe, self._pipe = self._pipe, None
            for end in pipe:
                os.close(end)
            self.root = None

    def start(self, action: Callable[[], Any]) -> Fibre:
        """Begin another fibre; it goes on as soon as this one waits."""
        fibre = Fibre(self, action)
        self._alive += 1
        self._ready.append((fibre, None))
        return fibre

    def for_socket(self, connected: socket.socket, events: int, seconds: float) -> bool:
        """Wait until a socket is ready for one of `events`; whether it was, before the time was over."""
        fibre = greenlet.getcurrent()
        if not isinstance(fibre, Fibre):
            return BLOCKING.for_socket(connected, events, seconds)
        number = connected.fileno()
        self._watch(number, events)
        self._on_sockets[number] = fibre, time.monotonic() + seconds
        return bool(self._switch())

    def sleep(self, seconds: float) -> None:
        """Wait for nothing but the time."""
        fibre = greenlet.getcurrent()
        if isinstance(fibre, Fibre):
            self.suspend(fibre, seconds)
        else:
            time.sleep(seconds)

    def give_way(self) -> None:
        """Let everybody go on who can, before oneself."""
        fibre = greenlet.getcurrent()
        if isinstance(fibre, Fibre):
            self._last.append(fibre)
            self._switch()

    def signal(self) -> Signal:
        """A new signal, for one who waits."""
        return _HubSignal(self)

    def elsewhere(self, call: Callable[[], T]) -> T:
        """Make a call that blocks, in a thread."""
        if not isinstance(greenlet.getcurrent(), Fibre):
            return call()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="elsewhere")
        done = _HubSignal(self)
        future = self._threads.submit(call)
        future.add_done_callback(lambda _: done.set())
        done.wait()
        return future.result()

    def suspend(self, fibre: Fibre, seconds: float | None) -> None:
        """Let a fibre wait until its signal is posted, or until the time is over."""
        number = next(self._numbers)
        self._timed[fibre] = number
        if seconds is not None:
            heappush(self._times, (time.monotonic() + seconds, number, fibre))
        self._switch()

    def post(self, signal: _HubSignal) -> None:
        """Wake the fibre that waits for a signal; from any thread."""
        self._posted.append(signal)
        # Looked at after the signal stands there: either the hub sees that, or it is woken.
        if self._is_asleep and self._pipe is not None:
            self._is_asleep = False
            os.write(self._pipe[1], b"!")

    def _switch(self) -> object:
        if self.root is None:
            raise RuntimeError(_NOT_RUNNING)
        return self.root.switch()

    def _watch(self, number: int, events: int) -> None:
        """Be told once of a socket's next event. One that was closed is forgotten by the kernel itself."""
        if self._epoll is None:
            raise RuntimeError(_NOT_RUNNING)
        try:
            self._epoll.modify(number, events | select.EPOLLONESHOT)
        except FileNotFoundError:
            self._epoll.register(number, events | select.EPOLLONESHOT)

    def _run_all(self) -> None:
        look_at = time.monotonic() + _LOOK_EVERY_SECONDS
        while True:
            self._run_ready()
            if not self._alive:
                return
            self._look(0 if self._ready else _LOOK_EVERY_SECONDS)
            if (now := time.monotonic()) >= look_at:
                self._end_waits(now)
                look_at = now + _LOOK_EVERY_SECONDS

    def _run_ready(self) -> None:
        while self._ready or self._last:
            # Whoever gives way goes on when nobody else can.
            fibre, value = self._ready.popleft() if self._ready else (self._last.popleft(), None)
            fibre.switch(value)
            if fibre.has_ended:
                self._alive -= 1

    def _look(self, seconds: float) -> None:
        """See which sockets are ready and which signals were posted."""
        if self._times:
            seconds = max(0, min(seconds, self._times[0][0] - time.monotonic()))
        if self._epoll is None:
            raise RuntimeError(_NOT_RUNNING)
        self._is_asleep = True
        found = self._epoll.poll(0 if self._posted else seconds)
        self._is_asleep = False
        for number, _ in found:
            if number in self._on_sockets:
                self._wake_on_socket(number, is_ready=True)
            elif self._pipe is not None and number == self._pipe[0]:
                os.read(self._pipe[0], 4096)
        self._wake_on_signals()

    def _wake_on_signals(self) -> None:
        while self._posted:
            fibre = self._posted.popleft().fibre
            if fibre is not None and self._timed.pop(fibre, None) is not None:
                self._ready.append((fibre, None))
        while self._times and self._times[0][0] <= time.monotonic():
            _, number, fibre = heappop(self._times)
            if self._timed.get(fibre) == number:
                del self._timed[fibre]
                self._ready.append((fibre, None))

    def _end_waits(self, now: float) -> None:
        for number in [number for number, (_, until) in self._on_sockets.items() if until <= now]:
            self._wake_on_socket(number, is_ready=False)

    def _wake_on_socket(self, number: int, *, is_ready: bool) -> None:
        fibre, _ = self._on_sockets.pop(number)
        self._ready.append((fibre, is_ready))
