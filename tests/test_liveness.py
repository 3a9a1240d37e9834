"""A dead worker of this host is known at once, and nobody else is taken for dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Thread

import pytest

from newsletter.liveness import LifeLine, default_folder, forget, is_known_dead

HOLDER = """
import sys, time
from pathlib import Path
from newsletter.liveness import LifeLine
LifeLine("worker-1", folder=Path(sys.argv[1])).hold()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path: Path):
    """Another process that holds the life line of worker-1."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_living_worker_is_not_dead(other_process: subprocess.Popen[bytes], tmp_path: Path):
    """A worker whose process lives is not known dead, however often one asks."""
    assert not any(is_known_dead("worker-1", folder=tmp_path) for _ in range(50))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_known_dead_at_once(
    other_process: subprocess.Popen[bytes], tmp_path: Path, how: signal.Signals
):
    """However a process ended, its worker is known dead as soon as it is gone, and stays so."""
    other_process.send_signal(how)
    other_process.wait()
    assert is_known_dead("worker-1", folder=tmp_path)
    assert is_known_dead("worker-1", folder=tmp_path)


def test_a_stopped_worker_is_not_dead(other_process: subprocess.Popen[bytes], tmp_path: Path):
    """A process that was only stopped may go on; it is not known dead."""
    other_process.send_signal(signal.SIGSTOP)
    assert not is_known_dead("worker-1", folder=tmp_path)


def test_a_worker_of_this_process_is_not_dead(tmp_path: Path):
    """A worker is not known dead to its own process."""
    with LifeLine("worker-1", folder=tmp_path):
        assert not is_known_dead("worker-1", folder=tmp_path)


def test_nothing_is_known_of_a_worker_without_a_file(tmp_path: Path):
    """A worker that left no file here may be on another host."""
    assert not is_known_dead("worker-1", folder=tmp_path)
    assert not is_known_dead("worker-1", folder=tmp_path / "no-such-folder")


def test_a_worker_that_ended_in_peace_leaves_no_file(tmp_path: Path):
    """Letting go removes the file, so that nothing is known of that worker; twice is fine."""
    line = LifeLine("worker-1", folder=tmp_path)
    line.hold()
    assert list(tmp_path.iterdir())
    line.release()
    line.release()
    assert not list(tmp_path.iterdir())
    assert not is_known_dead("worker-1", folder=tmp_path)


def test_two_processes_cannot_hold_one_life_line(other_process: subprocess.Popen[bytes], tmp_path: Path):
    """A life line that somebody holds cannot be taken."""
    with pytest.raises(BlockingIOError):
        LifeLine("worker-1", folder=tmp_path).hold()


def test_two_who_ask_at_once_do_not_think_a_living_worker_dead(tmp_path: Path):
    """Asking from many threads never takes a living worker for dead."""
    answers: list[bool] = []
    with LifeLine("worker-1", folder=tmp_path):
        threads = [
            Thread(target=lambda: answers.extend(is_known_dead("worker-1", folder=tmp_path) for _ in range(50)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [False] * 400


def test_a_dead_worker_can_be_forgotten(tmp_path: Path):
    """Forgetting removes the file of a dead worker; of one that has none, too."""
    (tmp_path / "worker-1.lock").touch()
    assert is_known_dead("worker-1", folder=tmp_path)
    forget("worker-1", folder=tmp_path)
    forget("worker-1", folder=tmp_path)
    assert not is_known_dead("worker-1", folder=tmp_path)


@pytest.mark.parametrize("name", ["", "../worker", "a/b", "a b", "ä", "a" * 81, "a.lock"])
def test_a_name_that_is_no_worker_id_reaches_no_file(tmp_path: Path, name: str):
    """Whatever a name out of the database holds, no other file is opened or removed."""
    for use in (lambda: LifeLine(name, folder=tmp_path), lambda: is_known_dead(name, folder=tmp_path),
                lambda: forget(name, folder=tmp_path)):  # fmt: skip
        with pytest.raises(ValueError, match="worker id"):
            use()


def test_the_usual_folder_belongs_to_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The locks lie in a folder of this user's own, which nobody else may read."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert default_folder() == tmp_path / f"newsletter-workers-{os.getuid()}"
    with LifeLine("worker-1"):
        assert default_folder().stat().st_mode & 0o777 == 0o700
        assert not is_known_dead("worker-1")
