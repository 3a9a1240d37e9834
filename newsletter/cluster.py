"""The driver of a fleet: Procrastinate on the same PostgreSQL wakes the processes of all hosts, and nothing else.

It holds no truth: every job calls a service that looks at the ledger, as every tick of the scheduler does. A job that
runs twice changes nothing, and what a lost job would have done the next tick does.

Each process runs three of Procrastinate's workers, so that no kind of job waits for another: what people wait for,
letters, and the upkeep of the whole fleet. All of them together are one worker to the ledger, with one lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import Any

import procrastinate
import structlog
from procrastinate import exceptions
from procrastinate.jobs import Status

from newsletter.bootstrap import App
from newsletter.service.sending import Crew
from newsletter.service.waking import LETTERS, SEND_LETTERS
from newsletter.worker import KEEP_HOUSE_EVERY, RESCUE_EVERY, Worker, guarded

log = structlog.get_logger()

PEOPLE = "newsletter-people"
UPKEEP = "newsletter-upkeep"
PLAN_EVERY = timedelta(seconds=5)
SEND_TO_PEOPLE_EVERY = timedelta(seconds=1)
HEARTBEAT = timedelta(seconds=10)
STALLED_AFTER = timedelta(seconds=30)
LONGEST_JOB = timedelta(seconds=30)
"""A job that sends ends after this time; while there is more to send, another one follows."""

_PAUSE_SECONDS = 1.0
_CONNECTIONS = 4
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What Procrastinate calls; `every`: at these times, once for the whole fleet."""

    name: str
    queue: str
    run: Callable[..., Any]
    every: timedelta | None = None


