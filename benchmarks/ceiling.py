"""What the same machine does without us: Postfix's load generator and sink, and a plain loop of smtplib."""

from __future__ import annotations

import shutil
import smtplib
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ToolMissingError(Exception):
    """Postfix's test programs are not installed."""


def _tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        message = f"{name} is missing; it comes with Debian's package postfix (apt-get install postfix)."
        raise ToolMissingError(message)
    return found


@contextmanager
def sink() -> Iterator[int]:
    """Postfix's smtp-sink on a port of its own."""
    with socket.socket() as chooser:
        chooser.bind(("127.0.0.1", 0))
        port = chooser.getsockname()[1]
    process = subprocess.Popen([_tool("smtp-sink"), "-u", "nobody", f"127.0.0.1:{port}", "1024"])
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def smtp_source(port: int, message: Path, *, number: int) -> float:
    """Messages a second of `smtp-source -s 10 -d`; the file has bare line feeds, as it wants them."""
    began = time.perf_counter()
    subprocess.run(
        [
            _tool("smtp-source"), "-s", "10", "-d", "-m", str(number), "-F", str(message),
            "-f", "letters@example.com", "-t", "reader@example.net", f"127.0.0.1:{port}",
        ],
        check=True,
    )  # fmt: skip
    return number / (time.perf_counter() - began)


def smtplib_loop(port: int, message: Path, *, number: int) -> float:
    """Messages a second of one connection and one thread, without a database."""
    content = message.read_bytes().replace(b"\n", b"\r\n")
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        began = time.perf_counter()
        for _ in range(number):
            smtp.sendmail("letters@example.com", ["reader@example.net"], content)
        return number / (time.perf_counter() - began)
