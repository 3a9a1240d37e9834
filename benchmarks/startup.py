"""How long it takes until a command says something."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bench import Bench

_RUNS = 11
_COMMANDS = {"python": ["-c", "pass"], "help": ["-m", "newsletter", "--help"]}


def measure(bench: Bench) -> None:
    """`newsletter --help` beside a Python that does nothing, in turns."""
    for _ in range(max(_RUNS, bench.runs)):
        for name, arguments in _COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            bench.figures.add(f"startup_ms.{name}", (time.perf_counter() - began) * 1e3)
    ratio = bench.figures.median("startup_ms.help") / bench.figures.median("startup_ms.python")
    bench.figures.derive("help_vs_python", ratio)
