"""`newsletter publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from newsletter.cli.session import note, opened_app, print_json

if TYPE_CHECKING:
    from newsletter.service.publishing import Publication, SequenceEffect, StepEffect


def publish(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    deliver_late: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP", help="Send a new step even to readers who are past it; repeatable, or `all`."),
    ] = None,
    retire: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Take back a sequence although it has readers.")
    ] = None,
    content: Annotated[Path | None, typer.Option(metavar="DIR", help="Instead of NEWSLETTER_CONTENT_DIR.")] = None,
    note_text: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why, for the history.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a script.")] = False,
) -> None:
    """Make the content folder live, for every worker at once, and say what that does to people."""
    with opened_app() as app:
        from newsletter.service.publishing import Orders

        orders = Orders(deliver_late=tuple(deliver_late or ()), retire=tuple(retire or ()), note=note_text)
        folder = content or app.content_dir
        act = app.publishing.preview if dry_run else app.publishing.publish
        publication = act(folder, orders=orders, now=app.clock.now())
    # What was warned of when it went live needs no second warning.
    for warning in () if publication.unchanged else publication.warnings:
        note(f"Warning: {warning}")
    if as_json:
        print_json(_as_plain(publication, dry_run=dry_run))
    else:
        own = content or app.settings.content_dir
        note(
            f"Read {folder}" + ("." if own else ", which comes with the program; NEWSLETTER_CONTENT_DIR names another.")
        )
        for line in _lines(publication, dry_run=dry_run):
            typer.echo(line)


def _lines(publication: Publication, *, dry_run: bool) -> list[str]:
    if publication.unchanged:
        return [f"Nothing has changed: revision {publication.number} is live."]
    lines = []
    for effect in publication.sequences:
        lines.append(f"{effect.key}: {effect.change or 'changed'}, {_people(effect.readers)}")
        lines += [f"  {_about(step, effect)}" for step in effect.steps]
    lines += [f"{name}: changed" for name in publication.library]
    if dry_run:
        lines.append(f"This would be revision {publication.number}. Nothing was changed.")
    else:
        moved = "1 subscription" if publication.retimed == 1 else f"{publication.retimed} subscriptions"
        lines.append(f"Revision {publication.number} is live. Re-timing is done: {moved} moved.")
    return lines


def _about(step: StepEffect, effect: SequenceEffect) -> str:
    from newsletter.domain.editing import Change

    what = ", ".join(step.change.changes) or "unchanged"
    line = f"{step.change.key}: {what}"
    if not effect.readers:
        return line
    past, ahead = step.people_past, step.people_ahead
    if Change.NEW in step.change.changes or step.late:
        if step.late:
            behind = f"{_persons(past)} past this step and {'gets' if past == 1 else 'get'} it late, at the next slot"
        else:
            behind = f"{_persons(past)} past this step and will not get it"
        return f"{line}; {_count(ahead, 'get')} it in turn; {behind}"
    if Change.REMOVED in step.change.changes:
        return f"{line}; {_persons(ahead)} before it and will not get it"
    return f"{line}; {_persons(ahead)} before it, {_persons(past)} past it"


def _persons(number: int) -> str:
    return "1 person is" if number == 1 else f"{number} people are"


def _count(number: int, verb: str) -> str:
    return f"1 {verb}s" if number == 1 else f"{number} {verb}"


def _people(number: int) -> str:
    return "1 reader" if number == 1 else f"{number} readers"


def _as_plain(publication: Publication, *, dry_run: bool) -> dict[str, object]:
    return {
        "revision": publication.number,
        "unchanged": publication.unchanged,
        "dry_run": dry_run,
        "retimed": publication.retimed,
        "library": list(publication.library),
        "warnings": [str(warning) for warning in publication.warnings],
        "sequences": [
            {
                "key": effect.key,
                "change": effect.change,
                "readers": effect.readers,
                "steps": [
                    {
                        "key": step.change.key,
                        "changes": list(step.change.changes),
                        "people_past": step.people_past,
                        "people_ahead": step.people_ahead,
                        "deliver_late": step.late,
                    }
                    for step in effect.steps
                ],
            }
            for effect in publication.sequences
        ],
    }
