"""Lanes: each is one connection to the mail server, and takes one email after the other from a desk.

The lanes of a crew are fibres of one thread. So are the desk's rounds, but for what waits: the disk, or a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from threading import Event

import structlog

from newsletter.domain.delivery import Outcome
from newsletter.domain.retry import doubled
from newsletter.errors import DatabaseDamaged, DatabaseUnavailable, RelayUnavailable
from newsletter.fibres import BLOCKING, Fibre, Hub, Waiting
from newsletter.mail.base import Envelope, Mailer
from newsletter.service.desk import BYTES_WITHIN, Desk
from newsletter.service.office import Handed, Judged, Seat

log = structlog.get_logger()

_RECORD_PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0, 6.0)
_FIRST_PAUSE = timedelta(seconds=0.5)
_LONGEST_PAUSE = timedelta(seconds=30)
_LOOK_AGAIN_SECONDS = 0.2
"""While some lanes are at work: whether there is work for more."""

_SOON_SECONDS = 0.1
"""Where the pace will let more leave in a moment: well within the burst that a rate allows."""


class Crew:
    """The lanes of one desk: as many are at work as there is work for, and as are allowed.

    Args:
        hub: in which the lanes run; the desk and the lanes wait in it, too.
    """

    def __init__(self, desk: Desk, lanes: Sequence[Lane], *, hub: Hub) -> None:
        self._desk = desk
        self._lanes = list(lanes)
        self._hub = hub
        self._ended = hub.signal()

    def send_due(self) -> int:
        """Send until nothing is due, every lane rests, or the process is to end.

        Returns:
            How many were accepted.
        """
        self._close_surplus()
        with self._desk.attended():
            # Most ticks find nothing.
            return self._hub.run(self._conduct) if self._has_work() else 0

    @property
    def connections(self) -> int:
        """How many connections it has, or may open."""
        return sum(lane.is_wanted or lane.is_connected for lane in self._lanes)

    def allow(self, connections: int) -> None:
        """Let it have so many connections from now on. Those that are too many end with the letter in hand."""
        for number, lane in enumerate(self._lanes):
            lane.is_wanted = number < connections

    def _close_surplus(self) -> None:
        for lane in self._lanes:
            if lane.is_connected and not lane.is_wanted:
                lane.close()

    def _has_work(self) -> bool:
        if any(lane.owes for lane in self._lanes):
            return True
        is_able = any(lane.is_fit() for lane in self._lanes)
        return is_able and (self._desk.has_work() or self._desk.more_comes_soon)

    def _conduct(self) -> int:
        accepted, is_away = 0, False
        # What the desk was not told is told first, also by a lane that may not send.
        at_work = {self._hub.start(partial(self._let_work, lane)): lane for lane in self._lanes if lane.owes}
        while True:
            free = [lane for lane in self._lanes if lane not in at_work.values() and lane.is_fit()]
            if is_away:
                # Who came again at once would find the database away again, hundreds of times a second. The next
                # tick begins anew.
                free = []
            if free and self._desk.has_work():
                for lane in free[: self._desk.stock]:
                    at_work[self._hub.start(partial(self._let_work, lane))] = lane
            comes_soon = bool(free) and self._desk.more_comes_soon
            if not at_work and not comes_soon:
                return accepted
            self._ended = self._hub.signal()
            self._ended.wait(_SOON_SECONDS if comes_soon else _LOOK_AGAIN_SECONDS)
            for fibre in [fibre for fibre in at_work if fibre.has_ended]:
                del at_work[fibre]
                accepted += _result(fibre)
                is_away |= isinstance(fibre.outcome[1], DatabaseUnavailable)

    def _let_work(self, lane: Lane) -> int:
        try:
            return lane.send_due()
        finally:
            if not lane.is_wanted:
                lane.close()
            self._ended.set()

    def close(self) -> None:
        """Hang up every connection, all at once. Nothing is at work any more."""
        self._hub.run(lambda: [self._hub.start(lane.close) for lane in self._lanes if lane.is_connected])


class Lane:
    """Sends on one connection, in one fibre or thread at a time.

    Args:
        desk: where its emails come from and its verdicts go.
        stop: set when the process is to end: the email in hand is finished.
        waiting: how it waits.

    Attributes:
        is_wanted: whether it may have a connection; told otherwise, it finishes the email in hand.
        is_connected: whether it has, or may still have, a connection.
    """

    def __init__(
        self, desk: Desk, *, open_mailer: Callable[[], Mailer], stop: Event, waiting: Waiting = BLOCKING
    ) -> None:
        self._desk = desk
        self._mailer = open_mailer()
        self._stop = stop
        self._waiting = waiting
        self.is_wanted = True
        self.is_connected = False
        self._troubles = 0
        self._rest_until = 0.0
        # What the desk could not be told because the database was away.
        self._judged: list[Judged] = []
        self._seat = Seat()
        self._foretold: Envelope | None = None  # what the mailer expects next

    def send_due(self) -> int:
        """Send until nothing is due, the mail server is away, or `stop` is set.

        Returns:
            How many were accepted.
        """
        with self._desk.attended() as self._seat:
            if self._judged:
                self._exchange(wants=False)
            return self._send_while_due()

    @property
    def owes(self) -> bool:
        """Whether it has a verdict that the desk could not be told, because the database was away."""
        return bool(self._judged)

    def is_fit(self) -> bool:
        """Whether it may go to work: not to end, and not resting after trouble with the mail server."""
        return self.is_wanted and not self._stop.is_set() and time.monotonic() >= self._rest_until

    def close(self) -> None:
        """Hang up."""
        self._mailer.close()
        self.is_connected = False

    def _send_while_due(self) -> int:
        accepted = 0
        while self.is_fit() and self._desk.has_work():
            if not self._open():
                break
            accepted += self._send_in_this_conversation()
        return accepted

    def _open(self, letter: Envelope | None = None) -> bool:
        """Make sure that a conversation is ready. Where none is, nothing was handed over: no attempt counts."""
        self.is_connected = True
        try:
            self._mailer.open(letter)
        except RelayUnavailable as error:
            self._rest(str(error))
            self._desk.tell_unavailable(error)
            return False
        return True

    def _send_in_this_conversation(self) -> int:
        """Send until nothing is due, or until the conversation ends; the mailer is open."""
        try:
            return self._send_one_after_the_other()
        finally:
            if self._foretold is not None:
                # It does not come, and the mail server may wait for it.
                self._mailer.close()
                self._foretold = None

    def _send_one_after_the_other(self) -> int:
        accepted = 0
        handed = self._exchange(wants=True)
        while handed is not None:
            outcome = self._send(handed)
            accepted += outcome is Outcome.ACCEPTED
            if outcome in (Outcome.UNAVAILABLE, Outcome.NO_ANSWER):
                # Also where the letter is in doubt: a server that hangs up on every letter would otherwise put a
                # whole list in doubt within minutes.
                self._rest(self._how_it_broke_off())
                break
            if outcome is not None:
                self._troubles = 0
            # Open before the next is asked for: what is handed over has to leave at once.
            if not self._open():
                break
            handed = self._exchange(wants=self.is_wanted and not self._stop.is_set())
        self._exchange(wants=False)
        return accepted

    def _send(self, handed: Handed) -> Outcome | None:
        """Hand one email to the mail server; None where that came too late and it must not leave any more."""
        in_time: Handed | None = handed
        try:
            while in_time is not None and time.monotonic() - in_time.committed_at > BYTES_WITHIN.total_seconds():
                in_time = self._desk.renew(in_time)
        except Exception:
            self._desk.return_unsent(handed.item)
            raise
        if in_time is None:
            return None
        envelope = in_time.envelope
        if self._foretold is not None and self._foretold is not envelope and not self._open(envelope):
            self._desk.return_unsent(handed.item)
            return None
        self._foretold = self._seat.next_envelope
        # From here on bytes may have left: the row is never given back, only judged by the verdict.
        verdict = self._mailer.send(envelope, then=self._foretold)
        self._judged.append((in_time, verdict))
        return verdict.outcome

    def _exchange(self, *, wants: bool) -> Handed | None:
        """Visit the desk; a database that is away for a moment must not make a double of what was accepted."""
        if not self._judged and not wants:
            return None
        self._seat.looks_ahead = self._mailer.looks_ahead
        for pause in (*_RECORD_PAUSES_SECONDS, None):
            try:
                handed = self._desk.exchange(self._seat, self._judged, wants=wants)
            except DatabaseUnavailable as error:
                if pause is None or not self._judged or isinstance(error, DatabaseDamaged):
                    raise
                self._waiting.sleep(pause)
            else:
                self._judged = []
                return handed
        return None

    def _how_it_broke_off(self) -> str:
        """In our own words or the system's; what a server said is recorded with the letter, and may name a reader."""
        verdict = self._judged[-1][1]
        own_words = verdict.reply_text if verdict.reply_code is None else ""
        return f"the conversation broke off ({own_words})" if own_words else "the conversation broke off"

    def _rest(self, reason: str) -> None:
        self._troubles += 1
        pause = doubled(_FIRST_PAUSE, doublings=self._troubles - 1, longest=_LONGEST_PAUSE).total_seconds()
        self._rest_until = time.monotonic() + pause
        log.warning("relay_unavailable", reason=reason, pause_seconds=pause)


def _result(fibre: Fibre) -> int:
    """What a lane sent; its trouble is logged, and the others go on."""
    try:
        return int(fibre.result())
    except DatabaseDamaged:
        pass  # it is over; whoever started this says so
    except DatabaseUnavailable as error:
        log.warning("database_unavailable", tick="send", reason=str(error))
    except Exception:
        log.exception("tick_failed", tick="send")
    return 0
