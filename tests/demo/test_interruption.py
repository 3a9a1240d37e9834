"""Ctrl-C is heard where the demo naps, not between any two instructions."""

import signal
import threading
from contextlib import suppress

import pytest

from newsletter.demo.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_end_is_kept_until_the_next_nap(number: signal.Signals) -> None:
    interruption = Interruption()
    went_on = False
    with interruption.listen():
        interruption.nap(0)
        signal.raise_signal(number)
        went_on = True
        with pytest.raises(KeyboardInterrupt):
            interruption.nap(60)
        interruption.nap(0)  # heard once, so that what winds up can nap
    assert went_on


def test_whoever_asks_twice_is_heard_at_once() -> None:
    interruption = Interruption()
    with interruption.listen():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_whoever_listened_before_listens_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with suppress(KeyboardInterrupt), Interruption().listen():
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) != before
        raise KeyboardInterrupt
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_than_the_main_one_it_naps_all_the_same() -> None:
    napped = []

    def live() -> None:
        interruption = Interruption()
        with interruption.listen():
            interruption.nap(0)
            napped.append(True)

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    assert napped == [True]
