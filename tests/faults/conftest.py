"""What goes wrong here is what goes wrong in the world; `make faults` runs all of it, and for long.

make faults                          the long runs, with a table at the end and in tests/faults/latest.json
make faults KILLS=50 SEED=7          shorter, and with that seed
make test                            the quick half
"""

from __future__ import annotations

import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.comparison import Comparison
from tests.faults.scene import Scene, dawdle
from tests.journeys.conftest import (  # noqa: F401  (fixtures are found by their names)
    open_books,
    open_program,
    seed,
    seeded_database,
    seeded_file,
    seeded_postgres,
    seeded_sqlite,
    smtp_server,
)
from tests.journeys.content import SERIES, write_content
from tests.support import is_set
from tests.support.postgres import Cluster
from tests.support.program import Program
from tests.support.smtp_server import SmtpServer

IS_LONG = is_set("FAULTS_LONG")

KILLS = int(os.environ.get("KILLS", "12"))
"""How often the random test kills, on each database."""
STOPS = int(os.environ.get("STOPS", "20"))
"""How often the random test stops a worker, on each database."""

MANY = "many" if IS_LONG else SERIES
"""A series that does not end before a long run does."""

Report = Callable[..., None]
"""Called with the comparison, and what was done: `report(found, fault="killed", program=program, events=20)`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `make faults` runs."""
    long = [item for item in items if not IS_LONG and _is_long(item)]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def _is_long(item: pytest.Item) -> bool:
    if item.get_closest_marker("long"):
        return True
    quick = item.get_closest_marker("quick")
    engine = item.callspec.params.get("seeded_database") if hasattr(item, "callspec") else None
    return quick is not None and engine not in quick.args


@pytest.fixture(scope="session")
def small_content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journeys' content folder; for long runs with a year of letters more. Nobody may change it."""
    folder = write_content(tmp_path_factory.mktemp("content"))
    if IS_LONG:
        series = folder / "sequences" / MANY
        series.mkdir()
        (series / "sequence.yaml").write_text("title: A year\nstart: first_slot\non_finish: stop\n", encoding="utf-8")
        for number in range(1, 53):
            text = f"---\nsubject: Stone {number}\n---\nHello,\n\nStone {number} of many.\n"
            (series / f"{number:02}-stone-{number}.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance with a seed that stands in the report of a failure; `SEED=N` brings it back."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"seed of {request.node.name}: {seed}")  # noqa: T201  (pytest shows it where the test fails)
    request.node.user_properties.append(("seed", seed))
    return random.Random(seed)


@pytest.fixture
def scene(smtp_server: SmtpServer, chance: random.Random) -> Scene:  # noqa: F811  (the fixture of that name)
    """The mail server dawdles at every stage from now on."""
    return dawdle(smtp_server, chance)


@pytest.fixture
def cluster_url(postgres_cluster: Cluster, small_content: Path) -> Callable[..., str]:
    """Makes a database in which so many readers are due on Thursday, on a server that the test may stop."""

    def make(count: int, sequence: str = SERIES) -> str:
        url = postgres_cluster.create_database()
        seed(url, small_content, readers=count, sequence=sequence)
        return url

    return make


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    """Takes a line for the table at the end of `make faults`."""
    began = time.monotonic()

    def note(found: Comparison, *, fault: str, program: Program, events: int, **more: object) -> None:
        line = {
            "fault": fault,
            "database": str(program.settings["database_url"]).partition(":")[0].partition("+")[0],
            "events": events,
            "letters": found.letters,
            "lost": len(found.lost),
            "doubled": len(found.doubled),
            "unflagged": len(found.unflagged),
            "held": found.held,
            "early": len(found.early),
            "after_unsub": len(found.after_unsub),
            "seconds": round(time.monotonic() - began, 1),
            **more,
        }
        print(line)  # noqa: T201  (pytest shows it where the test fails, or with -rP)
        record_property("fault", line)

    return note


COLUMNS = ("events", "letters", "lost", "doubled", "unflagged", "held", "early", "after_unsub", "seconds")


def is_sabotage(line: Mapping[str, Any]) -> bool:
    """Whether a run shows that these tests can fail: what it lost counts for nobody."""
    return str(line["fault"]).startswith("(")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """The table of all runs, and the same as JSON where `FAULTS_REPORT` says."""
    lines: list[dict[str, Any]] = []
    for outcome in ("passed", "failed"):
        for found in terminalreporter.getreports(outcome):
            if found.when == "call":
                seed = dict(found.user_properties).get("seed")
                lines += [
                    {**value, "outcome": outcome} | ({} if seed is None else {"seed": seed})
                    for name, value in found.user_properties
                    if name == "fault"
                ]
    if not lines or not IS_LONG:
        return
    lines.sort(key=lambda line: (line["fault"], line["database"]))
    terminalreporter.section("faults", bold=True)
    terminalreporter.line(f"{'':44} {'database':10} " + " ".join(f"{name:>11}" for name in COLUMNS))
    for line in lines:
        figures = " ".join(f"{line[name]:>11}" for name in COLUMNS)
        terminalreporter.line(f"{line['fault']:44} {line['database']:10} {figures}")
    totals = {name: round(sum(line[name] for line in lines if not is_sabotage(line)), 1) for name in COLUMNS}
    figures = " ".join(f"{totals[name]:>11}" for name in COLUMNS)
    terminalreporter.line(f"{'all that were not broken on purpose':44} {'':10} {figures}")
    if path := os.environ.get("FAULTS_REPORT"):
        machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
        whole = {"exit_status": int(exitstatus), "machine": machine, "totals": totals, "runs": lines}
        Path(path).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
