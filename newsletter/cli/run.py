"""`newsletter run`, `newsletter worker`: the main job."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from newsletter.cli.session import Parent, Processes, fail, note, opened_app, run_processes, sending, wait_for
from newsletter.errors import ContentErrors, PublishRefused, SettingsError

if TYPE_CHECKING:
    from newsletter.bootstrap import App


def run(
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 8000,
) -> None:
    """Serve the site and send what is due, in one process. A fresh database is migrated and published to."""
    with opened_app(check=False, log_all=True) as app:
        from newsletter.bootstrap import ask_mail_route, prepare_to_send
        from newsletter.scheduler import Scheduler
        from newsletter.settings import is_loopback
        from newsletter.web.app import create_app
        from newsletter.web.server import SiteThread

        faults = app.settings.faults_when_serving(host)
        if faults:
            raise SettingsError("\n".join(faults))
        app.database.upgrade()
        prepare_to_send(app)
        ask_mail_route(app)
        _publish_first(app)
        server = SiteThread(create_app(app), host=host, port=port)
        scheduler = Scheduler(app)
        with sending(app) as stop:
            server.start()
            try:
                scheduler.start()
                note(f"Serving on http://{host}:{port}. Ctrl-C ends it.")
                if (urlsplit(app.settings.base_url).port or port) != port and is_loopback(host):
                    note(
                        f"Warning: links in mails lead to {app.settings.base_url};"
                        f" set NEWSLETTER_BASE_URL=http://{host}:{port} if this is where readers are."
                    )
                while not stop.wait(1.0):
                    if not server.is_alive():
                        fail("The site has ended unexpectedly; see the log.")
            finally:
                server.stop()
                scheduler.shut_down()


def worker(
    drain: Annotated[bool, typer.Option("--drain", help="Send until nothing is due, then end.")] = False,
    processes: Processes = 1,
    parent: Parent = None,
) -> None:
    """Send what is due, for ever. SIGTERM: the letter in hand is finished, the rest given back."""
    with opened_app(log_all=True, parent=parent) as app:
        from newsletter.bootstrap import ask_mail_route, prepare_to_send

        prepare_to_send(app, is_child=parent is not None)
        if parent is None:
            ask_mail_route(app)
        if drain and app.office.is_stopped():
            fail("Sending is stopped; `newsletter start` lets it go on.")
        if processes > 1:
            run_processes(app, ["worker", *(["--drain"] if drain else [])], processes, for_ever=not drain)
            return
        with sending(app, parent) as stop:
            if drain:
                _drain(app, stop)
            else:
                _work(app, stop)


def _work(app: App, stop: Event) -> None:
    from newsletter.scheduler import Scheduler

    scheduler = Scheduler(app)
    scheduler.start()
    try:
        wait_for(stop)
    finally:
        scheduler.shut_down()


def _drain(app: App, stop: Event) -> None:
    from newsletter.scheduler import drain

    is_drained = drain(app, stop=stop)
    if not is_drained:
        app.database.soundness.refuse()
        if is_drained is None:
            fail("It was told to end before all was sent. What was not sent waits for the next run.")
        due = app.office.count_due(now=app.clock.now())
        if due == 0:
            fail("Letters wait for their turn at a domain, and none left for a minute. `newsletter status` says more.")
        fail(f"{due} due emails could not be sent: nothing was accepted for a minute. The lines above say why.")


def _publish_first(app: App) -> None:
    from newsletter.bootstrap import publish_first

    try:
        number = publish_first(app)
    except (ContentErrors, PublishRefused) as error:
        note(f"{error}\nNothing is published yet: mend this, then run `newsletter publish`.")
    else:
        if number is not None:
            note(f"Published {app.content_dir} as revision {number}.")
