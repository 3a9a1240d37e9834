"""Several processes of the same command on one machine, and the parent that keeps them going.

Children are started as from a shell and not forked: they share nothing with their parent but a pipe, whose other end
the operating system closes however the parent ends. That is how they know, on every system, that they are alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Thread

import structlog

from newsletter.domain.retry import doubled

log = structlog.get_logger()

GIVES_UP = 3
"""With this exit code a child says to its parent, and to nobody else, that another one could do nothing either."""

_LOOK_AGAIN_SECONDS = 0.1
_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(minutes=1)
_STEADY_AFTER_SECONDS = 60.0
"""A child that has lived for so long is restarted as if it had never died before."""


def run_children(command: Sequence[str], *, number: int, for_ever: bool, stop: Event) -> int:
    """Run so many children of one command of this program, until they have ended or `stop` is set.

    A child that dies is started again, after a pause that doubles from one second to a minute while it keeps dying.
    Where one gives up, all end.

    Args:
        command: the words after `newsletter`; a child gets `--parent` besides.
        for_ever: a child that ends by itself is started again too, whatever its exit code.
        stop: when it is set, the children are asked to end, and waited for.

    Returns:
        The exit code: 0 where all ended well, `GIVES_UP` where one did, else 1.
    """
    pipe, held = os.pipe()
    words = [sys.executable, "-m", "newsletter", *command, "--parent", str(pipe)]
    children = [_Child(words, pipe, number=each, for_ever=for_ever) for each in range(1, number + 1)]
    try:
        while not stop.is_set() and [child for child in children if not child.is_done()]:
            if [child for child in children if child.gave_up]:
                break
            stop.wait(_LOOK_AGAIN_SECONDS)
        for child in children:
            child.ask_to_end()
        ended_ill = [child for child in children if not child.ended_well()]
        if [child for child in ended_ill if child.gave_up]:
            return GIVES_UP
        return 1 if ended_ill else 0
    finally:
        # Whatever happened here, no child goes on alone.
        os.close(held)
        os.close(pipe)


def end_with_parent(pipe: int, stop: Event) -> None:
    """Set `stop` as soon as the process that holds the other end of a pipe is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(pipe, 1)
        stop.set()

    Thread(target=watch, name="parent", daemon=True).start()


@dataclass
class _Child:
    """One place among the children, and the process that has it."""

    words: Sequence[str]
    pipe: int
    number: int
    for_ever: bool
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _code: int | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)
    _begins_at: float = field(default=0.0, init=False)
    _deaths: int = field(default=0, init=False)
    _was_asked: bool = field(default=False, init=False)

    def is_done(self) -> bool:
        """Whether it has ended for good; one that is to be started is started."""
        if self._code is not None:
            return True
        now = time.monotonic()
        if self._process is None:
            if now >= self._begins_at:
                self._begin(now)
            return False
        code = self._process.poll()
        if code is None:
            return False
        self._process = None
        if code != GIVES_UP and (code < 0 or self.for_ever):
            self._begin_later(now, reason=f"exit code {code}")
            return False
        self._code = code
        return True

    @property
    def gave_up(self) -> bool:
        """Whether no other would do better in its place."""
        return self._code == GIVES_UP

    def ask_to_end(self) -> None:
        """SIGTERM, also where Ctrl-C was pressed: a child that is still starting has nothing to say about it."""
        self._was_asked = True
        if self._process is not None:
            self._process.terminate()

    def ended_well(self) -> bool:
        """Wait for its end. One that was asked to end before it knew how had nothing in hand."""
        if self._process is not None:
            self._code = self._process.wait()
        return self._code in (None, 0) or (self._was_asked and self._code == -signal.SIGTERM)

    def _begin(self, now: float) -> None:
        self._began = now
        try:
            # Ctrl-C at the terminal is for the parent, which passes it on.
            self._process = subprocess.Popen(  # noqa: S603  (the words are our own)
                self.words, pass_fds=(self.pipe,), stdin=subprocess.DEVNULL, process_group=0
            )
        except OSError as error:
            # The machine has no room for another one; what is there goes on.
            self._begin_later(now, reason=str(error))
        else:
            log.info("process_started", number=self.number, pid=self._process.pid)

    def _begin_later(self, now: float, *, reason: str) -> None:
        if now - self._began >= _STEADY_AFTER_SECONDS:
            self._deaths = 0
        pause = doubled(_FIRST_PAUSE, doublings=self._deaths, longest=_LONGEST_PAUSE).total_seconds()
        self._deaths += 1
        log.warning("process_ended", number=self.number, reason=reason, pause_seconds=pause)
        self._begins_at = now + pause
