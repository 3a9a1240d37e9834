"""The real program with one fault on purpose: it dies, stops or stumbles at a step that has a name.

    program.command("worker", faults=Faults(step="handed-after-commit"))     # SIGKILL by its own hand, code -9
    program.start("worker", faults=Faults(haste=20))                         # leases of three seconds

`python -m tests.support.failpoints WORDS…` is `newsletter WORDS…` after what the environment asks for was put in
place. Nothing in the package knows of it. A transaction is known by what its statements write, so that the steps
are there however the services are arranged; each of them has `-before-commit` and `-after-commit`:

    enrolled    a worker takes its lease                    published   a revision goes live
    planned     letters are written into the ledger         asked       somebody asked for letters
    claimed     a batch is taken                            confirmed   somebody pressed the mail's button
    handed      "handing over" is said of some              left        somebody unsubscribed
    accepted    "accepted" is said of some                  rescued     what a lost worker held is judged

Between transactions: `composed` (a letter is ready, nothing is said yet), `opened` (the mail server has greeted),
`before-bytes` and `answered` (on both sides of a letter's way over the wire). The mail server of the tests knows
the stages in between.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, ClassVar

TRANSACTIONS = ("enrolled", "planned", "claimed", "handed", "accepted", "rescued")
"""What a worker commits, in the order in which a letter meets it."""
FOR_PEOPLE = ("asked", "confirmed", "left", "published")
"""What is committed while somebody waits for the answer."""
MOMENTS = ("opened", "composed", "before-bytes", "answered")
STEPS = (
    *(f"{name}-{when}-commit" for name in (*TRANSACTIONS, *FOR_PEOPLE) for when in ("before", "after")),
    *MOMENTS,
)
ACTIONS = ("kill", "stop", "raise")
BREAKS = ("", "accepted-first", "never-in-doubt")
_PREFIX = "FAULTS_"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is to go wrong in one process.

    Attributes:
        step: one of `STEPS`, or empty for none.
        action: what happens there: SIGKILL, SIGSTOP, or the error of a database that went away.
        nth: at which passing of the step; it happens once.
        haste: leases are so many times as short.
        answer_haste: all waiting for mail servers is.
        batch: so many rows are claimed at a time, or as many as usual.
        breaks: how the promise is broken: "accepted" is recorded before the bytes leave, or a letter whose worker
            was lost in its handover is sent again as if nothing had been.
    """

    step: str = ""
    action: str = "kill"
    nth: int = 1
    haste: int = 1
    answer_haste: int = 1
    batch: int = 0
    breaks: str = ""
    known: ClassVar[dict[str, tuple[str, ...]]] = {"step": ("", *STEPS), "action": ACTIONS, "breaks": BREAKS}

    def __post_init__(self) -> None:
        for name, values in self.known.items():
            if getattr(self, name) not in values:
                message = f"No {name} {getattr(self, name)!r}: {', '.join(values)}."
                raise ValueError(message)

    def environment(self) -> dict[str, str]:
        """Itself as environment variables."""
        return {f"{_PREFIX}{field.name.upper()}": str(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Faults:
        """What `environment()` made."""
        values: dict[str, Any] = {
            field.name: environment[name]
            for field in fields(cls)
            if (name := f"{_PREFIX}{field.name.upper()}") in environment
        }
        for name in {"nth", "haste", "answer_haste", "batch"} & values.keys():
            values[name] = int(values[name])
        return cls(**values)


def are_asked_for(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment is to have a fault."""
    return any(name.startswith(_PREFIX) for name in environment)


class Failpoint:
    """Counts how often the step is passed, and strikes once."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._begins = threading.Lock()
        self._open: dict[int, int] = {}

    def begin(self, connection: int) -> None:
        """This thread begins a transaction on a connection, or takes one over."""
        with self._begins:
            self._open[connection] = threading.get_ident()

    def end(self, connection: int) -> None:
        """Its transaction has ended, if it had one."""
        self._open.pop(connection, None)

    def reach(self, step: str) -> None:
        """A thread is at this step."""
        with self._lock:
            self._passed[step] += 1
            struck = step == self._faults.step and self._passed[step] == self._faults.nth
        if not struck:
            return
        match self._faults.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                self._stop()
            case _:
                from sqlalchemy.exc import OperationalError

                raise OperationalError(step, {}, Exception("the connection broke on purpose"))

    def _stop(self) -> None:
        # A process that sleeps within a transaction keeps SQLite's only lock, and nobody else can go on.
        with self._begins:
            while set(self._open.copy().values()) - {threading.get_ident()}:
                time.sleep(0.001)
            # To this thread, which must not go on until the others have stopped, too.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def install(faults: Faults) -> None:
    """Put the faults into this process, before the program begins."""
    point = Failpoint(faults)
    _watch_transactions(point)
    _watch_moments(point)
    _hurry_leases(faults.haste)
    _hurry_answers(faults.answer_haste)
    if faults.batch:
        _claim_few(faults.batch)
    if faults.breaks == "accepted-first":
        _record_before_handing_over()
    elif faults.breaks == "never-in-doubt":
        _forget_doubts()


class _Ledger:
    """Follows the transactions of each connection: what their statements have written, and when they end."""

    def __init__(self, point: Failpoint) -> None:
        self._point = point
        self._wrote: dict[int, dict[str, None]] = {}
        self._thread = threading.local()

    def begin(self, connection: Any) -> None:
        self._wrote[_key(connection.connection)] = {}
        self._point.begin(_key(connection.connection))

    def note(self, connection: Any, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        rescues = getattr(self._thread, "rescues", False)
        name = "rescued" if rescues and _updated(statement) else written_by(statement, parameters)
        if name is not None:
            self._wrote.setdefault(_key(connection.connection), {})[name] = None

    def commit(self, usual: Callable[..., None], dialect: object, connection: Any) -> None:
        key = _key(connection)
        wrote = self._wrote.pop(key, {})
        # The thread that commits may be another than the one that began.
        self._point.begin(key)
        if "claimed" in wrote and not _has_claimed(connection):
            del wrote["claimed"]
        for name in wrote:
            self._point.reach(f"{name}-before-commit")
        usual(dialect, connection)
        self._point.end(key)
        for name in wrote:
            self._point.reach(f"{name}-after-commit")

    def note_prepared(self, usual: Callable[..., Any], connection: Any, text: str, given: object) -> Any:
        """What the driver is told past SQLAlchemy's hook."""
        self.note(connection, None, text, given, None, False)
        return usual(connection, text, given)

    def note_each(
        self, usual: Callable[..., set[Any]], prepared: object, connection: object, form: Any, rows: Any, shared: object
    ) -> set[Any]:
        """What SQLite is told row by row."""
        self.note(connection, None, form.text, [list(row) for row in rows], None, True)
        return usual(prepared, connection, form, rows, shared)

    def roll_back(self, usual: Callable[..., None], dialect: object, connection: object) -> None:
        usual(dialect, connection)
        self._point.end(_key(connection))

    def rescue(self, usual: Callable[..., int], *arguments: object, **named: object) -> int:
        self._thread.rescues = True
        try:
            return usual(*arguments, **named)
        finally:
            self._thread.rescues = False


def _key(pooled: Any) -> int:
    """What tells one connection of the driver from another."""
    return id(getattr(pooled, "dbapi_connection", pooled))


def _has_claimed(connection: Any) -> bool:
    """Whether this process holds anything: who looks for work and finds none runs the same statement."""
    cursor = connection.cursor()
    try:
        mine = f"SELECT count(*) FROM delivery WHERE state = 'claimed' AND owner LIKE '%-{os.getpid()}'"
        cursor.execute(mine)
        return bool(cursor.fetchone()[0])
    finally:
        cursor.close()


def _watch_transactions(point: Failpoint) -> None:
    from sqlalchemy import Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    from newsletter.service.rescuing import Rescuing
    from newsletter.store import prepared

    ledger = _Ledger(point)
    event.listen(Engine, "begin", ledger.begin)
    event.listen(Engine, "before_cursor_execute", ledger.note)
    _wrap(prepared, "fetch", ledger.note_prepared)
    _wrap(prepared._ForEachRow, "_run_each", ledger.note_each)
    _wrap(DefaultDialect, "do_commit", ledger.commit)
    _wrap(DefaultDialect, "do_rollback", ledger.roll_back)
    _wrap(Rescuing, "rescue", ledger.rescue)


_INSERTS = {"worker": "enrolled", "revision": "published"}
_EVENTS = ("asked", "confirmed", "left")


def written_by(statement: str, parameters: object) -> str | None:
    """Which of the named steps a statement is part of, whoever runs it."""
    inserted = re.match(r"\s*INSERT INTO (\w+)", statement)
    if inserted is not None:
        return _inserted(inserted[1], _plain(parameters))
    columns = _updated(statement)
    if "sent_at" in columns:
        return "accepted"
    if {"handing_over_at", "message_id"} <= columns:
        return "handed"
    return "claimed" if "owner" in columns and "RETURNING" in statement else None


def _inserted(table: str, values: set[str]) -> str | None:
    if table == "event":
        return next((name for name in _EVENTS if name in values), None)
    if table == "delivery":
        # PostgreSQL is given all rows as one text.
        return "planned" if any(value == "letter" or '"kind": "letter"' in value for value in values) else None
    return _INSERTS.get(table)


def _updated(statement: str) -> set[str]:
    """The columns of the ledger that a statement sets."""
    changed = re.search(r"\bUPDATE delivery SET (.*?) (?:FROM|WHERE) ", " ".join(statement.split()))
    return set(re.findall(r"(\w+) ?=", changed[1])) if changed else set()


def _plain(parameters: object) -> set[str]:
    """Every string among the parameters of one or of many executions."""
    if isinstance(parameters, str):
        return {parameters}
    if isinstance(parameters, Mapping):
        parameters = list(parameters.values())
    found: set[str] = set()
    if isinstance(parameters, list | tuple):
        found = found.union(*map(_plain, parameters))
    return found


def _watch_moments(point: Failpoint) -> None:
    from newsletter.mail.smtp import SmtpMailer
    from newsletter.service.composing import Composer

    _around(Composer, "compose", after=lambda: point.reach("composed"))
    _around(SmtpMailer, "open", after=lambda: point.reach("opened"))
    _around(
        SmtpMailer,
        "send",
        before=lambda: point.reach("before-bytes"),
        after=lambda: point.reach("answered"),
    )


def _wrap(owner: object, name: str, around: Callable[..., Any]) -> None:
    """Let `around` stand where a method stood; it is given the method first."""
    usual = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        return around(usual, *arguments, **named)

    setattr(owner, name, wrapped)


def _around(owner: type, name: str, *, before: Callable[[], None] | None = None, after: Callable[[], None]) -> None:
    def both(usual: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        found = usual(*arguments, **named)
        after()
        return found

    _wrap(owner, name, both)


def _hurry_leases(haste: int) -> None:
    """Shorten what takes a minute by rule."""
    from newsletter import cluster, scheduler, worker
    from newsletter.service import rescuing
    from newsletter.store import engines

    engines._LONGEST_SILENCE /= haste
    rescuing.LEASE /= haste
    rescuing.RENEW_EVERY /= haste
    rescue_every = max(worker.RESCUE_EVERY / haste, timedelta(seconds=0.25))
    # Each module has the names for itself.
    vars(worker)["RENEW_EVERY"] = rescuing.RENEW_EVERY
    for module in (worker, scheduler, cluster):
        vars(module)["RESCUE_EVERY"] = rescue_every


def _claim_few(batch: int) -> None:
    """Let many workers have something of a few letters."""
    from newsletter.service import stock

    assert batch <= stock.CLAIM_BATCH
    stock.CLAIM_BATCH = batch


def _hurry_answers(haste: int) -> None:
    """Shorten how long a mail server may take, and how long nobody judges what it may still answer."""
    from newsletter.mail.smtp import STANDARD_TIMEOUTS, SmtpMailer
    from newsletter.mail.wire import Timeouts
    from newsletter.service import rescuing

    rescuing.LONGEST_ANSWER /= haste
    usual = SmtpMailer.__init__
    waits = ("connect", "command", "dot", "message")
    short = Timeouts(**{name: getattr(STANDARD_TIMEOUTS, name) / haste for name in waits})

    def begin(self: SmtpMailer, *arguments: Any, **named: Any) -> None:
        usual(self, *arguments, **{**named, "timeouts": short})

    SmtpMailer.__init__ = begin  # type: ignore[method-assign]


def _record_before_handing_over() -> None:
    """Say "accepted" at once and let the bytes leave when the connection is next used: what must never be."""
    from newsletter.mail.base import Stage, Verdict, verdict_of
    from newsletter.mail.smtp import SmtpMailer

    send, usual_close = SmtpMailer.send, SmtpMailer.close
    waiting: dict[int, Any] = {}

    def send_later(self: SmtpMailer, letter: Any, *, then: Any = None) -> Verdict:
        del then
        flush(self)
        waiting[id(self)] = letter
        return verdict_of(Stage.DOT, 250, "2.0.0 Taken", host="nobody")

    def close(self: SmtpMailer) -> None:
        flush(self)
        usual_close(self)

    def flush(mailer: SmtpMailer) -> None:
        if (letter := waiting.pop(id(mailer), None)) is not None:
            send(mailer, letter)

    SmtpMailer.send = send_later  # type: ignore[method-assign]
    SmtpMailer.close = close  # type: ignore[method-assign]


def _forget_doubts() -> None:
    """Take a letter whose worker was lost in its handover for one that never was handed over."""
    from sqlalchemy import update

    from newsletter.service.recording import Recorder
    from newsletter.store.tables import delivery

    def record(_self: Recorder, connection: Any, item: Any, **_: object) -> object:
        again = {"state": "planned", "owner": None, "handing_over_at": None, "epoch": delivery.c.epoch + 1}
        connection.execute(update(delivery).where(delivery.c.id == item.id).values(again))
        return item.state

    Recorder.record_unanswered = record  # type: ignore[method-assign,assignment]


def main() -> None:
    """Be the program, with the faults that the environment asks for."""
    from newsletter import cli

    install(Faults.read(os.environ))
    cli.main()


if __name__ == "__main__":
    main()
