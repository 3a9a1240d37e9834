"""`newsletter stop`, `newsletter start`, `newsletter db upgrade`."""

from __future__ import annotations

from typing import Annotated

import typer

from newsletter.cli.session import opened_app

database = typer.Typer(help="The database.", no_args_is_help=True, rich_markup_mode=None)


def stop() -> None:
    """Stop all sending, within two seconds. The site goes on; nothing due is lost."""
    with opened_app() as app:
        app.overseeing.stop(now=app.clock.now())
    typer.echo("Sending is stopped. Only what is in its handover can still leave. `newsletter start` lets it go on.")


def start(
    destinations: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DESTINATION]...", help="Domains that refused us, or relay, as `status` shows them."),
    ] = None,
) -> None:
    """Let sending go on after `newsletter stop`, or to destinations that it is kept back from."""
    with opened_app() as app:
        if not destinations:
            app.overseeing.start(now=app.clock.now())
        for name in destinations or []:
            app.pacing.forgive(name.lower(), now=app.clock.now())
    typer.echo(f"Sending goes on{' to ' + ', '.join(destinations) if destinations else ''}.")


@database.command("upgrade")
def upgrade() -> None:
    """Bring the database to this program's version."""
    with opened_app(check=False) as app:
        done = app.database.upgrade()
        done = app.waking.upgrade() or done
    typer.echo("The database is up to date." if not done else "The database was upgraded.")
