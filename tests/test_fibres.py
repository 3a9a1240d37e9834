"""Many waits in one thread: whoever waits lets the others go on, and nobody waits in vain."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from newsletter.fibres import BLOCKING, READABLE, WRITABLE, Hub, Waiting

LONG = 30.0
SHORT = 0.02


@pytest.fixture
def hub() -> Hub:
    """Where the fibres of a test run."""
    return Hub()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def run_beside(hub: Hub, *actions: Callable[[], object]) -> list[object]:
    """Run each in a fibre of its own; what each returned."""

    def conduct() -> list[object]:
        fibres = [hub.start(action) for action in actions]
        while not all(fibre.has_ended for fibre in fibres):
            hub.sleep(0.001)
        return [fibre.result() for fibre in fibres]

    return hub.run(conduct)


class TestAFibre:
    def test_what_the_first_one_returns_is_returned(self, hub: Hub) -> None:
        assert hub.run(lambda: 7) == 7

    def test_what_it_raises_is_raised_by_whoever_asks_for_the_result(self, hub: Hub) -> None:
        def fail() -> None:
            raise KeyError("x")

        def conduct() -> str:
            failed = hub.start(fail)
            hub.sleep(SHORT)
            assert failed.has_ended
            with pytest.raises(KeyError):
                failed.result()
            return "went on"

        assert hub.run(conduct) == "went on"
        with pytest.raises(KeyError):
            hub.run(fail)

    def test_the_hub_waits_for_all_that_were_started(self, hub: Hub) -> None:
        ended: list[int] = []

        def live(number: int) -> None:
            hub.sleep(SHORT * number)
            ended.append(number)

        hub.run(lambda: [hub.start(lambda number=number: live(number)) for number in (3, 1, 2)])
        assert ended == [1, 2, 3]

    def test_a_hub_runs_again_and_in_another_thread(self, hub: Hub) -> None:
        with ThreadPoolExecutor(1) as pool:
            assert [hub.run(lambda: 1), pool.submit(hub.run, lambda: 2).result(), hub.run(lambda: 3)] == [1, 2, 3]

    def test_who_gives_way_goes_on_behind_everybody_else(self, hub: Hub) -> None:
        seen: list[str] = []

        def polite() -> None:
            hub.give_way()
            seen.append("polite")

        run_beside(hub, polite, lambda: seen.append("one"), lambda: seen.append("two"))
        assert seen == ["one", "two", "polite"]


class TestSockets:
    def test_others_go_on_while_one_waits(self, hub: Hub, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair
        seen: list[str] = []

        def read() -> None:
            seen.append("waits")
            assert hub.for_socket(ours, READABLE, LONG)
            seen.append(ours.recv(10).decode())

        def write() -> None:
            seen.append("writes")
            theirs.send(b"hello")

        run_beside(hub, read, write)
        assert seen == ["waits", "writes", "hello"]

    @pytest.mark.parametrize("within_hub", [True, False])
    def test_a_wait_ends_when_its_time_is_over(
        self, hub: Hub, pair: tuple[socket.socket, socket.socket], within_hub: bool
    ) -> None:
        def wait() -> bool:
            return hub.for_socket(pair[0], READABLE, SHORT)

        began = time.monotonic()
        assert (hub.run(wait) if within_hub else wait()) is False
        assert time.monotonic() - began >= SHORT

    @pytest.mark.parametrize("within_hub", [True, False])
    def test_ready_is_ready(self, hub: Hub, pair: tuple[socket.socket, socket.socket], within_hub: bool) -> None:
        def wait() -> bool:
            return hub.for_socket(pair[0], READABLE | WRITABLE, LONG)

        assert (hub.run(wait) if within_hub else wait()) is True

    def test_a_peer_that_hangs_up_ends_the_wait(self, hub: Hub, pair: tuple[socket.socket, socket.socket]) -> None:
        ours, theirs = pair

        def read() -> bytes:
            assert hub.for_socket(ours, READABLE, LONG)
            return ours.recv(1)

        assert run_beside(hub, read, theirs.close) == [b"", None]

    def test_a_thousand_exchanges_on_many_sockets(self, hub: Hub) -> None:
        pairs = [socket.socketpair() for _ in range(20)]

        def echo(end: socket.socket) -> None:
            for _ in range(50):
                assert hub.for_socket(end, READABLE, LONG)
                end.send(end.recv(1))

        def ask(end: socket.socket) -> int:
            for number in range(50):
                end.send(bytes([number]))
                assert hub.for_socket(end, READABLE, LONG)
                assert end.recv(1) == bytes([number])
            return 50

        actions = [lambda end=end: ask(end) for end, _ in pairs] + [lambda end=end: echo(end) for _, end in pairs]
        assert sum(filter(None, run_beside(hub, *actions))) == 1000  # type: ignore[arg-type]
        for one, other in pairs:
            one.close()
            other.close()


class TestSignals:
    @pytest.mark.parametrize("waiting", [BLOCKING, Hub()])
    def test_one_that_was_told_before_is_not_waited_for(self, waiting: Waiting) -> None:
        signal = waiting.signal()
        signal.set()
        assert signal.wait(LONG)

    @pytest.mark.parametrize("waiting", [BLOCKING, Hub()])
    def test_one_that_nobody_tells_is_waited_for_in_vain(self, waiting: Waiting) -> None:
        assert not waiting.signal().wait(SHORT)

    @pytest.mark.parametrize("waiting", [BLOCKING, Hub()])
    def test_it_may_be_told_from_another_thread(self, waiting: Waiting) -> None:
        signal = waiting.signal()
        threading.Timer(SHORT, signal.set).start()
        assert signal.wait(LONG)

    def test_a_fibre_that_waits_no_more_is_not_woken_for_it(self, hub: Hub) -> None:
        """Nor is its next wait cut short."""

        def live() -> float:
            signal = hub.signal()
            assert not signal.wait(SHORT)
            signal.set()
            began = time.monotonic()
            hub.sleep(10 * SHORT)
            return time.monotonic() - began

        assert hub.run(live) >= 10 * SHORT

    def test_none_of_thousands_from_many_threads_is_lost(self, hub: Hub) -> None:
        with ThreadPoolExecutor(4) as pool:

            def live() -> int:
                for _ in range(250):
                    signal = hub.signal()
                    pool.submit(signal.set)
                    assert signal.wait(LONG)
                return 250

            assert sum(run_beside(hub, *[live] * 8)) == 2000  # type: ignore[arg-type]


class TestElsewhere:
    def test_others_go_on_while_a_call_blocks(self, hub: Hub) -> None:
        gate = threading.Event()

        def blocked() -> bool:
            return hub.elsewhere(lambda: gate.wait(LONG))

        assert run_beside(hub, blocked, gate.set) == [True, None]

    def test_it_runs_in_another_thread(self, hub: Hub) -> None:
        assert hub.run(lambda: hub.elsewhere(threading.get_ident)) != threading.get_ident()

    def test_what_it_raises_is_raised_in_the_fibre(self, hub: Hub) -> None:
        def fail() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            hub.run(lambda: hub.elsewhere(fail))

    def test_outside_of_a_fibre_it_is_a_plain_call(self, hub: Hub) -> None:
        assert hub.elsewhere(threading.get_ident) == threading.get_ident()
        assert BLOCKING.elsewhere(threading.get_ident) == threading.get_ident()
