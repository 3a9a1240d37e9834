"""The command line: one module a noun. Heavy modules are imported inside commands, so that `--help` is quick."""

from __future__ import annotations

import sys

import typer

from newsletter import __version__
from newsletter.cli import cluster, control, deliveries, demo, publish, report, run, sequences, subscribers
from newsletter.errors import NewsletterError

app = typer.Typer(
    name="newsletter",
    help="A letter a week, at the hour each reader chose, and never a broken promise.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes around a help text take longer than the text
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("worker")(run.worker)
app.add_typer(cluster.app, name="cluster")
app.command("publish")(publish.publish)
app.add_typer(sequences.app, name="sequences")
app.command("preview")(sequences.preview)
app.add_typer(subscribers.app, name="subscribers")
app.command("explain")(report.explain)
app.add_typer(deliveries.app, name="deliveries")
app.command("status")(report.status)
app.command("stop")(control.stop)
app.command("start")(control.start)
app.add_typer(control.database, name="db")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"newsletter {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: bool = typer.Option(
        False,
        "--version",
        callback=_show_version,
        is_eager=True,
        help="Show the version and exit.",
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage."""
    try:
        app()
    except NewsletterError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
