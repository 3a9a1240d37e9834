"""Letters into a local folder."""

from __future__ import annotations

import errno
import mailbox as standard_mailbox
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from newsletter.domain.delivery import Outcome
from newsletter.errors import RelayUnavailable
from newsletter.mail import open_mailer, parse_mail_url
from tests.mail.contract import MailerContract, build_envelope

if TYPE_CHECKING:
    from pathlib import Path

    from newsletter.mail import Mailer


class MaildirMailbox:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open_mailer(self) -> Mailer:
        return open_mailer(parse_mail_url(f"maildir:{self.path}"))

    def arrived(self) -> list[bytes]:
        return [path.read_bytes() for path in self.path.glob("new/*")]

    def break_down(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.write_bytes(b"a file where the folder was")


@pytest.fixture
def mailbox(tmp_path: Path) -> MaildirMailbox:
    return MaildirMailbox(tmp_path / "mail")


class TestContract(MailerContract):
    """The maildir keeps what every mailer promises."""


def test_a_mail_program_finds_the_letter(mailbox: MaildirMailbox) -> None:
    mailer = mailbox.open_mailer()
    mailer.open()
    mailer.send(build_envelope(7))

    [message] = standard_mailbox.Maildir(mailbox.path, create=False)
    assert message["Subject"] == "Letter 7"


def test_the_names_order_letters_as_they_came(mailbox: MaildirMailbox) -> None:
    mailer = mailbox.open_mailer()
    mailer.open()
    for number in range(5):
        mailer.send(build_envelope(number))

    written = [path.stat().st_mtime_ns for path in sorted(mailbox.path.glob("new/*"))]
    assert written == sorted(written)
    assert not any(":" in path.name or path.name.startswith(".") for path in mailbox.path.glob("new/*"))


def test_letters_are_private_to_the_user(mailbox: MaildirMailbox) -> None:
    """To be on such a list says something about a person."""
    mailer = mailbox.open_mailer()
    mailer.open()
    mailer.send(build_envelope())

    [letter] = mailbox.path.glob("new/*")
    assert letter.stat().st_mode & 0o077 == 0
    assert letter.parent.stat().st_mode & 0o077 == 0


def test_a_relative_path_counts_from_where_the_program_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    mailer = open_mailer(parse_mail_url("maildir:./mail"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    mailer.open()
    mailer.send(build_envelope())

    assert len(list((tmp_path / "mail" / "new").iterdir())) == 1


def test_a_letter_that_could_not_be_written_leaves_nothing_behind(
    mailbox: MaildirMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: no half letter is ever seen, and the attempt does not count."""

    def is_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mailer = mailbox.open_mailer()
    mailer.open()
    monkeypatch.setattr(os, "fsync", is_full)

    verdict = mailer.send(build_envelope())

    assert verdict.outcome is Outcome.UNAVAILABLE
    assert verdict.stage == "body"
    assert "No space left" in verdict.reply_text
    assert [path for path in mailbox.path.rglob("*") if path.is_file()] == []


def test_a_letter_whose_place_is_not_safe_yet_is_in_doubt(
    mailbox: MaildirMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, but a power cut might take it away again."""
    real, calls = os.fsync, []

    def fail_the_second(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    mailer = mailbox.open_mailer()
    mailer.open()
    monkeypatch.setattr(os, "fsync", fail_the_second)

    assert mailer.send(build_envelope()).outcome is Outcome.NO_ANSWER
    assert len(mailbox.arrived()) == 1


def test_the_letter_is_on_the_disk_before_it_appears(mailbox: MaildirMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append(len(mailbox.arrived()))
        real(descriptor)

    mailer = mailbox.open_mailer()
    mailer.open()
    monkeypatch.setattr(os, "fsync", look)
    mailer.send(build_envelope())

    assert seen == [0, 1]  # first the letter, then the folder that names it


def test_a_folder_that_may_not_be_written_is_told_at_once(
    mailbox: MaildirMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)

    with pytest.raises(RelayUnavailable, match=r"not writable.*NEWSLETTER_MAIL_URL"):
        mailbox.open_mailer().open()
