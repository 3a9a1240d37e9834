"""`newsletter stop`, `newsletter start`, `newsletter db upgrade`."""

from __future__ import annotations

import typer

from newsletter.cli.session import opened_app

database = typer.Typer(help="The database.", no_args_is_help=True)


def stop() -> None:
    """Stop all sending, within two seconds. The site goes on; nothing due is lost."""
    with opened_app() as app:
        app.overseeing.stop(now=app.clock.now())
    typer.echo("Sending is stopped. Only what is in its handover can still leave. `newsletter start` lets it go on.")


def start() -> None:
    """Let sending go on after `newsletter stop`."""
    with opened_app() as app:
        app.overseeing.start(now=app.clock.now())
    typer.echo("Sending goes on.")


@database.command("upgrade")
def upgrade() -> None:
    """Bring the database to this program's version."""
    with opened_app(check=False) as app:
        done = app.database.upgrade()
        done = app.waking.upgrade() or done
    typer.echo("The database is up to date." if not done else "The database was upgraded.")
