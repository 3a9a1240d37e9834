"""`newsletter sequences …` and `newsletter preview`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from newsletter.cli.session import console, fail, opened_app, print_json

if TYPE_CHECKING:
    from newsletter.bootstrap import App
    from newsletter.domain.sequence import Revision, Sequence
    from newsletter.store.reports import SequenceCount

app = typer.Typer(help="The published sequences.", no_args_is_help=True, rich_markup_mode=None)

_AsJson = Annotated[bool, typer.Option("--json", help="For a script.")]


@app.command("list")
def list_sequences(as_json: _AsJson = False) -> None:
    """The live sequences and how many people are in each."""
    with opened_app() as newsletter:
        revision, number, counts = _live(newsletter)
    rows = [_summary(sequence, counts) for sequence in revision.sequences]
    if as_json:
        print_json({"revision": number, "sequences": rows})
        return
    from rich.table import Table

    table = Table(title=f"Revision {number}", title_justify="left", box=None, pad_edge=False)
    for heading in ("key", "title", "letters", "then", "active", "paused", "waiting", "finished", "left"):
        table.add_column(heading, justify="left" if heading in {"key", "title", "then"} else "right")
    for row in rows:
        states = row["subscriptions"]
        people = [str(states.get(state, 0)) for state in ("active", "paused", "waiting", "finished", "left")]
        table.add_row(str(row["key"]), str(row["title"]), str(row["steps"]), str(row["on_finish"]), *people)
    console().print(table)


@app.command("show")
def show(key: Annotated[str, typer.Argument(help="The sequence's key.")], as_json: _AsJson = False) -> None:
    """The steps of a live sequence, and how many people stand behind each."""
    with opened_app() as newsletter:
        revision, number, counts = _live(newsletter)
    sequence = _find(revision, key)
    behind = counts[key].behind if key in counts else {}
    steps = [
        {
            "key": step.key,
            "number": step.number,
            "subject": step.subject,
            "after_days": None if step.after is None else step.after / timedelta(days=1),
            "readers_behind": behind.get(step.identity, 0),
        }
        for step in sequence.steps
    ]
    if as_json:
        print_json({**_summary(sequence, counts), "revision": number, "letters": steps})
        return
    from rich.table import Table

    typer.echo(f"{sequence.title} ({key}), revision {number}; at the end: {_ending(sequence)}")
    typer.echo(f"Before the first letter: {behind.get(None, 0)}")
    table = Table(box=None, pad_edge=False)
    for heading in ("no.", "key", "subject", "after", "readers behind"):
        table.add_column(heading, justify="right" if heading in {"no.", "readers behind"} else "left")
    for step in steps:
        after = "" if step["after_days"] is None else f"{step['after_days']:g} days"
        table.add_row(str(step["number"]), str(step["key"]), str(step["subject"]), after, str(step["readers_behind"]))
    console().print(table)


def preview(
    what: Annotated[str, typer.Argument(metavar="KEY[/STEP]", help="A sequence, or one of its steps.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("preview"),
    content: Annotated[Path | None, typer.Option(metavar="DIR", help="Instead of NEWSLETTER_CONTENT_DIR.")] = None,
    country: Annotated[str | None, typer.Option(help="Whose help lines to show: a two-letter code.")] = None,
    discreet: Annotated[bool, typer.Option("--discreet", help="As a reader in discreet mode gets them.")] = False,
) -> None:
    """Write letters as .html, .txt and .eml, as a reader would get them, from the content folder as it is now."""
    key, _, wanted = what.partition("/")
    with opened_app() as newsletter:
        from newsletter.domain.sequence import FALLBACK_COUNTRY

        revision, _warnings = newsletter.publishing.read(
            content or newsletter.content_dir, today=newsletter.clock.now().date()
        )
        sequence = _find(revision, key)
        if wanted and wanted not in {step.key for step in sequence.steps}:
            fail(f"{key} has no step {wanted!r}. It has: {', '.join(step.key for step in sequence.steps)}")
        countries = sorted(set(revision.help_lines) - {FALLBACK_COUNTRY})
        if country is not None and country.upper() not in countries:
            fail(f"There are no help lines for {country!r}. There are for: {', '.join(countries)}")
        letters = newsletter.previewing.letters(
            revision, sequence, country=country and country.upper(), discreet=discreet, now=newsletter.clock.now()
        )
        written = [letter for letter in letters if wanted in ("", letter.step.key)]
        folder = out / key
        folder.mkdir(parents=True, exist_ok=True)
        for letter in written:
            stem = f"{letter.step.number:02d}-{letter.step.key}"
            (folder / f"{stem}.html").write_text(letter.rendered.html, encoding="utf-8")
            (folder / f"{stem}.txt").write_text(letter.rendered.text, encoding="utf-8")
            (folder / f"{stem}.eml").write_bytes(letter.message)
    typer.echo(f"Wrote {len(written)} letter{'' if len(written) == 1 else 's'} to {folder}")


def _live(newsletter: App) -> tuple[Revision, int, dict[str, SequenceCount]]:
    from newsletter.store import reports

    edition = newsletter.publishing.live()
    if edition is None:
        fail("Nothing is published yet. Run `newsletter publish`.")
    with newsletter.database.read() as connection:
        return edition.revision, edition.number, reports.sequence_counts(connection)


def _find(revision: Revision, key: str) -> Sequence:
    sequence = revision.sequence(key)
    if sequence is None:
        fail(f"There is no sequence {key!r}. There is: {', '.join(item.key for item in revision.sequences)}")
    return sequence


def _summary(sequence: Sequence, counts: dict[str, SequenceCount]) -> dict[str, Any]:
    return {
        "key": sequence.key,
        "title": sequence.title,
        "steps": len(sequence.steps),
        "on_finish": _ending(sequence),
        "sensitive": sequence.sensitive,
        "subscriptions": counts[sequence.key].states if sequence.key in counts else {},
    }


def _ending(sequence: Sequence) -> str:
    ending = sequence.on_finish
    return f"continue_with {ending.continue_with}" if ending.continue_with else ending.finish.value
