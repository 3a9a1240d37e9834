"""What every command does first and last: settings, a wired program, and one clear line when something fails."""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from newsletter.errors import DatabaseDamaged, NewsletterError

if TYPE_CHECKING:
    from rich.console import Console

    from newsletter.bootstrap import App
    from newsletter.settings import Settings

Processes = Annotated[int, typer.Option(min=1, help="So many processes on this machine.")]
Parent = Annotated[int | None, typer.Option(hidden=True, help="A pipe; the command ends when it is closed.")]
"""Given by a parent to the processes that it starts."""

_LOOK_UP_SECONDS = 0.5
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
_M_ARENA_MAX = -8  # malloc.h


def console(*, stderr: bool = False) -> Console:
    """Where tables and sentences go."""
    from rich.console import Console as RichConsole

    # What goes into a file or a pipe is not squeezed into eighty columns.
    found = RichConsole(stderr=stderr, highlight=False)
    return found if found.is_terminal else RichConsole(stderr=stderr, highlight=False, width=200)


def note(text: str) -> None:
    """A line for the person at the terminal, beside what a script reads."""
    sys.stderr.write(f"{text}\n")


def print_json(value: Any) -> None:  # noqa: ANN401  (whatever JSON holds)
    """`value` for a script: UTC instants in ISO 8601."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def read_settings() -> Settings:
    """The settings, with a warning for each variable that nothing reads."""
    from newsletter.settings import load_settings, unknown_settings

    settings = load_settings()
    for warning in unknown_settings():
        note(f"Warning: {warning}")
    return settings


@contextmanager
def opened_app(*, check: bool = True, log_all: bool = False, parent: int | None = None) -> Iterator[App]:
    """A wired program on a database that fits; a database that was never migrated is.

    Args:
        check: look whether the schema fits; the commands that upgrade it do so themselves.
        log_all: what goes well is logged too: for the commands that run for long.
        parent: says itself what keeps all its children from working.

    Faults become one line on standard error and exit code 1.
    """
    try:
        settings = read_settings()
        from newsletter.bootstrap import configure_logging, open_app

        configure_logging(json=settings.log_format == "json", log_all=log_all)
        if log_all:
            keep_one_heap()  # before there is another thread
        app = open_app(settings)
        try:
            if check and app.database.is_fresh():
                app.database.upgrade()
            if check:
                app.database.check()
            yield app
        finally:
            app.close()
    except NewsletterError as error:
        if parent is not None and isinstance(error, DatabaseDamaged):
            from newsletter.processes import GIVES_UP

            raise typer.Exit(GIVES_UP) from error
        fail(str(error))
    except BrokenPipeError:
        raise  # whoever read our output has had enough
    except OSError as error:
        fail(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.")


def fail(message: str) -> NoReturn:
    """End with one clear line and exit code 1."""
    note(message)
    raise typer.Exit(1)


@contextmanager
def stopping(parent: int | None = None) -> Iterator[Event]:
    """An event that SIGTERM, Ctrl-C and the end of a parent set, while it is held; for what goes on for long."""
    event = Event()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    if parent is not None:
        from newsletter.processes import end_with_parent

        end_with_parent(parent, event)
    try:
        with _seldom_collecting():
            yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_one_heap() -> None:
    """Let all threads take their memory from the same place, where the C library is glibc.

    It would give each of the first threads a heap of its own. Ours take turns, and what each of them leaves in its
    heap is no use to the others: a fifth of the memory of a worker on PostgreSQL.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Look for garbage in cycles less often, and not among what was made so far, which stays.

    There is hardly any: what a letter needs goes as soon as nothing refers to it. Looking for it all the same took a
    seventh of the time of sending.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def wait_for(stop: Event) -> None:
    """Wait until an event of `stopping` is set.

    The system may tell another thread of a signal, and then nothing would wake this one, which is the one that
    Python lets hear of it: so it looks up twice a second.
    """
    while not stop.wait(_LOOK_UP_SECONDS):
        pass


@contextmanager
def sending(app: App, parent: int | None = None) -> Iterator[Event]:
    """`stopping`, for what sends: a database that is found damaged sets the event, too, and is what it ends with.

    Raises:
        DatabaseDamaged: it was.
    """
    with stopping(parent) as stop:
        app.database.soundness.when_damaged(stop.set)
        yield stop
    app.database.soundness.refuse()


def run_processes(app: App, command: Sequence[str], number: int, *, for_ever: bool) -> None:
    """Run a command in so many processes; exit code 1 where one of them did not end well."""
    from newsletter.processes import GIVES_UP, run_children

    if not app.database.is_sqlite:
        app.close()  # the server counts connections, and this one has no work
    with sending(app) as stop:
        code = run_children(command, number=number, for_ever=for_ever, stop=stop)
    if code == GIVES_UP:
        raise app.database.soundness.damaged()
    if code != 0:
        fail("Not every process ended well. The lines above say why.")


def local(instant: datetime | None, timezone: str) -> str:
    """An instant as a person reads it: `Thu 26 Nov 2026 08:00 Europe/Berlin`."""
    if instant is None:
        return "-"
    from zoneinfo import ZoneInfo

    return f"{instant.astimezone(ZoneInfo(timezone)):%a %-d %b %Y %H:%M} {timezone}"


def describe_detail(detail: dict[str, Any], timezone: str) -> str:
    """What an event holds beside its name, its instants in a reader's own time."""
    said = {name: _in_words(value, timezone) for name, value in detail.items() if value is not None}
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in said.items())


def _in_words(value: Any, timezone: str) -> str:  # noqa: ANN401  (whatever JSON holds)
    if isinstance(value, str) and "T" in value:
        try:
            return local(datetime.fromisoformat(value), timezone)
        except ValueError:
            pass
    return str(value)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)
