"""A parent and its child processes: each place is kept, and everybody ends."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from structlog.testing import capture_logs

from newsletter import processes
from newsletter.processes import end_with_parent, run_children

SECONDS = 60
"""More than anything here takes on a busy machine."""

# No such option: it ends with 2, and at once.
UNKNOWN = ["--no-such-option"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The children find this program, and no settings."""
    monkeypatch.setenv("PYTHONPATH", str(Path(processes.__file__).parents[1]))
    monkeypatch.chdir(tmp_path)


def test_whether_a_child_ended_well_is_what_counts():
    """Two children that end with 2, and none is started again: 1."""
    with capture_logs() as logs:
        assert run_children(UNKNOWN, number=2, for_ever=False, stop=Event()) == 1
    assert [line["number"] for line in logs if line["event"] == "process_started"] == [1, 2]


def test_stopped_before_it_began_nothing_is_started():
    """Asked to end at once: no child, and all is well."""
    stop = Event()
    stop.set()
    with capture_logs() as logs:
        assert run_children(UNKNOWN, number=2, for_ever=True, stop=stop) == 0
    assert logs == []


def test_who_dies_is_started_again_after_growing_pauses(monkeypatch: pytest.MonkeyPatch):
    """Each time later, up to the longest pause; then it is asked to end, and nothing stays."""
    monkeypatch.setattr(processes, "_FIRST_PAUSE", timedelta(seconds=0.01))
    monkeypatch.setattr(processes, "_LONGEST_PAUSE", timedelta(seconds=0.04))
    stop = Event()

    def run() -> None:
        run_children(UNKNOWN, number=1, for_ever=True, stop=stop)

    with capture_logs() as logs:
        thread = Thread(target=run)
        thread.start()
        until = time.monotonic() + SECONDS
        while len([line for line in logs if line["event"] == "process_ended"]) < 4:
            assert time.monotonic() < until
            time.sleep(0.01)
        stop.set()
        thread.join(SECONDS)
    assert not thread.is_alive()
    ended = [line for line in logs if line["event"] == "process_ended"]
    assert [line["pause_seconds"] for line in ended[:4]] == [0.01, 0.02, 0.04, 0.04]
    assert {line["reason"] for line in ended} == {"exit code 2"}


def test_a_machine_without_room_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    """The process cannot be started at first: it is tried again, and the parent goes on."""
    monkeypatch.setattr(processes, "_FIRST_PAUSE", timedelta(seconds=0.01))
    usual = subprocess.Popen
    refusals = [OSError(errno.EAGAIN, "No room"), OSError(errno.ENOMEM, "No memory")]
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: _fail(refusals.pop()) if refusals else usual(*a, **k))
    with capture_logs() as logs:
        assert run_children(UNKNOWN, number=1, for_ever=False, stop=Event()) == 1
    assert [line["event"] for line in logs] == ["process_ended", "process_ended", "process_started"]


def _fail(error: OSError) -> None:
    raise error


def test_the_end_of_a_parent_is_noticed():
    """The other end of the pipe is open: nothing happens. It is closed, however: the child is to end."""
    ours, theirs = os.pipe()
    stop = Event()
    end_with_parent(ours, stop)
    assert not stop.wait(0.2)
    os.close(theirs)
    assert stop.wait(SECONDS)
    os.close(ours)
