"""Whether a worker on this host is still alive, without waiting for its lease.

Each worker holds an advisory lock on a file of its own for as long as its process lives. The operating system
lets go of the lock however the process ends, SIGKILL included, so a lock that can be had names a dead worker.
A worker whose file is not here may be on another host: nothing is known about it, and its lease decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_SAFE_NAME = re.compile(r"[A-Za-z0-9-]{1,80}")


def default_folder() -> Path:
    """The folder for the locks of this user's workers on this host."""
    return Path(tempfile.gettempdir()) / f"newsletter-workers-{os.getuid()}"


class LifeLine:
    """The lock that a living worker holds.

    Args:
        worker: the worker's id, of letters, digits and dashes.
        folder: where the locks of this host lie.
    """

    def __init__(self, worker: str, *, folder: Path | None = None) -> None:
        self._path = _path(worker, folder or default_folder())
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Take the lock; it is let go by `release` or by the end of the process."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._descriptor = descriptor

    def release(self, *, owes: bool = False) -> None:
        """Let go of the lock, and remove its file unless the worker `owes`: then others find it dead at once."""
        if self._descriptor is None:
            return
        if not owes:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> Self:
        """Hold it."""
        self.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of it."""
        self.release()


def is_known_dead(worker: str, *, folder: Path | None = None) -> bool:
    """Whether `worker` ran on this host and its process has ended."""
    path = _path(worker, folder or default_folder())
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def forget(worker: str, *, folder: Path | None = None) -> None:
    """Remove the file of a worker that is known dead and owns nothing any more."""
    with contextlib.suppress(OSError):
        _path(worker, folder or default_folder()).unlink()


def _path(worker: str, folder: Path) -> Path:
    if not _SAFE_NAME.fullmatch(worker):
        message = f"{worker!r} is no worker id"
        raise ValueError(message)
    return folder / f"{worker}.lock"
