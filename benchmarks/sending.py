"""How many letters a second, beside what the machine can do at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks import ceiling

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.bench import Bench

_SHARE_OF_SMTPLIB = 5
"""The plain loop is so slow that it gets a fifth of the letters."""


@dataclass(frozen=True)
class _Setup:
    sqlite: bool
    workers: int
    signed: bool

    @property
    def name(self) -> str:
        database = "sqlite" if self.sqlite else "postgres"
        return f"{database}_{self.workers}{'_rsa' if self.signed else ''}"


_SETUPS = [
    _Setup(sqlite=sqlite, workers=workers, signed=signed)
    for signed in (False, True)
    for sqlite in (True, False)
    for workers in (1, 2)
]


def measure(bench: Bench) -> None:
    """In turns, so that whatever else the machine does falls on all of them."""
    key = _make_key(bench.folder / "dkim.pem")
    message = bench.folder / "letter.eml"
    with ceiling.sink() as port:
        for _ in range(bench.runs):
            for setup in _SETUPS:
                _drain(bench, setup, port=port, key=key, message=message)
            source = ceiling.smtp_source(port, message, number=bench.letters)
            bench.figures.add("per_second.smtp_source", source)
            loop = ceiling.smtplib_loop(port, message, number=max(1, bench.letters // _SHARE_OF_SMTPLIB))
            bench.figures.add("per_second.smtplib", loop)
    top = bench.figures.median("per_second.smtp_source")
    for setup in _SETUPS:
        bench.figures.derive(f"ratio.{setup.name}", bench.figures.median(f"per_second.{setup.name}") / top)
    ours, plain = bench.figures.median("per_second.sqlite_1"), bench.figures.median("per_second.smtplib")
    bench.figures.derive("ratio.vs_smtplib", ours / plain)


def _drain(bench: Bench, setup: _Setup, *, port: int, key: Path, message: Path) -> None:
    signing = {"DKIM_SELECTOR": "bench", "DKIM_KEY_FILE": str(key)} if setup.signed else {}
    installation = bench.install(sqlite=setup.sqlite, port=port, settings=signing)
    # What the others send is one of our own letters.
    message.write_bytes(installation.letter.replace(b"\r\n", b"\n"))
    bench.figures.derive("message_bytes", len(installation.letter))
    installation.rows.fill(bench.letters)
    installation.rows.plan(bench.letters)
    rate = installation.drain(workers=setup.workers)
    if rate.letters != bench.letters:
        text = f"{rate.letters} of {bench.letters} letters were sent."
        raise RuntimeError(text)
    bench.figures.add(f"per_second.{setup.name}", rate.per_second)
    bench.figures.add(f"cpu_us_per_letter.{setup.name}", rate.cpu_seconds / rate.letters * 1e6)
    bench.figures.add(f"rss_mb.{setup.name}", rate.peak_rss_mb)
    bench.remove(installation)


def _make_key(path: Path) -> Path:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    path.chmod(0o600)
    return path
