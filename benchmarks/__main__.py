"""`make bench`: the same work by us and by others, and by us at several sizes, side by side in one run."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import latency, memory, report, scale, sending, startup
from benchmarks.bench import Bench
from newsletter.bootstrap import configure_logging

FAMILIES = {
    "startup": startup.measure,
    "sending": sending.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "scale": scale.measure,
}


def main() -> None:
    """Measure, print, and write `latest.json`."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=FAMILIES, help="measure this family; may be given again")
    parser.add_argument("--letters", type=_count, default=10_000, help="due in each run (default: %(default)s)")
    parser.add_argument("--runs", type=_count, default=3, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--rows", type=_count, default=10_000_000, help="of the largest table (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=report.LATEST, help="the JSON (default: benchmarks/latest.json)")
    options = parser.parse_args()
    configure_logging(json=False, log_all=False)
    families = {name: FAMILIES[name] for name in options.only or FAMILIES}
    with tempfile.TemporaryDirectory(prefix="newsletter-bench-") as folder:
        bench = Bench(Path(folder), letters=options.letters, runs=options.runs, rows=options.rows)
        try:
            for name, measure in families.items():
                began = time.monotonic()
                measure(bench)
                Console(stderr=True).print(f"{name}: measured in {time.monotonic() - began:,.0f} s")
                # After each of them: who has waited for an hour does not lose it all to the last.
                report.write(bench, families={name: measure}, to=options.out)
        finally:
            bench.close()
    report.print_table(bench)


def _count(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        message = "write a number of 1 or more"
        raise argparse.ArgumentTypeError(message)
    return number


if __name__ == "__main__":
    main()
