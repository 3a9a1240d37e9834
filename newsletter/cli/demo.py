"""`newsletter demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from newsletter.cli.session import fail
from newsletter.errors import NewsletterError


def demo(
    weeks: Annotated[int | None, typer.Option(min=1, help="Local weeks to play; the whole story by default.")] = None,
    week_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds that a week takes.")] = 2.0,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the site; 8000 or a free one.")] = None,
    exit_: Annotated[
        bool, typer.Option("--exit", help="End by itself; exit code 0 only if every expectation held.")
    ] = False,
) -> None:
    """Show the whole life of a subscriber in about a minute, with a local inbox in the browser."""
    from newsletter.demo import run_demo

    try:
        code = run_demo(weeks=weeks, week_seconds=week_seconds, port=port, exit_when_done=exit_)
    except NewsletterError as error:
        fail(str(error))
    raise typer.Exit(code)
