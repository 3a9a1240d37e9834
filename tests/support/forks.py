"""Commands in processes of their own that need not import everything anew.

One process imports the program and waits; each command is a fork of it. A command that is killed, changes its
folder or its environment does so alone, as if it had been started by a shell, in a fraction of the time.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_STARTING = threading.Lock()
_ASKING = threading.Lock()
_PRELOADED = (
    "alembic.command",
    "newsletter.bootstrap",
    "newsletter.cli",
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
    words: Sequence[str], *, folder: Path, environment: Mapping[str, str], outputs: tuple[Path, Path], seconds: float
) -> int:
    """Run `newsletter` with `words` to its end; what it says goes into `outputs`, standard output and error.

    Returns:
        Its exit code; negative where a signal ended it.

    Raises:
        subprocess.TimeoutExpired: it took too long, and was killed.
    """
    _begin()
    plain = (tuple(words), str(folder), dict(environment), tuple(map(str, outputs)))
    process = _FORKS.Process(target=_be_the_program, args=plain, daemon=True)
    # Whoever starts a process also asks how all the others are, and a code is told only once.
    with _ASKING:
        process.start()
    wait([process.sentinel], seconds)
    with _ASKING:
        process.join(0)
        code = process.exitcode
    if code is None:
        process.kill()
        wait([process.sentinel])
        raise subprocess.TimeoutExpired(list(words), seconds)
    return code


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


def _be_the_program(words: tuple[str, ...], folder: str, environment: dict[str, str], outputs: tuple[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["newsletter", *words]
    from newsletter import cli
    from tests.support import failpoints

    if failpoints.are_asked_for(environment):
        failpoints.install(failpoints.Faults.read(environment))
    cli.main()
