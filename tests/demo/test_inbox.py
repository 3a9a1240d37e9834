"""The inbox shows what arrived, shut in, and runs nothing."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from starlette.testclient import TestClient

from newsletter.demo import inbox as inbox_room
from newsletter.demo.expectations import Expectation, Key, Ledger
from newsletter.demo.inbox import Scene, create_demo_app
from newsletter.demo.mailbox import Mailbox
from newsletter.demo.telling import Chronicle, Kind
from newsletter.scheduler import drain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from newsletter.bootstrap import App
    from newsletter.clock import FixedClock

STRANGE = b"""From: "<b>Ann</b>" <letters@example.org>\r
To: somebody@example.org\r
Subject: <script>alert(1)</script>\r
Date: Mon, 23 Nov 2026 12:00:00 +0000\r
Message-ID: <1@example.org>\r
Content-Type: text/plain; charset=utf-8\r
\r
Only text.\r
"""


@pytest.fixture
def scene(app: App, clock: FixedClock, tmp_path: Path) -> Scene:
    """The demo in the middle of its story."""
    expectations = (Expectation(key=Key.WEEKLY, text="One letter a week"),)
    return Scene(
        mailbox=Mailbox(tmp_path / "mail"),
        chronicle=Chronicle(clock=clock, timezone="Europe/Dublin", console=Console(quiet=True)),
        ledger=Ledger(expectations, weeks=1, on_failure=lambda _: None),
        timezone="Europe/Dublin",
        place="Dublin",
        now=clock.now,
        state=lambda: "The clock stands.",
    )


@pytest.fixture
def client(app: App, scene: Scene) -> Iterator[TestClient]:
    """A browser on the demo's site."""
    with TestClient(create_demo_app(app, scene)) as client:
        yield client


@pytest.fixture
def letter(app: App, clock: FixedClock, reader: object) -> None:
    """One letter has arrived."""
    clock.set(clock.now() + timedelta(days=2, hours=20))
    drain(app)


def test_an_empty_inbox_says_so_and_shows_the_clock(client: TestClient) -> None:
    page = client.get("/inbox").text
    assert "Nothing has arrived yet" in page
    assert "Monday 23 November 2026, 12:00" in page
    assert "The clock stands." in page


def test_it_refreshes_itself_without_a_script(client: TestClient) -> None:
    answer = client.get("/inbox")
    assert '<meta http-equiv="refresh" content="2">' in answer.text
    assert "<script" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.usefixtures("letter")
def test_a_mail_stands_with_its_demo_date_sender_and_subject(client: TestClient) -> None:
    page = " ".join(client.get("/inbox").text.split())
    assert "1 mail so far" in page
    assert "Thu 26 Nov 2026 08:00" in page
    assert "Weekly letters &lt;letters@example.org&gt; to somebody@example.org" in page
    assert "A letter about very little, 1" in page


@pytest.mark.usefixtures("letter")
def test_a_mail_opens_with_html_text_and_headers(client: TestClient) -> None:
    answer = client.get("/inbox/1")
    assert re.search(r'<iframe[^>]*src="/inbox/1/html"\s*sandbox="allow-popups ', answer.text)
    assert "allow-scripts" not in answer.text
    assert "This is all." in answer.text
    assert "List-Unsubscribe=One-Click" in answer.text
    assert "http-equiv" not in answer.text
    assert "frame-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.usefixtures("letter")
def test_the_html_of_a_mail_may_do_nothing_but_look_right(client: TestClient) -> None:
    answer = client.get("/inbox/1/html")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert policy["sandbox"] == "allow-popups allow-popups-to-escape-sandbox"
    assert not {"script-src", "img-src", "connect-src"} & set(policy)
    assert "This is all." in answer.text
    assert answer.text.count('<base target="_blank">') == 1


@pytest.mark.usefixtures("letter")
def test_the_source_is_every_byte_that_was_handed_over(client: TestClient, tmp_path: Path) -> None:
    [file] = (tmp_path / "mail" / "new").iterdir()
    answer = client.get("/inbox/1/source")
    assert answer.content == file.read_bytes()
    assert answer.headers["content-type"].startswith("text/plain")


def test_what_a_mail_says_is_shown_and_never_run(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "mail" / "new").mkdir(parents=True)
    (tmp_path / "mail" / "new" / "1.strange").write_bytes(STRANGE)
    for page in (client.get("/inbox").text, client.get("/inbox/1").text):
        assert "&lt;script&gt;alert(1)" in page
        assert "<script" not in page
        assert "<b>Ann" not in page
    assert "This mail has no HTML part" in client.get("/inbox/1").text
    assert "Only text." in client.get("/inbox/1").text
    assert client.get("/inbox/1/html").status_code == 404


@pytest.mark.parametrize("path", ["/inbox/0", "/inbox/2", "/inbox/2/html", "/inbox/2/source", "/inbox/x"])
def test_a_mail_that_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_inbox_only_shows(client: TestClient) -> None:
    assert client.post("/inbox").status_code == 404  # as on the site behind it
    assert client.head("/inbox").content == b""


def test_the_story_so_far_stands_beside_it_the_newest_first(client: TestClient, scene: Scene) -> None:
    scene.chronicle.tell(Kind.READER, "Maria <asks>")
    scene.chronicle.tell(Kind.CLOCK, "Nothing comes")
    page = client.get("/inbox").text
    assert page.index("Nothing comes") < page.index("Maria &lt;asks&gt;")


def test_what_happened_is_shown_at_the_end(client: TestClient, scene: Scene) -> None:
    scene.ledger.see(Key.WEEKLY, True, "one, as it should be")
    assert "one, as it should be" not in client.get("/inbox").text
    scene.ledger.complete()
    page = client.get("/inbox").text
    assert "one, as it should be" in page
    assert "Every expectation of the story held" in page


def test_a_long_inbox_shows_the_newest_and_counts_the_rest(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_room, "MOST_MAILS", 2)
    (tmp_path / "mail" / "new").mkdir(parents=True)
    for number in range(1, 4):
        source = STRANGE.replace(b"<script>alert(1)</script>", b"Mail %d" % number)
        (tmp_path / "mail" / "new" / f"{number}.mail").write_bytes(source)
    page = " ".join(client.get("/inbox").text.split())
    assert "3 mails so far" in page
    assert "And 1 older." in page
    assert page.index("Mail 3") < page.index("Mail 2")
    assert "Mail 1<" not in page


def test_the_real_site_stands_beside_it_as_it_is(client: TestClient) -> None:
    assert "Ask for the letters" in client.get("/").text
    refused = client.get("/subscribe")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST, OPTIONS"
    assert client.get("/nothing").status_code == 404
    assert "This link does not open anything" in client.get("/confirm/forged").text


def test_a_fault_of_the_inbox_itself_is_a_plain_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Mailbox) -> None:
        raise OSError

    monkeypatch.setattr(Mailbox, "mails", broken)
    answer = client.get("/inbox")
    assert answer.status_code == 500
    assert answer.text == "Something went wrong in the demo.\n"
