"""`newsletter cluster worker`: a host of a fleet."""

from __future__ import annotations

import typer

from newsletter.cli.session import Parent, Processes, opened_app, run_processes, stopping

app = typer.Typer(help="A fleet of hosts on one PostgreSQL.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _cluster() -> None:
    pass


@app.command("worker")
def worker(processes: Processes = 1, parent: Parent = None) -> None:
    """Send with the other hosts of a fleet, for ever. SIGTERM: the letter in hand is finished, the rest given back."""
    with opened_app(log_all=True) as wired:
        from newsletter.bootstrap import examine, prepare_to_send

        prepare_to_send(wired)
        wired.waking.prepare()
        if parent is None:
            examine(wired)
        if processes == 1:
            from newsletter.cluster import Cluster

            with stopping(parent) as stop:
                Cluster(wired, stop=stop).run()
            return
    run_processes(["cluster", "worker"], processes, for_ever=True)
