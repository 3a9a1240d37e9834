"""`newsletter deliveries …`: held and uncertain ones."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from newsletter.cli.session import console, opened_app, print_json

app = typer.Typer(
    help="Emails that an operator has to look at: held and uncertain ones.", no_args_is_help=True, rich_markup_mode=None
)

_Ids = Annotated[list[UUID] | None, typer.Argument(metavar="[ID]...", help="As `deliveries list` shows them.")]


@app.command("list")
def list_deliveries(
    limit: Annotated[int, typer.Option(min=1, help="At most so many of each.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="For a script.")] = False,
) -> None:
    """What is held or uncertain, and why."""
    with opened_app() as newsletter:
        from newsletter.store import reports

        with newsletter.database.read() as connection:
            items = reports.list_stopped(connection, limit=limit)
    if as_json:
        print_json(
            [
                {
                    "id": str(item.id),
                    "state": item.state.value,
                    "kind": item.kind.value,
                    "address": address,
                    "sequence": item.sequence_key,
                    "step": item.step,
                    "due_at": item.due_at,
                    "possibly_doubled": item.doubts > 0,
                    "counts_as_received": item.received,
                    "message_id": item.message_id,
                    "reason": item.reason,
                    "reply_code": item.reply_code,
                    "reply_text": item.reply_text,
                }
                for item, address in items
            ]
        )
        return
    if not items:
        typer.echo("Nothing is held or uncertain.")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("id", "state", "address", "what", "why"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "id")
    for item, address in items:
        what = f"{item.sequence_key}/{item.step}" if item.step else item.kind.value
        table.add_row(str(item.id), item.state.value, address, what, item.reason or "")
    console().print(table)
    typer.echo("release: try again what is held. settle ID --arrived or --lost: write down what you found out.")


@app.command("release")
def release(
    ids: _Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Everything held whose reader waits.")] = False,
) -> None:
    """Let held emails be tried again."""
    if every == bool(ids):
        raise typer.BadParameter("Name some ids, or say --all.")
    with opened_app() as newsletter:
        count = newsletter.overseeing.release(None if every else ids, now=newsletter.clock.now())
    typer.echo(f"{count} released.")


@app.command("settle")
def settle(
    identifier: Annotated[UUID, typer.Argument(metavar="ID", help="As `deliveries list` shows it.")],
    arrived: Annotated[
        bool | None,
        typer.Option("--arrived/--lost", help="It arrived; or it never will, and the reader gets the step again."),
    ] = None,
) -> None:
    """Write down what you found out about a held or uncertain email."""
    if arrived is None:
        raise typer.BadParameter("Say --arrived or --lost.")
    with opened_app() as newsletter:
        newsletter.overseeing.settle(identifier, arrived=arrived, now=newsletter.clock.now())
    typer.echo("Settled: it arrived." if arrived else "Settled: it is lost.")
