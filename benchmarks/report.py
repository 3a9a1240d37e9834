"""The figures as a table, and as `latest.json`."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.bench import Bench

LATEST = Path(__file__).parent / "latest.json"

AT_MOST = {
    "rss_mb_1m_due": 120.0,
    "rss_1m_due_vs_10k": 1.15,
    "claim_cost_10m_vs_10k": 2.0,
    "start_seconds_10m": 1.5,
    "help_vs_python": 15.0,
}
AT_LEAST = {
    "ratio.sqlite_1": 0.50,
    "ratio.postgres_2": 0.40,
    "ratio.postgres_2_rsa": 0.18,
    "ratio.vs_smtplib": 2.5,
    "throughput_10m_history_vs_none": 0.85,
    "latency_rate_vs_zero.sqlite": 0.5,
    "latency_rate_vs_zero.postgres": 0.5,
}
"""What the figures of a full run are to keep to."""


def print_table(bench: Bench) -> None:
    """Every figure, with its spread and its limit."""
    spread = bench.figures.spread()
    table = Table(box=None, pad_edge=False)
    for heading in ("figure", "median", "least", "most", "limit"):
        table.add_column(heading, justify="left" if heading in ("figure", "limit") else "right")
    for name, value in bench.figures.medians().items():
        ends = [_plain(each) for each in spread.get(name, [])] or ["", ""]
        table.add_row(name, _plain(value), *ends, _judge(name, value))
    # What goes into a file or a pipe is not squeezed into eighty columns.
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=120)).print(table)


def write(bench: Bench, *, families: Mapping[str, object], to: Path) -> None:
    """Write down what was measured; what other families came to in earlier runs stays."""
    known = json.loads(to.read_text(encoding="utf-8")) if to.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    how = {"at": now, "letters": bench.letters, "runs": bench.runs, "rows": bench.rows}
    found: dict[str, Any] = {
        **known,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "measured": {**known.get("measured", {}), **dict.fromkeys(families, how)},
        "spread": {**known.get("spread", {}), **_rounded(bench.figures.spread())},
    }
    for name, value in bench.figures.medians().items():
        *groups, last = name.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = _round(value)
    to.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _judge(name: str, value: float) -> str:
    if name in AT_MOST:
        return f"at most {AT_MOST[name]:g}" + ("" if value <= AT_MOST[name] else "  MISSED")
    if name in AT_LEAST:
        return f"at least {AT_LEAST[name]:g}" + ("" if value >= AT_LEAST[name] else "  MISSED")
    return ""


def _rounded(spread: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: [_round(value) for value in values] for name, values in spread.items()}


def _round(value: float) -> float:
    """To three places that say something."""
    return round(value) if value >= 100 else float(f"{value:.3g}")  # noqa: PLR2004  (three digits)


def _plain(value: float) -> str:
    return f"{_round(value):,}"
