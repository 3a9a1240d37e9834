"""The demo as somebody runs it: the whole story, a fault in the product, a visitor, a taken port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from newsletter.demo import WEEK_SECONDS, run_demo, stage
from newsletter.demo.mailbox import Mailbox
from newsletter.demo.reader import PageError, Reader
from newsletter.demo.story import EXPECTATIONS
from newsletter.errors import InvalidChoice, NewsletterError
from newsletter.mail.maildir import MaildirMailer
from newsletter.rendering.forms import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.timeout(180)

QUICK = 0.01


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its folder, so that a test can see that it is gone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _nothing_stays(temporary: Path) -> Iterator[None]:
    """However a demo ends: no thread of it lives on, and its folder is gone."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (stray := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stray
    assert not list(temporary.glob("newsletter-demo-*"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that looks twenty times a second."""
    monkeypatch.setattr(stage, "TICK", stage.TICK / 4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_whole_story_holds_every_expectation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(None, QUICK, 0, exit_when_done=True) == 0
    told = capsys.readouterr().out
    assert "failed" not in told
    assert "not played" not in told
    assert len(re.findall(r"\bok\b", told)) == len(EXPECTATIONS)
    events = [
        "Sun 11 Oct 2026 19:30  The operator publishes 2 sequences",
        "Thu 15 Oct 2026 08:00  Letter 1 of 9 arrives",
        "Sun 25 Oct 2026 01:00  The clocks go back",
        "Thu 29 Oct 2026 08:00  Letter 3 of 9 arrives",
        "Sat 31 Oct 2026 10:15  Maria pauses",
        "Thu 12 Nov 2026 08:00  Nothing comes",
        "Thu 19 Nov 2026 08:00  Letter 4 of 9 arrives",
        "1 person is past this step and will not get it",
        "Thu  3 Dec 2026 08:00  Letter 6 of 10 arrives: An answer that may take its time",
        "Thu 31 Dec 2026 08:00  Letter 10 of 10 arrives",
        "Thu 21 Jan 2027 08:00  A weekly note arrives",
        "Fri 22 Jan 2027 18:00  Maria leaves",
        "Thu 11 Feb 2027 08:00  Nothing comes",
    ]
    places = [told.index(event) for event in events]
    assert places == sorted(places)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_letter_without_its_way_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = Form.filled

    def forgetful(*args: Any, **kwargs: Any) -> bytes:
        return filled(*args, **kwargs).replace(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", b"")

    monkeypatch.setattr(Form, "filled", forgetful)
    assert run_demo(1, QUICK, 0, exit_when_done=True) == 1
    told = capsys.readouterr().out
    assert "Expected: Every letter has a one-click way out in its headers. Seen: letter 1 has none." in told
    assert "failed" in told
    assert "not played" in told


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_letter_that_comes_twice_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send = MaildirMailer.send

    def stuttering(self: MaildirMailer, letter: Any, **further: Any) -> Any:
        if b"List-Id:" in letter.content:
            send(self, letter, **further)
        return send(self, letter, **further)

    monkeypatch.setattr(MaildirMailer, "send", stuttering)
    assert run_demo(1, QUICK, 0, exit_when_done=True) == 1
    assert "Seen: 2 in one week." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_site_that_refuses_its_own_form_ends_the_story_with_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_args: object, **_kwargs: object) -> None:
        message = "A form was answered with 500."
        raise PageError(message)

    monkeypatch.setattr(Reader, "answer", refuses)
    assert run_demo(1, QUICK, 0, exit_when_done=True) == 1
    told = capsys.readouterr().out
    assert "The story cannot go on. A form was answered with 500." in told
    assert "it never came to that" in " ".join(told.split())


def test_a_taken_port_is_named_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NewsletterError, match=f"^Port {port} is taken. Choose another with --port"):
            run_demo(1, QUICK, port, exit_when_done=True)


def test_where_the_usual_port_is_taken_a_free_one_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(stage, "USUAL_PORT", taken.getsockname()[1])
        with stage.listen(None) as listener:
            assert listener.getsockname()[1] not in {0, stage.USUAL_PORT}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
def test_a_port_for_others_is_named_too() -> None:
    with pytest.raises(NewsletterError, match="Port 1 cannot be used"):
        stage.listen(1)


@pytest.mark.parametrize(
    ("weeks", "week_seconds", "port", "field"),
    [
        (0, 1.0, None, "weeks"),
        (-3, 1.0, None, "weeks"),
        (521, 1.0, None, "weeks"),
        (1, -0.1, None, "week_seconds"),
        (1, float("nan"), None, "week_seconds"),
        (1, float("inf"), None, "week_seconds"),
        (1, 1.0, 65536, "port"),
        (1, 1.0, -1, "port"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_begins(
    weeks: int, week_seconds: float, port: int | None, field: str
) -> None:
    with pytest.raises(InvalidChoice, match=f"^--{field.replace('_', '-')} ") as refused:
        run_demo(weeks, week_seconds, port, exit_when_done=True)
    assert refused.value.field == field
    assert "\n" not in str(refused.value)


def test_the_whole_story_fits_into_a_minute_at_the_usual_pace() -> None:
    from newsletter.demo.story import DEFAULT_WEEKS, SILENT_WEEKS

    assert (DEFAULT_WEEKS + SILENT_WEEKS) * WEEK_SECONDS <= 40


@pytest.mark.slow
def test_a_visitor_gets_their_own_letters_until_ctrl_c(tmp_path: Path, temporary: Path) -> None:
    with Running(tmp_path, temporary, week_seconds=0.2) as demo:
        demo.wait_for("Ctrl-C ends it")
        visitor = Reader(demo.site_url)
        page = visitor.open("/")
        visitor.answer(page, {"email": "visitor@example.net"}, field="email")
        mailbox = Mailbox(demo.folder / "mail")
        confirmation = wait_until(lambda: [m for m in mailbox.mails() if m.to == "visitor@example.net"])[0]
        visitor.answer(visitor.open(confirmation.link("/confirm/") or ""), {}, button="slot")
        letters = wait_until(lambda: [m for m in mailbox.mails() if m.to == "visitor@example.net" and m.position()][2:])
        assert letters[0].position() == (3, 9)
        assert "Mail for v" in demo.wait_for("Three small habits")
        assert demo.end(signal.SIGINT) == 0


@pytest.mark.slow
def test_sigterm_breaks_the_story_off_and_leaves_nothing_behind(tmp_path: Path, temporary: Path) -> None:
    with Running(tmp_path, temporary, week_seconds=60) as demo:
        demo.wait_for("She presses the button")
        assert demo.end(signal.SIGTERM) == 130
        assert "Stopped half-way" in demo.told()


class Running:
    """The demo in a process of its own."""

    def __init__(self, tmp_path: Path, temporary: Path, *, week_seconds: float) -> None:
        self._log = tmp_path / "told.txt"
        self._temporary = temporary
        program = (
            "import sys; from newsletter.demo import run_demo;"
            f" sys.exit(run_demo(1, {week_seconds}, 0, exit_when_done=False))"
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", program],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(temporary)},
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def site_url(self) -> str:
        """Where it serves."""
        found = re.search(r"(http://\S+?)/inbox", self.told())
        assert found
        return found[1]

    @property
    def folder(self) -> Path:
        """Its temporary folder."""
        return next(self._temporary.glob("newsletter-demo-*"))

    def told(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def wait_for(self, text: str) -> str:
        """What it said, once that holds `text`."""
        wait_until(lambda: text in self.told() or self._process.poll() is not None)
        assert text in self.told(), self.told()
        return self.told()

    def end(self, number: int) -> int:
        """Its exit code after a signal."""
        self._process.send_signal(number)
        return self._process.wait(timeout=20)


def wait_until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found
