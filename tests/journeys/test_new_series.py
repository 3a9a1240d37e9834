"""An operator adds a series by dropping a folder, on a running site; a mistake in it is explained, not thrown."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from newsletter.resources import content_dir
from tests.journeys.conftest import MONDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import write_content
from tests.journeys.reading import forms_in, link, part, read
from tests.support.smtp_server import SmtpServer

KEY = "small-steps"
SERIES = {
    "sequence.yaml": "title: Two letters on small steps\nstart: ask\non_finish: stop\n",
    "01-first.md": "---\nsubject: The first of two small steps\n---\nHello,\n\nOne step is enough for today.\n",
    "02-second.md": "---\nsubject: The second of two small steps\n---\nHello,\n\nAnd another one.\n",
}


def drop(content: Path, key: str = KEY, *, letters: int = 2) -> Path:
    """Put a new series into a content folder; its folder."""
    folder = content / "sequences" / key
    folder.mkdir()
    for name in list(SERIES)[: 1 + letters]:
        (folder / name).write_text(SERIES[name], encoding="utf-8")
    return folder


def test_a_dropped_folder_is_live_after_publish(
    sqlite_url: str, tmp_path: Path, open_program: OpenProgram, open_books: OpenBooks, smtp_server: SmtpServer
):
    """Nothing before `publish`; after it the running site offers the series, and a reader gets both letters."""
    content = tmp_path / "content"
    shutil.copytree(content_dir(), content)
    program = open_program(sqlite_url, content_dir=content)
    program.set_clock(MONDAY)
    site, _running = program.serve()
    books = open_books(program)
    drop(content)
    assert KEY not in site.get("/").text
    said = program.do("publish", "--note", "a second series")
    assert f"{KEY}: new, 0 readers" in said
    assert "Revision 2 is live" in said
    assert f'value="{KEY}"' in site.get("/").text

    [form] = forms_in(site.get("/").text)
    chosen = {"email": "new@example.org", "sequence": KEY, "weekday": "thu", "time": "08:00", "timezone": "UTC"}
    assert site.post("/subscribe", **{**form.fields, **chosen}).status == 200
    smtp_server.wait_for(lambda server: server.ledger, seconds=20)
    path = link(read(smtp_server.ledger[0]), "/confirm/")
    assert site.post(path, start="now").status == 303
    smtp_server.wait_for(lambda server: len(server.ledger) == 2, seconds=20)
    smtp_server.wait_for(lambda _server: books.count("sent") == 2)
    program.set_clock(MONDAY + timedelta(days=10))
    smtp_server.wait_for(lambda server: len(server.ledger) == 3, seconds=20)
    letters = [read(received) for received in smtp_server.ledger[1:]]
    assert [letter["Subject"] for letter in letters] == [
        "The first of two small steps",
        "The second of two small steps",
    ]
    assert "One step is enough for today." in part(letters[0], "plain")


FIRST = "01-first.md"
SETTINGS = "sequence.yaml"


@dataclass(frozen=True)
class Mistake:
    """A file with a mistake in it (None: it is missing), the line that must be named, and a word of the remedy."""

    file: str
    text: str | None
    line: int | None
    word: str


MISTAKES = {
    "unknown-variable": Mistake(FIRST, "---\nsubject: One\n---\nHello,\n\n{{ reader.nmae }}\n", 6, "nmae"),
    "broken-front-matter": Mistake(FIRST, "---\nsubject: [One\n---\nHello.\n", 2, "close the bracket"),
    "endless-front-matter": Mistake(FIRST, "---\nsubject: One\nHello.\n", None, "---"),
    "no-subject": Mistake(FIRST, "---\npreheader: One\n---\nHello.\n", None, "subject"),
    "misspelt-field": Mistake(FIRST, "---\nsubject: One\nafirmation: none\n---\nHello.\n", 3, "affirmation"),
    "field-twice": Mistake(SETTINGS, "title: One\ntitle: Two\n", 2, "title"),
    "no-such-post": Mistake(FIRST, "---\nsubject: One\nrelated: [lost]\n---\nHello.\n", 3, "lost"),
    "no-such-affirmation": Mistake(FIRST, "---\nsubject: One\naffirmation: lost\n---\nHello.\n", 3, "lost"),
    "endless-block": Mistake(FIRST, "---\nsubject: One\n---\n{% if letter.number == 1 %}\nHello.\n", 4, "endif"),
    "no-letters": Mistake(FIRST, None, None, "letter"),
    "no-such-successor": Mistake(SETTINGS, "on_finish: {continue_with: nothing}\n", 1, "nothing"),
}


def test_mistakes_are_explained_and_the_live_revision_stays(
    seeded_sqlite: SeededDatabase, tmp_path: Path, open_program: OpenProgram, open_books: OpenBooks
):
    """Every mistake is named at once, with file, line and remedy, and exit code 1; nothing is half published."""
    content = write_content(tmp_path / "content")
    program = open_program(seeded_sqlite(1), content_dir=content)
    program.set_clock(MONDAY)
    books = open_books(program)
    before = books.everything()
    for key, mistake in MISTAKES.items():
        folder = drop(content, key, letters=1)
        if mistake.text is None:
            (folder / mistake.file).unlink()
        else:
            (folder / mistake.file).write_text(mistake.text, encoding="utf-8")
    finished = program.command("publish")
    assert finished.code == 1
    assert "Traceback" not in finished.err
    lines = finished.problem.splitlines()
    unexplained = [key for key, mistake in MISTAKES.items() if not any(tells(line, key, mistake) for line in lines)]
    assert unexplained == [], finished.problem
    # And nothing else is said to be wrong.
    assert {line.split("/")[1].split(":")[0] for line in lines} == set(MISTAKES)
    assert books.everything() == before


def tells(line: str, key: str, mistake: Mistake) -> bool:
    """Whether a line of the answer names this mistake."""
    where = f"sequences/{key}"
    if mistake.text is not None:
        where += f"/{mistake.file}"
    if mistake.line is not None:
        where += f":{mistake.line}:"
    return line.startswith(where) and mistake.word in line


@pytest.mark.covered
@pytest.mark.parametrize("orders", [("--retire", "three"), ()], ids=["named", "not named"])
def test_a_series_with_readers_is_taken_back_only_by_name(
    orders: tuple[str, ...], seeded_sqlite: SeededDatabase, tmp_path: Path, open_program: OpenProgram
):
    """A folder that is missing by mistake takes nobody's letters away."""
    content = write_content(tmp_path / "content")
    program = open_program(seeded_sqlite(3), content_dir=content)
    shutil.rmtree(content / "sequences" / "three")
    finished = program.command("publish", *orders)
    assert finished.code == (0 if orders else 1)
    if not orders:
        [line] = finished.problem.splitlines()
        assert "--retire three" in line
    states = {item["state"] for row in program.json("subscribers", "list") for item in row["subscriptions"]}
    assert states == ({"finished"} if orders else {"active"})
