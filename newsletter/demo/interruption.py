"""Ctrl-C and SIGTERM, heard where the demo can stop and tidy up after itself."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Somebody's wish to end, kept until the next nap.

    Python raises KeyboardInterrupt between any two instructions, also where a lock is about to be held or an
    exception cannot leave; what it breaks off there may stand still for ever. The wish is therefore only noted, and
    raised where the story naps, which is many times a second. Whoever asks twice is heard at once.
    """

    def __init__(self) -> None:
        self._wished = False

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Note both signals until the block ends; in another thread than the main one, none can be heard."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = [(number, signal.signal(number, self._note)) for number in _SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def nap(self, seconds: float) -> None:
        """Sleep.

        Raises:
            KeyboardInterrupt: somebody wishes to end.
        """
        self._heed()
        time.sleep(seconds)
        self._heed()

    def _heed(self) -> None:
        if self._wished:
            # Whoever asks again while everything is wound up does not break that off.
            self._wished = False
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._wished:
            raise KeyboardInterrupt
        self._wished = True
