"""The real program, driven from outside: every command is a process of its own.

    program = Program(tmp_path, database_url=url, mail_url=server.url)
    program.set_clock(datetime(2026, 9, 23, 10, tzinfo=UTC))
    site = program.serve()                          # newsletter run, ready to answer
    site.post("/subscribe", email="maria@example.org")
    worker = program.start("worker")
    worker.kill()                                   # SIGKILL
    program.json("status")["deliveries"]["sent"]

A process sees no setting but those given here: its working folder is empty, so that nobody's `.env` counts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

import newsletter
from tests.support import forks
from tests.support.failpoints import Faults

HOST = "127.0.0.1"
SECRET_KEY = "a key of the tests that is long enough for anybody"
START_SECONDS = 60
STOP_SECONDS = 30
FORM = "application/x-www-form-urlencoded"
# Below the ports that systems hand out by themselves, so that no connection takes one in between.
_PORTS = range(20_000, 32_000)
# The program that is tested is the one that the tests import, wherever that lies.
_ROOT = Path(newsletter.__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def problem(self) -> str:
        """What it said to a person on standard error, without warnings and log lines."""
        lines = self.err.splitlines()
        return "\n".join(line for line in lines if not line.startswith(("Warning: ", "20")))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the site answered. `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")


class Running:
    """A command that goes on until somebody ends it. What it says goes into files.

    Args:
        command: the whole command line; or, where it is `forked`, the words after `newsletter`.
        anew: whether a fork is to import the program itself.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        name: str,
        forked: bool = False,
        anew: bool = False,
    ) -> None:
        self._out_path = folder / f"{name}.out"
        self._err_path = folder / f"{name}.err"
        self._process: subprocess.Popen[bytes] | forks.Fork
        if forked:
            outputs = (self._out_path, self._err_path)
            for path in outputs:
                path.touch()
            self._process = forks.Fork(command, folder=folder, environment=environment, outputs=outputs, anew=anew)
            return
        with self._out_path.open("wb") as out, self._err_path.open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C at the test run is not for it
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or None while it lives; -9 is SIGKILL."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return self._err_path.read_text(encoding="utf-8", errors="replace")

    @property
    def out(self) -> str:
        """What it has written to standard output so far."""
        return self._out_path.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL: it can do nothing more, not even tidy up."""
        self._process.kill()
        self._process.wait()

    def terminate(self, *, seconds: float = STOP_SECONDS, how: signal.Signals = signal.SIGTERM) -> int:
        """SIGTERM, and the exit code.

        Raises:
            TimeoutExpired: it did not end in time.
        """
        self._process.send_signal(how)
        return self._process.wait(seconds)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """The exit code, once it ends by itself.

        Raises:
            TimeoutExpired: it did not end in time.
        """
        return self._process.wait(seconds)

    def wait_for(self, condition: Callable[[], object], *, seconds: float = START_SECONDS) -> None:
        """Wait until something holds, and fail at once where the process ends before.

        Raises:
            AssertionError: it ended, or the time was up; with its log.
        """
        until = time.monotonic() + seconds
        while not condition():
            ended = self.code is not None
            if ended and condition():
                return
            if ended or time.monotonic() > until:
                what = f"It ended with {self.code}" if ended else f"Nothing of the kind within {seconds} s"
                message = f"{what}. Its log:\n{self.log}"
                raise AssertionError(message)
            time.sleep(0.01)


class Site:
    """A client of the site that keeps no cookies, follows no redirect and mends nothing."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def get(self, where: str, **headers: str) -> Answer:
        """GET a path, or a whole address on this site."""
        return self.request("GET", where, headers=_header_names(headers))

    def post(self, where: str, **fields: str) -> Answer:
        """POST a form."""
        return self.request("POST", where, body=urlencode(fields).encode(), headers={"Content-Type": FORM})

    def request(
        self, method: str, where: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Any request at all, on a connection of its own."""
        parts = urlsplit(self.base_url)
        path = where.removeprefix(self.base_url)
        connection = http.client.HTTPConnection(parts.hostname or HOST, parts.port, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=names, body=response.read())


class Program:
    """One installation: its folder, its settings, its clock, and whatever of it is running.

    Args:
        folder: an empty folder; database and logs may lie in it.
        covered: whether the coverage of its processes is measured; they import the program themselves then.
        settings: by name as in `Settings`, without the prefix; `from_` for FROM. None leaves one out.
    """

    def __init__(self, folder: Path, *, covered: bool = False, **settings: object) -> None:
        self.folder = folder
        self._covered = covered
        self._home = folder / "home"
        self._home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        self.settings: dict[str, object] = {
            "base_url": self.base_url,
            "from_": "Letters <letters@example.org>",
            "secret_key": SECRET_KEY,
            **settings,
        }
        self._running: list[Running] = []
        self._moves: list[tuple[float, datetime]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever is still running."""
        for running in self._running:
            if running.code is None:
                running.kill()

    # Its clock

    def set_clock(self, now: datetime) -> None:
        """Move business time, for every process at once."""
        path = self.folder / "clock"
        draft = self.folder / "clock.new"
        draft.write_text(now.astimezone(UTC).isoformat(), encoding="utf-8")
        self._moves.append((time.monotonic(), now))
        draft.replace(path)  # nobody ever reads half an instant
        self.settings["clock"] = path

    @property
    def now(self) -> datetime:
        """What its clock says."""
        return datetime.fromisoformat((self.folder / "clock").read_text(encoding="utf-8"))

    def time_at(self, monotonic: float) -> datetime:
        """The latest instant that its clock had shown by a moment of `time.monotonic()`."""
        return max(now for moved_at, now in self._moves if moved_at <= monotonic)

    # Its commands

    def command(
        self, *words: str, seconds: float = START_SECONDS, faults: Faults | None = None, **settings: Any
    ) -> Finished:
        """Run a command to its end. `settings` and `faults` count for this command only."""
        outputs = (self.folder / f"out-{uuid4().hex}", self.folder / f"err-{uuid4().hex}")
        environment = self._environment(settings, faults)
        code = forks.run(
            words, folder=self._home, environment=environment, outputs=outputs, seconds=seconds, anew=self._covered
        )
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
        return Finished(code=code, out=out, err=err)

    def do(self, *words: str, seconds: float = START_SECONDS, **settings: Any) -> str:
        """Run a command that must succeed; what it says.

        Raises:
            AssertionError: it did not.
        """
        finished = self.command(*words, seconds=seconds, **settings)
        if finished.code != 0:
            message = f"newsletter {' '.join(words)}: {finished.code}\n{finished.out}\n{finished.err}"
            raise AssertionError(message)
        return finished.out

    def json(self, *words: str) -> Any:
        """What a command answers with `--json`."""
        return json.loads(self.do(*words, "--json"))

    def drain(self, *, seconds: float = 120) -> None:
        """Send what is due, which must succeed."""
        self.do("worker", "--drain", seconds=seconds)

    def start(
        self,
        *words: str,
        faults: Faults | None = None,
        within: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Running:
        """Start a command that goes on.

        Args:
            within: the command line that it is handed to, such as `ip netns exec NAME`.
            variables: of its environment, besides the settings.
        """
        forked = not within
        running = Running(
            words if forked else [*within, sys.executable, "-m", _module(faults), *words],
            forked=forked,
            anew=self._covered,
            folder=self._home,
            environment={**self._environment(settings, faults), **(variables or {})},
            name=f"{len(self._running):03}-{words[0]}",
        )
        self._running.append(running)
        return running

    def serve(self, *, faults: Faults | None = None, **settings: Any) -> tuple[Site, Running]:
        """Start `newsletter run`, and wait until it answers."""
        running = self.start("run", "--port", str(self.port), faults=faults, **settings)
        site = Site(self.base_url)
        running.wait_for(lambda: _answers(site))
        return site, running

    def log_lines(self) -> Iterator[str]:
        """Everything that everything started here has said on standard error."""
        for running in self._running:
            yield from running.log.splitlines()

    def _environment(self, settings: Mapping[str, object], faults: Faults | None) -> dict[str, str]:
        kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT")
        # Coverage follows into the processes of the tests by variables of its own.
        prefixes = ("PYTHON", "COVERAGE") if self._covered else ("PYTHON",)
        environment = {name: value for name, value in os.environ.items() if name in kept or name.startswith(prefixes)}
        search = environment.get("PYTHONPATH", "")
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [search])]),
            "HOME": str(self._home),
            "TMPDIR": str(self.folder),
            "COLUMNS": "200",
        }
        chosen = {**self.settings, **settings}
        environment |= {
            f"NEWSLETTER_{name.rstrip('_').upper()}": str(value) for name, value in chosen.items() if value is not None
        }
        return environment | ({} if faults is None else faults.environment())


def _module(faults: Faults | None) -> str:
    return "newsletter" if faults is None else "tests.support.failpoints"


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    chooser = random.SystemRandom()
    while True:
        port = chooser.choice(_PORTS)
        with contextlib.suppress(OSError), socket.create_server((HOST, port)):
            return port


def _answers(site: Site) -> bool:
    try:
        return site.get("/healthz").status == http.HTTPStatus.OK
    except OSError:
        return False


def _header_names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
