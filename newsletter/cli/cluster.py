"""`newsletter cluster worker`: a host of a fleet."""

from __future__ import annotations

import typer

from newsletter.cli.session import Parent, Processes, opened_app, run_processes, sending

app = typer.Typer(help="A fleet of hosts on one PostgreSQL.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _cluster() -> None:
    pass


@app.command("worker")
def worker(processes: Processes = 1, parent: Parent = None) -> None:
    """Send with the other hosts of a fleet, for ever. SIGTERM: the letter in hand is finished, the rest given back."""
    with opened_app(log_all=True, parent=parent) as wired:
        from newsletter.bootstrap import ask_mail_route, prepare_to_send

        prepare_to_send(wired, is_child=parent is not None)
        wired.waking.prepare()
        if parent is None:
            ask_mail_route(wired)
        if processes > 1:
            run_processes(wired, ["cluster", "worker"], processes, for_ever=True)
            return
        from newsletter.cluster import Cluster

        with sending(wired, parent) as stop:
            Cluster(wired, stop=stop).run()
