"""Commands in processes of their own that need not import everything anew.

One process imports the program and waits; each command is a fork of it. A command that is killed, changes its
folder or its environment does so alone, as if it had been started by a shell, in a fraction of the time.

A command that is to run `anew` forgets what was imported of the program, and keeps only the libraries: it shows
that the command imports what it needs, and its coverage is measured from the first line on.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import coverage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()
_ASKING = threading.Lock()
_PRELOADED = (
    "alembic.command",
    "newsletter.bootstrap",
    "newsletter.cli",
    "newsletter.cluster",
    "newsletter.scheduler",
    "newsletter.store.reports",
    "newsletter.web.server",
    "psycopg",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "tests.support.failpoints",
    "tests.support.forks",
)


def run(
    words: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    outputs: tuple[Path, Path],
    seconds: float,
    anew: bool = False,
) -> int:
    """Run `newsletter` with `words` to its end; what it says goes into `outputs`, standard output and error.

    Returns:
        Its exit code; negative where a signal ended it.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was killed.
    """
    fork = Fork(words, folder=folder, environment=environment, outputs=outputs, anew=anew)
    try:
        return fork.wait(seconds)
    except subprocess.TimeoutExpired:
        fork.kill()
        fork.wait()
        raise


class Fork:
    """`newsletter` with `words`, as a process of its own in a session of its own. It answers as a `Popen` does."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        outputs: tuple[Path, Path],
        anew: bool = False,
    ) -> None:
        _begin()
        self._words = list(words)
        plain = (tuple(words), str(folder), dict(environment), tuple(map(str, outputs)), anew)
        self._process = _FORKS.Process(target=_be_the_program, args=plain, daemon=True)
        # Whoever starts a process also asks how all the others are, and a code is told only once.
        with _ASKING:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative where a signal ended it; None while it lives."""
        with _ASKING:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._words, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _begin() -> None:
    """Start the process that is forked, once, without what follows coverage into new processes."""
    from multiprocessing import forkserver

    # Commands are begun by several threads at once.
    with _STARTING:
        server = forkserver._forkserver
        if getattr(server, "_forkserver_pid", None) is not None:
            return
        kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COVERAGE")}
        try:
            _FORKS.set_forkserver_preload(list(_PRELOADED))
            forkserver.ensure_running()
        finally:
            os.environ.update(kept)


def _be_the_program(
    words: tuple[str, ...], folder: str, environment: dict[str, str], outputs: tuple[str, str], anew: bool
) -> None:
    gc.freeze()  # what was imported stays
    os.setsid()  # Ctrl-C at the test run is not for it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["newsletter", *words]
    with _beginning_anew() if anew else contextlib.nullcontext():
        from newsletter import cli
        from tests.support import failpoints

        if failpoints.are_asked_for(environment):
            failpoints.install(failpoints.Faults.read(environment))
        cli.main()


@contextlib.contextmanager
def _beginning_anew() -> Iterator[None]:
    """Forget the program, and measure its coverage where this environment asks for it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "newsletter"]:
        del sys.modules[name]
    measured = coverage.process_startup()
    try:
        yield
    finally:
        # Nothing else does it: a fork does not end as an interpreter does.
        if measured is not None:
            measured.stop()
            measured.save()
