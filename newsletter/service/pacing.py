"""How much a worker may claim now, and what is put off because its destination wants less, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from threading import Lock
from zoneinfo import ZoneInfo

import structlog

from newsletter.domain.delivery import DeliveryId, Kind, Outcome
from newsletter.domain.destination import RECOVER_AFTER, RELAY, Destination, Waiting
from newsletter.domain.rates import Progress, Rate, Rates, WarmUp, progress_on
from newsletter.errors import NotFound
from newsletter.mail.base import Verdict
from newsletter.service.hearing import Ear, hear
from newsletter.store import destinations, handovers, subscriptions
from newsletter.store.database import Connection, Database
from newsletter.store.deliveries import Delivery
from newsletter.store.subscriptions import Subscriber

log = structlog.get_logger()

LOOK_EVERY = timedelta(seconds=1)
"""How long a worker may not know of trouble that another one met."""

BARRED_FOR = timedelta(seconds=60)
"""What is claimed already is kept back for so long at most; what is claimed later is put off by the database."""

SLACK = timedelta(seconds=0.1)
"""Whoever is put off comes so much later than its turn: a moment too early, and it would be put off again."""

_ASK_AGAIN = timedelta(seconds=60)
"""Where nothing more may leave today: midnight is looked for every minute."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was claimed.

    Attributes:
        more_after: where the pace, and not the ledger, said that there is no more: when to ask again; at once, where
            all that was found was put off.
    """

    items: list[Delivery]
    more_after: timedelta | None = None


class Pacing:
    """One process's part in keeping to the rates of the fleet. May be used from any thread.

    Where no rate is set and no destination is in trouble it costs one small look at the database each second.

    Args:
        timezone: whose midnight ends a day of the warm-up.
    """

    def __init__(self, *, database: Database, rates: Rates, warm_up: WarmUp | None, timezone: str) -> None:
        self._database = database
        self._rates = rates
        self._warm_up = warm_up
        self._zone = ZoneInfo(timezone)
        self._told_on: date | None = None
        self._mutex = Lock()
        self._ear = Ear()
        self._trouble = destinations.Trouble(relay=False, domains=False)
        self._look_at = 0.0
        # By destination: from when an acceptance is news, in monotonic seconds; and whether nothing may leave.
        self._news_from: dict[str, float] = {}
        self._barred: dict[str, _Bar] = {}

    # Claiming

    def claim(self, connection: Connection, *, owner: str, letters: bool, limit: int, now: datetime) -> Claim:
        """Claim what is due and may leave now; what may not leave yet is put off until it may.

        What people wait for is not held up by a rate, but uses it up; where nothing leaves at all, it waits too.
        """
        trouble = self._look(connection)
        share = self._share(connection, trouble, letters=letters, limit=limit, now=now)
        if share.number == 0:
            return Claim(items=[], more_after=share.more_after)
        found = handovers.claim_due(connection, owner=owner, letters=letters, now=now, limit=share.number)
        items = self._admitted(connection, trouble, found, letters=letters, now=now)
        share.spend(connection, len(items))
        # Where a whole page was put off, what is behind it need not wait for the next tick.
        return Claim(items=items, more_after=timedelta() if found and not items else None)

    def give_back(self, connection: Connection, number: int, *, now: datetime) -> None:
        """So many letters were claimed and do not leave; others may instead."""
        if number > 0 and self._rates.overall is not None:
            found, _ = destinations.lock_destinations(connection, [RELAY])
            refunded = [each.refund(number, configured=self._rates.overall) for each in found.values()]
            destinations.save_destinations(connection, refunded)
        warm_up = self._warm_up
        if number > 0 and warm_up is not None:
            progress = destinations.warm_up_progress(connection, warm_up.plan, lock=True)
            if progress is not None and progress.on == self._today(now):
                rest = replace(progress, sent=max(0, progress.sent - number))
                destinations.save_warm_up(connection, warm_up.plan, rest)

    def keeps_back(self, reader: Subscriber, *, letters: bool) -> bool:
        """Whether an email that is claimed already must not leave, for what this process heard meanwhile.

        Costs nothing where nothing was heard.
        """
        if not self._barred:
            return False
        at = time.monotonic()
        bars = (self._barred.get(name) for name in (RELAY, _domain_of(reader)))
        return any(bar is not None and bar.until > at and (letters or bar.is_for_all) for bar in bars)

    def line_up(self, connection: Connection, item: Delivery, reader: Subscriber, *, now: datetime) -> bool:
        """Put a claimed email off to its turn, where its domain wants none now; it has been given back before.

        Returns:
            Whether it was. If not, it is the mail server that wants none, and nothing is claimed; or all is well again.
        """
        names = {RELAY, _domain_of(reader)}
        known, at = destinations.lock_destinations(connection, names)
        with self._mutex:
            for name in names:
                # What the operator or another worker has set right must not keep back what is claimed anew.
                if name not in known or known[name].kept_until(now=at) is None:
                    self._barred.pop(name, None)
        trouble = destinations.Trouble(relay=RELAY in known, domains=True)
        return not self._admitted(connection, trouble, [item], letters=item.kind is Kind.LETTER, now=now)

    def somebody_queues(self) -> bool:
        """Whether letters wait for nothing but their turn: they are due, though their rows say later."""
        with self._database.read() as connection:
            return destinations.somebody_queues(connection)

    # Learning

    def is_news(self, verdicts: Iterable[Verdict]) -> bool:
        """Whether `learn` may make anything of some verdicts. Costs nothing worth speaking of where all is well."""
        if self._news_from or self._ear.remembers:
            return True
        return any(verdict.slow_down or verdict.policy or verdict.busy for verdict in verdicts)

    def learn(self, verdicts: Sequence[tuple[str, Verdict]]) -> None:
        """Take in what the mail server said, by the domain of the recipient, in the order in which it was said.

        Writes only where there is trouble, or an end of it. In a transaction of its own: it comes after the
        verdicts were recorded, and where it is lost, the next reply says it again.
        """
        heard = self._heard(verdicts)
        if not heard:
            return
        names = {name for name, _, _ in heard}
        troubling = {name for name, _, verdict in heard if verdict.outcome is not Outcome.ACCEPTED}
        with self._database.write() as connection:
            known, now = destinations.lock_destinations(connection, names, create=troubling)
            told = dict(known)
            for name, domain, verdict in heard:
                hear(told, name, domain, verdict, now=now)
            destinations.save_destinations(connection, [each for each in told.values() if each != known[each.name]])
        with self._mutex:
            self._look_at = 0.0
            for name in names:
                self._remember(name, told.get(name))
                self._bar(name, told.get(name), now=now)
        for name, each in told.items():
            _log_change(known[name], each)

    def forgive(self, name: str, *, now: datetime) -> None:
        """Close a destination's circuit and let it go at its full rate, because the operator says that all is well.

        Raises:
            NotFound: nothing is kept back from it.
        """
        with self._database.write() as connection:
            found, _ = destinations.lock_destinations(connection, [name])
            known = found.get(name)
            if known is None or not known.is_troubled:
                message = f"Nothing is kept back from {name}; `newsletter status` shows from whom something is."
                raise NotFound(message)
            destinations.save_destinations(connection, [known.forgive()])
            if name != RELAY:
                destinations.bring_forward(connection, name, now=now)
        with self._mutex:
            self._look_at = 0.0
            self._remember(name, None)
            self._bar(name, None, now=now)
        log.info("circuit_closed" if known.is_open else "destination_recovered", destination=name, by="operator")

    # What is underneath

    def _look(self, connection: Connection) -> destinations.Trouble:
        with self._mutex:
            if time.monotonic() < self._look_at:
                return self._trouble
        trouble = destinations.find_trouble(connection)
        with self._mutex:
            self._trouble = trouble
            self._look_at = time.monotonic() + LOOK_EVERY.total_seconds()
            if trouble.relay:
                self._news_from.setdefault(RELAY, 0.0)
            if not trouble.relay:
                self._barred.pop(RELAY, None)
            if not trouble.domains:
                self._barred = {name: bar for name, bar in self._barred.items() if name == RELAY}
        return trouble

    def _share(
        self, connection: Connection, trouble: destinations.Trouble, *, letters: bool, limit: int, now: datetime
    ) -> _Share:
        """What may be claimed of all that is due, whatever its destination."""
        share = _Share(number=limit, configured=self._rates.overall)
        if trouble.relay or self._rates.overall is not None:
            create = [] if self._rates.overall is None else [RELAY]
            known, at = destinations.lock_destinations(connection, [RELAY], create=create)
            if RELAY in known:
                share.limit(known[RELAY], at=at, letters=letters)
        warm_up = self._warm_up
        if warm_up is not None and share.number > 0:
            self._limit_to_today(connection, warm_up, share, letters=letters, now=now)
        return share

    def _limit_to_today(
        self, connection: Connection, warm_up: WarmUp, share: _Share, *, letters: bool, now: datetime
    ) -> None:
        today = self._today(now)
        if destinations.warm_up_progress(connection, warm_up.plan) is None:
            destinations.begin_warm_up(connection, warm_up.plan, on=today)
        progress = progress_on(today, destinations.warm_up_progress(connection, warm_up.plan, lock=True))
        allowance = warm_up.allowance(progress)
        if allowance is None:
            self._warm_up = None  # the plan is over, for good
            return
        share.warm_up, share.progress = warm_up, progress
        if letters and allowance < share.number:
            share.number, share.more_after = allowance, _ASK_AGAIN
        if letters and allowance == 0 and self._told_on != today:
            self._told_on = today
            log.warning("warm_up_used_up", day=progress.day, letters=progress.sent, on=today.isoformat())

    def _admitted(
        self, connection: Connection, trouble: destinations.Trouble, found: list[Delivery], *, letters: bool,
        now: datetime,
    ) -> list[Delivery]:  # fmt: skip
        """Those of some claimed emails whose domain lets them leave now; the others are put off."""
        if not found or not (trouble.domains or self._rates.know_domains):
            return found
        by_domain = self._by_domain(connection, found)
        paced = [domain for domain in by_domain if self._rates.of(domain) is not None]
        known, at = destinations.lock_destinations(connection, by_domain.keys(), create=paced)
        changed: list[Destination] = []
        put_off: dict[DeliveryId, tuple[Delivery, datetime]] = {}
        for domain, each in known.items():
            items, configured = by_domain[domain], self._rates.of(domain)
            if letters or each.is_open:
                waiting = [Waiting(seed=str(item.id), has_waited=item.next_try_at > item.due_at) for item in items]
                turns, after = each.admit(waiting, configured=configured, now=at)
            else:
                turns, after = [None] * len(items), each.let_go(len(items), configured=configured, now=at)
            if after != each:
                changed.append(after)
            # A turn is real time, and a row is tried in business time: only the distance is carried over.
            put_off |= {
                item.id: (item, now + (turn - at) + SLACK)
                for item, turn in zip(items, turns, strict=True)
                if turn is not None
            }
        destinations.save_destinations(connection, changed)
        handovers.put_off(connection, list(put_off.values()))
        with self._mutex:
            for name in by_domain:
                self._remember(name, known.get(name))
        return [item for item in found if item.id not in put_off]

    def _by_domain(self, connection: Connection, items: list[Delivery]) -> dict[str, list[Delivery]]:
        readers = subscriptions.get_subscribers(connection, {item.subscriber_id for item in items})
        found: dict[str, list[Delivery]] = {}
        for item in items:
            reader = readers.get(item.subscriber_id)
            if reader is not None:
                found.setdefault(_domain_of(reader), []).append(item)
        return found

    def _heard(self, verdicts: Sequence[tuple[str, Verdict]]) -> list[tuple[str, str, Verdict]]:
        """What of some verdicts is news, and of which destination; each with its domain."""
        now, heard = time.monotonic(), list[tuple[str, str, Verdict]]()
        with self._mutex:
            for domain, verdict in verdicts:
                for name in self._ear.concerns(domain, verdict):
                    if verdict.outcome is not Outcome.ACCEPTED:
                        self._news_from[name] = 0.0
                    elif now < self._news_from.get(name, float("inf")):
                        continue
                    if name:
                        heard.append((name, domain, verdict))
        return heard

    def _remember(self, name: str, known: Destination | None) -> None:
        """Whether an acceptance by a destination will be news."""
        if known is None or not known.is_troubled:
            self._news_from.pop(name, None)
        elif known.refusals > 0:
            self._news_from[name] = 0.0
        else:
            self._news_from[name] = time.monotonic() + RECOVER_AFTER.total_seconds() / 4

    def _bar(self, name: str, known: Destination | None, *, now: datetime) -> None:
        kept = None if known is None else known.kept_until(now=now)
        if kept is None:
            self._barred.pop(name, None)
        else:
            until = time.monotonic() + min(kept - now, BARRED_FOR).total_seconds()
            self._barred[name] = _Bar(until=until, is_for_all=name == RELAY or (known is not None and known.is_open))

    def _today(self, now: datetime) -> date:
        return now.astimezone(self._zone).date()


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """Nothing leaves for a destination, by monotonic seconds; what people wait for only where `is_for_all`."""

    until: float
    is_for_all: bool


@dataclass(kw_only=True)
class _Share:
    """How much of what is due may be claimed, and what has to be written down when it is."""

    number: int
    configured: Rate | None
    more_after: timedelta | None = None
    relay: Destination | None = None
    at: datetime | None = None
    warm_up: WarmUp | None = None
    progress: Progress | None = None

    def limit(self, relay: Destination, *, at: datetime, letters: bool) -> None:
        """Keep to what the mail server takes, at an instant of the database's clock."""
        self.relay, self.at = relay, at
        kept = relay.kept_until(now=at)
        rate = relay.rate(self.configured)
        if kept is not None:
            self.number, self.more_after = 0, kept - at
        elif relay.is_open:
            self.number, self.more_after = 1, _ASK_AGAIN
        elif rate is not None and letters:
            self.number = min(self.number, rate.room(relay.line.free_at, now=at))
            self.more_after = rate.next_room(relay.line.free_at, now=at) - at

    def spend(self, connection: Connection, number: int) -> None:
        """So many were claimed."""
        if number == 0:
            return
        if self.relay is not None and self.at is not None:
            after = self.relay.let_go(number, configured=self.configured, now=self.at)
            destinations.save_destinations(connection, [after])
        if self.warm_up is not None and self.progress is not None:
            sent = replace(self.progress, sent=self.progress.sent + number)
            destinations.save_warm_up(connection, self.warm_up.plan, sent)


def _domain_of(reader: Subscriber) -> str:
    return reader.address_key.rpartition("@")[2]


def _log_change(before: Destination, after: Destination) -> None:
    name = after.name
    if after.is_open and not before.is_open:
        log.error("circuit_opened", destination=name, reply=after.reply, retry_at=str(after.retry_at))
    elif after.closures > before.closures:
        log.warning("circuit_stays_open", destination=name, reply=after.reply, retry_at=str(after.retry_at))
    elif before.is_open and not after.is_open:
        log.info("circuit_closed", destination=name)
    if after.level > before.level:
        log.warning("destination_slowed", destination=name, reply=after.reply, until=str(after.slowed_until))
    elif before.level > 0 and after.level == 0:
        log.info("destination_recovered", destination=name)
