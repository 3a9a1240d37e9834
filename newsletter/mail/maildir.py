"""Letters into a local folder in the Maildir form, for the demo, for rehearsals and for trying things out.

The standard library's `mailbox.Maildir` is not used: it turns CRLF into LF, so that the bytes that were
signed are lost, and its names may clash between threads.
Source: https://cr.yp.to/proto/maildir.html
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING
from uuid import uuid4

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail.base import Stage, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from newsletter.mail.base import Envelope

_HOST = "maildir"

_MAY_PASS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}
)
"""What keeps a folder from being made today and maybe not tomorrow."""


class MaildirMailer:
    """Puts each letter into a file of its own, byte for byte. Any number of mailers may share a folder."""

    def __init__(self, path: Path) -> None:
        """Prepare, without touching the disk. A relative path counts from the folder of this moment."""
        self._path = path.absolute()
        # A slash or a colon means something else in a Maildir name.
        self._machine = socket.gethostname().replace("/", "\\057").replace(":", "\\072") or "localhost"

    looks_ahead = False

    def open(self, letter: Envelope | None = None) -> None:
        """Make the folders, readable by nobody else, and see that they can be written.

        Raises:
            RelayUnavailable: they cannot.
        """
        del letter  # one is as good as another
        try:
            for name in ("tmp", "new", "cur"):
                self._folder(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error.strerror or str(error), lasts=error.errno not in _MAY_PASS) from error
        for name in ("tmp", "new"):
            if not os.access(self._folder(name), os.W_OK | os.X_OK):
                why = "not writable"
                raise self._unavailable(why, lasts=True)

    def send(self, letter: Envelope, *, then: Envelope | None = None) -> Verdict:
        """Write the letter, make sure that it survives a power cut, then let it appear at once and whole."""
        del then
        written = self._folder("tmp") / uuid4().hex
        try:
            name = self._write(written, letter.content)
            written.rename(self._folder("new") / name)
        except OSError as error:
            with contextlib.suppress(OSError):
                written.unlink()
            return _verdict(Outcome.UNAVAILABLE, Stage.BODY, error.strerror or str(error))
        try:
            _sync_folder(self._folder("new"))
        except OSError as error:
            return _verdict(Outcome.NO_ANSWER, Stage.DOT, error.strerror or str(error))
        return _verdict(Outcome.ACCEPTED, Stage.DOT, name)

    def close(self) -> None:
        """Do nothing: no file stays open between letters."""

    def _folder(self, name: str) -> Path:
        return self._path / name

    def _write(self, path: Path, content: bytes) -> str:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
            # The file system's own time orders the names; nothing here reads a clock.
            nanoseconds = os.fstat(descriptor).st_mtime_ns
        seconds, rest = divmod(nanoseconds, 10**9)
        return f"{seconds}.M{rest // 1000:06}P{os.getpid()}R{path.name}.{self._machine}"

    def _unavailable(self, why: str, *, lasts: bool) -> RelayUnavailable:
        message = f"The maildir {self._path} cannot be used ({why}). Mend it, or change NEWSLETTER_MAIL_URL."
        return RelayUnavailable(message, reply_text=why, lasts=lasts)


def _verdict(outcome: Outcome, stage: Stage, text: str) -> Verdict:
    return Verdict(outcome=outcome, stage=stage, reply_code=None, reply_text=text, host=_HOST)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
