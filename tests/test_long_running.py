"""What a command that goes on for long changes in its own process, while it does."""

from __future__ import annotations

import ctypes
import gc
import signal
import subprocess
import sys

import pytest

from newsletter.cli.session import stopping

EIGHT_THREADS_AT_WORK = """
import ctypes, threading
from newsletter.cli.session import keep_one_heap

all_have = threading.Barrier(8)

def work():
    kept = [bytes(100_000) for _ in range(20)]
    all_have.wait()

keep_one_heap()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def test_signals_are_heard_and_garbage_is_looked_for_seldom_while_it_goes_on() -> None:
    """Afterwards everything is as it was."""
    before = gc.get_threshold(), signal.getsignal(signal.SIGTERM)
    with stopping() as stop:
        assert gc.get_threshold()[0] > 10 * before[0][0]
        assert gc.get_freeze_count() > 10_000
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert (gc.get_threshold(), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the C library is not glibc")
def test_its_threads_share_one_heap() -> None:
    ran = subprocess.run([sys.executable, "-c", EIGHT_THREADS_AT_WORK], capture_output=True, text=True, check=True)
    assert ran.stdout.count("<heap nr=") == 1
