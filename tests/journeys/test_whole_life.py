"""The main job from form to silence, driven from outside: HTTP, SMTP, the command line, a clock that is moved."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from newsletter.bootstrap import open_app, publish_first
from newsletter.clock import FileClock
from newsletter.domain.cadence import local_week
from newsletter.scheduler import drain
from newsletter.service.subscribing import SignUp
from newsletter.settings import load_settings
from newsletter.store import subscriptions
from tests.journeys.books import Books, repeated
from tests.journeys.conftest import OpenBooks, OpenProgram
from tests.journeys.reading import forms_in, link, part, read
from tests.support.program import SECRET_KEY, Program, Running, Site
from tests.support.smtp_server import SmtpServer

ADDRESS = "maria@example.org"
BERLIN = ZoneInfo("Europe/Berlin")
BEGINS = datetime(2026, 9, 23, 9, 0, tzinfo=UTC)  # a Wednesday
CLOCK_CHANGE = date(2026, 10, 25)
NOTES = 2
A_MOMENT = timedelta(seconds=20)
A_WHILE_SECONDS = 3.0
"""Longer than the scheduler takes from an instant to a letter."""


@dataclass
class Life:
    """One reader's life, and the two ways to let the letters leave: `run` all the time, or `worker --drain`."""

    program: Program
    server: SmtpServer
    weekday: str
    at: str
    first_day: date
    always_on: bool
    books: Books
    site: Site
    running: Running | None
    subjects: dict[str, list[str]] = field(default_factory=dict)

    def slot(self, week: int) -> datetime:
        """The instant of the slot in the given week of the letters, counted from 0."""
        hour, minute = map(int, self.at.split(":"))
        day = self.first_day + timedelta(weeks=week)
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=BERLIN).astimezone(UTC)

    def let_leave(self, letters: int, *, at: datetime) -> None:
        """Move the clock; so many letters must have left altogether, and none beyond."""
        before = len(self.letters)
        self.program.set_clock(at)
        if self.running is None:
            self.program.drain()
        elif letters > before:
            # Recorded, not only received: what is recorded after the clock was moved belongs to the new instant.
            self.running.wait_for(lambda: len(self.books.deliveries(state="sent")) >= letters, seconds=30)
        else:
            time.sleep(A_WHILE_SECONDS)
        assert len(self.letters) == letters, f"at {at}"

    @property
    def letters(self) -> list[int]:
        """Where in the mail server's ledger this reader's letters are."""
        return [
            index
            for index, received in enumerate(self.server.ledger)
            if b"\nList-Unsubscribe:" in received.content and received.recipient == ADDRESS
        ]

    def stop_serving(self) -> None:
        """From here on `worker --drain` does it."""
        assert self.running is not None
        assert self.running.terminate() == 0
        self.running = None


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def life(
    request: pytest.FixtureRequest, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
) -> Life:
    """A fresh database, and the site up: SQLite with a slot inside the hour that comes twice, PostgreSQL without."""
    is_sqlite = request.param == "sqlite"
    program = open_program(request.getfixturevalue(f"{request.param}_url"), timezone="Europe/Berlin")
    program.set_clock(BEGINS)
    site, running = program.serve()
    return Life(
        program=program,
        server=smtp_server,
        weekday="sun" if is_sqlite else "thu",
        at="02:30" if is_sqlite else "08:00",
        first_day=date(2026, 9, 27) if is_sqlite else date(2026, 9, 24),
        always_on=is_sqlite,
        books=open_books(program),
        site=site,
        running=running,
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_from_the_form_to_silence(life: Life):
    """Form, confirmation, button, nine letters in nine local weeks over a clock change, notes, one click, silence."""
    fill_in_the_form(life)
    confirm_by_the_button(life)
    if not life.always_on:
        life.stop_serving()
    for key in ("trust", "weekly-encouragement"):
        shown = life.program.json("sequences", "show", key)
        life.subjects[key] = [letter["subject"] for letter in shown["letters"]]
    assert len(life.subjects["trust"]) == 9

    for week in range(9 + NOTES):
        receive_the_letter_of(life, week)
        if week == 3:
            the_program_tells_the_truth_half_way(life)
    look_at_the_letters(life)
    the_program_tells_the_truth_at_the_end(life)
    leave_with_one_click(life)
    for week in (9 + NOTES, 9 + NOTES + 1, 9 + NOTES + 5):
        life.let_leave(9 + NOTES, at=life.slot(week) + A_MOMENT)
    assert len(life.server.ledger) == 1 + 9 + NOTES
    if life.running is not None:
        assert life.running.terminate() == 0


def fill_in_the_form(life: Life) -> None:
    """What a browser does without any script: open the page, fill in its form, send it."""
    page = life.site.get("/")
    assert page.status == 200
    [form] = forms_in(page.text)
    assert (form.method, form.action) == ("post", "/subscribe")
    assert form.fields["sequence"] == "trust"
    chosen = {
        "email": ADDRESS,
        "weekday": life.weekday,
        "time": life.at,
        "timezone": "Europe/Berlin",
        "country": "GB",
    }
    assert chosen.keys() <= form.fields.keys()
    sent = life.site.post("/subscribe", **{**form.fields, **chosen})
    asked_at = time.monotonic()
    assert sent.status == 200
    assert ADDRESS in sent.text
    life.server.wait_for(lambda server: server.ledger, seconds=20)
    assert life.server.ledger[0].monotonic - asked_at < 10
    assert life.server.ledger[0].recipient == ADDRESS


def confirm_by_the_button(life: Life) -> None:
    """The mail is neutral; looking at its link changes nothing; its button begins the letters."""
    mail = read(life.server.ledger[0])
    assert mail["Subject"] == "Please confirm your address"
    assert "trust" not in (part(mail, "plain") + part(mail, "html")).lower()
    path = link(mail, "/confirm/")
    life.server.wait_for(lambda _server: life.books.count("sent") == 1)
    before = life.books.everything()
    for _ in range(3):
        page = life.site.get(path)
        assert page.status == 200
        assert life.site.request("HEAD", path).status == 200
    assert life.books.everything() == before
    [form] = forms_in(page.text)
    assert form.buttons == [("start", "now"), ("start", "slot")]
    answer = life.site.post(form.action, start="slot")
    assert answer.status == 303
    own_page = life.site.get(answer.headers["location"])
    assert own_page.status == 200
    assert life.slot(0).isoformat() in own_page.text
    [trust] = life.program.json("subscribers", "show", ADDRESS)["subscriptions"]
    assert (trust["state"], instant(trust["next_due_at"])) == ("active", life.slot(0))


def receive_the_letter_of(life: Life, week: int) -> None:
    """Nothing before the slot, one letter at it, none at the hour that comes again."""
    slot = life.slot(week)
    changes = abs(slot.astimezone(BERLIN).date() - CLOCK_CHANGE) < timedelta(days=7)
    if changes or week == 0:
        life.let_leave(week, at=slot - timedelta(minutes=1))
    life.let_leave(week + 1, at=slot + A_MOMENT)
    if changes:
        life.let_leave(week + 1, at=slot + timedelta(hours=1) + A_MOMENT)


def the_program_tells_the_truth_half_way(life: Life) -> None:
    """After four letters: what `subscribers show`, `explain` and `status` say."""
    trust_keys = [letter["key"] for letter in life.program.json("sequences", "show", "trust")["letters"]]
    shown = life.program.json("subscribers", "show", ADDRESS)
    [trust] = shown["subscriptions"]
    assert (trust["state"], trust["last_step"], trust["received"]) == ("active", trust_keys[3], 4)
    assert instant(trust["next_due_at"]) == life.slot(4)
    letters = [item for item in shown["deliveries"] if item["kind"] == "letter"]
    assert [item["step"] for item in letters] == trust_keys[:4]
    assert {item["state"] for item in letters} == {"sent"}
    assert [instant(item["due_at"]) for item in letters] == [life.slot(week) for week in range(4)]
    said = life.program.do("explain", ADDRESS)
    assert trust_keys[4] in said
    assert f"{life.slot(4).astimezone(BERLIN):%a %-d %b %Y %H:%M} Europe/Berlin" in said
    status = life.program.json("status")
    assert status["subscriptions"]["active"] == 1
    assert (status["deliveries"]["sent"], status["due"], status["possibly_doubled"]) == (5, 0, 0)
    assert instant(status["next_due_at"]) == life.slot(4)
    assert status["workers"] == (1 if life.running else 0)


def look_at_the_letters(life: Life) -> None:
    """Subjects in order, the hour, the headers, both parts; one letter for each local week, no affirmation twice."""
    mails = [read(life.server.ledger[index]) for index in life.letters]
    wanted = life.subjects["trust"] + life.subjects["weekly-encouragement"][:NOTES]
    assert [mail["Subject"] for mail in mails] == wanted
    dates = [parsedate_to_datetime(mail["Date"]) for mail in mails]
    assert [f"{when.astimezone(BERLIN):%a %H:%M}".lower() for when in dates] == [f"{life.weekday} {life.at}"] * len(
        mails
    )
    weeks = [local_week(when, "Europe/Berlin") for when in dates]
    assert len(set(weeks)) == len(weeks)
    assert weeks == sorted(weeks)
    assert dates[-1] - dates[0] < timedelta(weeks=len(mails))
    assert not repeated(received.message_id for received in life.server.ledger)
    for number, mail in enumerate(mails, start=1):
        leave = f"{life.program.base_url}{link(mail, '/unsubscribe/')}"
        assert mail["List-Unsubscribe"].startswith(f"<{leave}>")
        assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["List-Id"] == "<letters.example.org>"
        assert mail["Feedback-ID"]
        assert mail["To"] == ADDRESS
        assert mail.get_content_type() == "multipart/alternative"
        assert [each.get_content_type() for each in mail.iter_parts()] == ["text/plain", "text/html"]
        for kind in ("plain", "html"):
            text = part(mail, kind)
            assert leave in text
            assert "{{" not in text
            assert ("of 9" in text) == (number <= 9)
    rows = life.books.deliveries()
    assert [row.sent_at for row in rows] == [life.slot(week) + A_MOMENT for week in range(9 + NOTES)]
    assert not repeated(row.affirmation for row in rows)


def the_program_tells_the_truth_at_the_end(life: Life) -> None:
    """The series is finished, the notes go on."""
    shown = life.program.json("subscribers", "show", ADDRESS)
    states = {item["sequence"]: (item["state"], item["received"]) for item in shown["subscriptions"]}
    assert states == {"trust": ("finished", 9), "weekly-encouragement": ("active", NOTES)}
    status = life.program.json("status")
    assert instant(status["next_due_at"]) == life.slot(9 + NOTES)
    assert status["deliveries"]["sent"] == 1 + 9 + NOTES


def leave_with_one_click(life: Life) -> None:
    """What a mail service posts on the reader's behalf; doing it twice is fine, and looking leaves nobody."""
    if life.running is None:
        life.site, life.running = life.program.serve()
    header = read(life.server.ledger[life.letters[-1]])["List-Unsubscribe"]
    path = header.strip("<>").removeprefix(life.program.base_url)
    before = life.books.everything()
    assert life.site.get(path).status == 200
    assert life.books.everything() == before
    for _ in range(2):
        answer = life.site.post(path, **{"List-Unsubscribe": "One-Click"})
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert "You are off the list" in answer.text
    if not life.always_on:
        life.stop_serving()
    shown = life.program.json("subscribers", "show", ADDRESS)
    assert {item["state"] for item in shown["subscriptions"]} == {"left"}
    assert "they left; nothing comes any more" in life.program.do("explain", ADDRESS)
    status = life.program.json("status")
    assert (status["next_due_at"], status["due"]) == (None, 0)


def instant(text: str) -> datetime:
    """An instant as the program prints it."""
    return datetime.fromisoformat(text)


# --- two years ------------------------------------------------------------------------------------

WEEKS = 104
READERS = {
    "berlin@example.org": ("sun 02:30", "Europe/Berlin"),  # an hour that comes twice, and is missing
    "cairo@example.org": ("fri 00:30", "Africa/Cairo"),  # midnight is missing
    "lord-howe@example.org": ("sun 01:45", "Australia/Lord_Howe"),  # half an hour comes twice
    "apia@example.org": ("mon 00:00", "Pacific/Apia"),  # the first minute of the week
    "new-york@example.org": ("sun 23:59", "America/New_York"),  # the last one
}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("engine", "readers"),
    [
        ("sqlite", list(READERS)[:2]),
        pytest.param("postgres", ["berlin@example.org"], marks=pytest.mark.postgres),
    ],
    ids=["sqlite", "postgres"],
)
def test_two_years_bring_one_letter_in_each_local_week(
    engine: str, readers: list[str], tmp_path: Path, smtp_server: SmtpServer, request: pytest.FixtureRequest
):
    """For 104 weeks, through both clock changes of each year and round after round, no week has none or two."""
    clock = FileClock(tmp_path / "clock")

    def move_to(now: datetime) -> None:
        clock.path.write_text(now.isoformat(), encoding="utf-8")

    move_to(BEGINS)
    app = open_app(
        load_settings(
            env_file=tmp_path / "none",
            database_url=request.getfixturevalue(f"{engine}_url"),
            mail_url=smtp_server.url,
            clock=clock.path,
            secret_key=[SECRET_KEY],
            smtp_connections=2,
        )
    )
    request.addfinalizer(app.close)
    app.database.upgrade()
    publish_first(app)
    for address in readers:
        slot, zone = READERS[address]
        weekday, at = slot.split()
        app.subscribing.add(
            SignUp(email=address, sequence="trust", weekday=weekday, time=at, timezone=zone),
            consent="a test, 2026-09-21",
            now=BEGINS,
        )
    ends = BEGINS + timedelta(weeks=WEEKS)
    while True:
        with app.database.read() as connection:
            due = subscriptions.earliest_due(connection)
        assert due is not None
        if due >= ends:
            break
        move_to(due + A_MOMENT)
        assert drain(app)

    for address in readers:
        slot, zone = READERS[address]
        mails = [read(received) for received in smtp_server.ledger if received.recipient == address]
        dates = [parsedate_to_datetime(mail["Date"]) for mail in mails]
        weeks = [local_week(when, zone) for when in dates]
        whole = weeks_between(weeks[0], weeks[-1])
        assert weeks == whole, address
        assert len(weeks) >= WEEKS - 1, address
        gaps = [later - earlier for earlier, later in pairwise(dates)]
        assert min(gaps) >= timedelta(days=6, hours=22), address
        assert len({mail["Subject"] for mail in mails}) == 9 + 12
        assert not repeated(mail["Message-ID"] for mail in mails)
        on_time = [f"{when.astimezone(ZoneInfo(zone)):%a %H:%M}".lower() == slot for when in dates]
        # Where the hour is missing, the offset before the gap applies, and it is another one.
        assert on_time.count(False) <= 2, address


def weeks_between(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Every ISO week from one to another."""
    monday = date.fromisocalendar(*first, 1)
    found = []
    while (week := (monday.isocalendar().year, monday.isocalendar().week)) <= last:
        found.append(week)
        monday += timedelta(weeks=1)
    return found