class Cluster:
    """One process of a fleet.

    Args:
        stop: set when the process is to end.
        heartbeat: how often it tells Procrastinate that it lives.
        stalled_after: the silence after which its jobs are given to others.
    """

    def __init__(
        self,
        app: App,
        *,
        stop: Event | None = None,
        heartbeat: timedelta = HEARTBEAT,
        stalled_after: timedelta = STALLED_AFTER,
    ) -> None:
        self._app = app
        self._heartbeat = heartbeat
        self._stalled_after = stalled_after
        self.worker = Worker(app, stop=stop)
        self._people, self._letters = (
            _Shift(crew, name) for crew, name in zip(self.worker.crews, ("people", "letters"), strict=True)
        )
        self._at_work: set[str] = set()
        self._tasks = (
            _Task(name="newsletter:plan", queue=UPKEEP, run=self._plan, every=PLAN_EVERY),
            _Task(name="newsletter:send-to-people", queue=PEOPLE, run=self._send_to_people, every=SEND_TO_PEOPLE_EVERY),
            _Task(name=SEND_LETTERS, queue=LETTERS, run=self._send_letters),
            _Task(name="newsletter:keep-house", queue=UPKEEP, run=self._keep_house, every=KEEP_HOUSE_EVERY),
            _Task(name="newsletter:retry-stalled", queue=UPKEEP, run=self._retry_stalled, every=stalled_after / 3),
        )

    def run(self) -> None:
        """Work until `stop` is set; then finish the letters in hand and give the rest back.

        Raises:
            SettingsError: this database cannot carry a fleet.
            DatabaseRefused: the tables of the jobs do not fit.
        """
        self._app.waking.prepare()
        self.worker.begin()
        log.info("worker_started", worker=self.worker.id)
        try:
            asyncio.run(self._run())
        finally:
            self.worker.end()
            log.info("worker_stopped", worker=self.worker.id)

    async def _run(self) -> None:
        ended = asyncio.create_task(asyncio.to_thread(self.worker.stop.wait))
        rescuing = asyncio.create_task(self._rescue())
        try:
            while not ended.done():
                await self._join(ended)
                await asyncio.wait([ended], timeout=_PAUSE_SECONDS)
        finally:
            self.worker.stop.set()
            rescuing.cancel()
            for shift in (self._people, self._letters):
                await shift.end()

    async def _join(self, ended: asyncio.Task[bool]) -> None:
        """Take part in the fleet's work for as long as that goes well."""
        try:
            # Asked first: who opens a pool while the database is away waits longer than until it is back.
            await asyncio.to_thread(self._app.office.is_stopped)
            await self._take_part(ended)
        except Exception as error:  # noqa: BLE001  (whatever it was, the fleet is joined anew)
            log.warning("fleet_left", reason=str(error.__cause__ or error).strip() or type(error).__name__)

    async def _take_part(self, ended: asyncio.Task[bool]) -> None:
        """Run the three workers until the process is to end, or until one of them cannot go on."""
        connector = procrastinate.PsycopgConnector(
            kwargs=self._app.database.driver_arguments(),
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_CONNECT_SECONDS,
        )
        sending, upkeep = self._jobs(connector, periodic=False), self._jobs(connector, periodic=True)
        over = asyncio.get_running_loop().create_future()
        for shift in (self._people, self._letters):
            shift.over = over
        async with sending.open_async():
            at_work = [
                asyncio.create_task(
                    jobs.run_worker_async(
                        queues=[queue],
                        name=queue,
                        concurrency=concurrency,
                        # A job that has ended is of no use to anybody, whatever became of it.
                        delete_jobs="always",
                        install_signal_handlers=False,
                        update_heartbeat_interval=self._heartbeat.total_seconds(),
                        stalled_worker_timeout=self._stalled_after.total_seconds(),
                    )
                )
                for jobs, queue, concurrency in ((sending, PEOPLE, 1), (sending, LETTERS, 1), (upkeep, UPKEEP, 3))
            ]
            await asyncio.wait([ended, *at_work], return_when=asyncio.FIRST_COMPLETED)
            over.set_result(None)
            for each in at_work:
                each.cancel()
            outcomes = await asyncio.gather(*at_work, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        if not ended.done():
            # What it could not do, be it to beat or to listen, is kept from us; the database was away.
            log.warning("fleet_left", reason="one of Procrastinate's workers gave up")

    def _jobs(self, connector: procrastinate.PsycopgConnector, *, periodic: bool) -> procrastinate.App:
        """The tasks; `periodic`: whose workers also defer, each once for the whole fleet, what has a time."""
        jobs = procrastinate.App(connector=connector)
        for task in self._tasks:
            made = jobs.task(name=task.name, queue=task.queue, queueing_lock=task.name, pass_context=True)(task.run)
            if periodic and task.every:
                jobs.periodic(cron=_cron(task.every))(made)
        return jobs

    # What the jobs do

    async def _plan(self, _context: procrastinate.JobContext, *, timestamp: int) -> None:
        del timestamp
        await self._once("plan", self.worker.plan_for_all)

    async def _send_to_people(self, _context: procrastinate.JobContext, *, timestamp: int) -> None:
        del timestamp
        await self._people.work()

    async def _send_letters(self, context: procrastinate.JobContext) -> None:
        if await self._letters.work():
            return
        with contextlib.suppress(exceptions.AlreadyEnqueued):
            again = context.app.configure_task(SEND_LETTERS, queue=LETTERS, queueing_lock=context.job.queueing_lock)
            await again.defer_async()

    async def _keep_house(self, _context: procrastinate.JobContext, *, timestamp: int) -> None:
        del timestamp
        await self._once("keep-house", self.worker.keep_house)

    async def _retry_stalled(self, context: procrastinate.JobContext, *, timestamp: int) -> None:
        """Let others do what the workers of a lost process were at."""
        del timestamp
        manager = context.app.job_manager
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_after.total_seconds()):
            try:
                await manager.retry_job(job)
            except exceptions.UniqueViolation:
                # Another one like it waits already.
                await manager.finish_job(job, Status.FAILED, delete_job=True)
            except exceptions.ConnectorException:
                # Its worker was slow, not lost, and has finished it meanwhile.
                continue
            log.warning("stalled_job_retried", job=job.id, task=job.task_name)

    async def _rescue(self) -> None:
        """Not a job of the fleet: that a process has died is known at once on its own host only."""
        while True:
            await asyncio.sleep(RESCUE_EVERY.total_seconds())
            await self._once("rescue", self.worker.rescue)

    async def _once(self, name: str, action: Callable[[], object]) -> None:
        """Do something in a thread, unless this process is at it: then it sees what this call would have seen."""
        if name in self._at_work:
            return
        self._at_work.add(name)
        try:
            await asyncio.to_thread(guarded(action, name))
        finally:
            self._at_work.discard(name)


def _cron(every: timedelta) -> str:
    """An interval that divides a minute or an hour, as Procrastinate wants it: the sixth field is the seconds."""
    minute = timedelta(minutes=1)
    return f"* * * * * */{every // timedelta(seconds=1)}" if every < minute else f"*/{every // minute} * * * *"


class _Shift:
    """The work of one crew: begun by the first job that comes, and never twice at once.

    Attributes:
        over: done when the process leaves the fleet; no job waits any longer then.
    """

    over: asyncio.Future[None]

    def __init__(self, crew: Crew, name: str) -> None:
        self._send_due = guarded(crew.send_due, f"send-{name}")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._work: asyncio.Future[int | None] | None = None

    async def work(self) -> bool:
        """Have the crew send what is due.

        Returns:
            False where it is still at it after the longest time that a job may take.
        """
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().run_in_executor(self._thread, self._send_due)
        waited_for: Sequence[asyncio.Future[Any]] = [self._work, self.over]
        await asyncio.wait(waited_for, timeout=LONGEST_JOB.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        return self._work.done() or self.over.done()

    async def end(self) -> None:
        """Wait until the crew has ended, which it does as soon as the process is to end."""
        if self._work is not None:
            await self._work
        self._thread.shutdown()
