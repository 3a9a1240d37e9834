"""From a planned row to the mail server and back: what each answer makes of the ledger and of the reader."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import update

from newsletter.domain.delivery import Kind, State
from newsletter.domain.destination import RELAY
from newsletter.domain.retry import FIRST_PAUSE, MAX_ATTEMPTS
from newsletter.domain.subscription import State as Standing
from newsletter.errors import DatabaseUnavailable
from newsletter.service import desk, rounds, sending
from newsletter.service.composing import Composer
from newsletter.service.desk import Desk
from newsletter.service.office import Handed
from newsletter.store import tables
from newsletter.store.types import DatabaseNow
from tests.support.building import NOW, House, letter, local
from tests.support.smtp_server import Close, Do, Reply, SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.building import Reader

TUESDAY = "2026-11-24 09:00"
NEXT_TUESDAY = "2026-12-01 09:00"
POISON = "This is two of trust in print 1. {% if letter.number == 2 %}{{ site.name - 1 }}{% endif %}"
"""Renders for every letter but somebody's second, so that publishing has no chance to see it."""


@pytest.fixture
def maria(house: House) -> Reader:
    """Somebody whose first letter is due this very minute."""
    return reader_of(house)


def reader_of(house: House) -> Reader:
    house.sequence("trust", "one", "two", "three")
    house.publish()
    reader = house.reader()
    house.at(TUESDAY)
    return reader


def set_row(house: House, table: str, identifier: Any, **values: Any) -> None:
    """Change a row past all rules but those of the schema."""
    named = tables.metadata.tables[table]
    with house.app.database.write() as connection:
        connection.execute(update(named).where(named.c.id == identifier).values(values))


def once_ready(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Let something happen once: behind the claim and the rendering, before the handover."""
    usual = Composer.compose
    coming = [action]

    def compose_then(self: Composer, *arguments: Any, **named: Any) -> Any:
        composed = usual(self, *arguments, **named)
        while coming:
            coming.pop()()
        return composed

    monkeypatch.setattr(Composer, "compose", compose_then)


# --- every answer ---------------------------------------------------------------------------------


def test_an_accepted_letter_is_received(house: House, maria: Reader, post: SmtpServer):
    """250 after the dot: sent and received, at that instant, and the next letter is due a week on."""
    assert house.work() == 1
    item = maria.delivery()
    assert (item.state, item.received, item.attempt, item.doubts) == (State.SENT, True, 1, 0)
    assert (item.sent_at, item.closed_at, item.reply_code) == (house.now, house.now, 250)
    assert (item.owner, item.number, item.revision) == (None, 1, 1)
    assert maria.subscription().last_step == "one"
    assert maria.due() == local(NEXT_TUESDAY)
    assert len(post.ledger) == 1


@pytest.mark.parametrize("stage", ["rcpt", "dot"])
def test_a_temporary_refusal_is_tried_again_later(house: House, maria: Reader, post: SmtpServer, stage: str):
    """4xx at any stage: back to planned, the attempt counts, and the pauses grow until it is taken."""
    post.script(stage, Reply(451, "4.2.0 Come back later"), times=2)
    tries = []
    for attempt in (1, 2):
        assert house.work() == 0
        item = maria.delivery()
        assert (item.state, item.attempt, item.doubts, item.owner) == (State.PLANNED, attempt, 0, None)
        assert (item.reply_code, item.received) == (451, False)
        tries.append(item.next_try_at - house.now)
        house.clock.set(item.next_try_at - timedelta(seconds=1))
        assert house.work() == 0, "it was tried too early"
        house.clock.set(item.next_try_at)
    assert FIRST_PAUSE <= tries[0] < tries[1]
    assert house.work() == 1
    assert (maria.delivery().state, maria.delivery().attempt) == (State.SENT, 3)
    assert len({mail.message_id for mail in maria.letters()}) == 1
    assert maria.due() == local(NEXT_TUESDAY)


def test_used_up_retries_fail_and_the_same_step_comes_at_the_next_slot(house: House, maria: Reader, post: SmtpServer):
    """The last attempt refused: failed, not received; the same row goes out again at the next slot."""
    post.script("rcpt", Reply(450, "4.2.0 Busy"), times=2)
    house.work()
    first = maria.delivery()
    set_row(house, "delivery", first.id, attempt=MAX_ATTEMPTS - 1)
    house.clock.set(first.next_try_at)
    house.work()
    failed = maria.delivery()
    assert (failed.state, failed.received, failed.attempt) == (State.FAILED, False, MAX_ATTEMPTS)
    assert failed.closed_at == house.now
    assert maria.state() is Standing.ACTIVE
    assert maria.due() == local(NEXT_TUESDAY)
    house.live(NEXT_TUESDAY)
    (again,) = maria.deliveries()
    assert (again.id, again.state, again.attempt) == (first.id, State.SENT, 1)
    assert again.epoch > failed.epoch
    assert maria.steps() == ["one"]


def test_a_server_that_never_takes_a_letter_ends_its_attempts(house: House, maria: Reader, post: SmtpServer):
    """Every attempt of the plan is made, none at night once the letter is late, and then there is an end."""
    post.script("rcpt", Reply(450, "4.2.0 Busy"))
    house.plan()
    attempts = []
    while (item := maria.delivery()).state is State.PLANNED:
        house.clock.set(max(house.now, item.next_try_at))
        if house.send() == 0 and maria.delivery().attempt > item.attempt:
            attempts.append(house.now)
    assert len(attempts) == MAX_ATTEMPTS
    late = [at for at in attempts if at - item.due_at > timedelta(hours=2)]
    assert late
    assert all(8 <= (at + timedelta(hours=1)).hour < 20 for at in late), "a late letter left at night"


@pytest.mark.parametrize("status", ["5.1.1", "5.2.1"])
def test_a_dead_address_is_suppressed(house: House, post: SmtpServer, status: str):
    """Refused at RCPT as dead: the letter failed, everything else is withdrawn, and nothing goes there any more."""
    house.sequence("trust", "one", "two")
    house.sequence("weekly", "note-one", on_finish="repeat")
    house.publish()
    maria, other = house.reader("maria@example.org", "trust", "weekly"), house.reader("ada@example.org")
    house.at(TUESDAY)
    house.plan()
    house.ask("maria@example.org", "trust")
    post.script("rcpt", Reply(550, f"{status} No such user"), when=lambda line: "maria" in line)
    house.lanes[1].send_due()
    assert maria.delivery("trust").state is State.FAILED
    assert not maria.delivery("trust").received
    states = {item.state for kind in Kind for item in maria.deliveries(kind=kind)}
    assert states <= {State.FAILED, State.WITHDRAWN}
    assert {record.state for record in maria.subscriptions()} == {Standing.LEFT}
    assert len(house.rows("suppression")) == 1
    assert [event.kind for event in maria.story("suppressed")] == ["suppressed"]
    post.forget_scripts()
    house.live(weeks=3)
    assert maria.mails() == []
    assert other.steps() == ["one", "two"]


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        ("rcpt", Reply(554, "5.7.1 Relay access denied")),
        ("mail", Reply(553, "5.1.8 Sender refused")),
        ("dot", Reply(550, "5.1.1 No such user")),
    ],
)
def test_any_other_refusal_is_held_and_blames_nobody(house: House, maria: Reader, post: SmtpServer, stage, reply):
    """5xx that names no dead address at RCPT: held, the reader waits and stays, until it is released."""
    post.script(stage, reply, times=1)
    house.work()
    item = maria.delivery()
    assert (item.state, item.received, item.reply_code) == (State.HELD, False, reply.code)
    assert reply.text in (item.reason or "")
    assert maria.state() is Standing.ACTIVE
    assert house.rows("suppression") == []
    house.live(days=3)
    assert maria.mails() == []
    assert house.app.overseeing.release(None, now=house.now) == 1
    house.live(days=1)
    assert maria.steps() == ["one"]


def test_a_bare_550_suppresses_nobody(house: House, maria: Reader, post: SmtpServer):
    """A refusal of the recipient without an enhanced code is tried again."""
    post.script("rcpt", Reply(550, "No"), times=1)
    house.work()
    assert (maria.delivery().state, maria.delivery().attempt) == (State.PLANNED, 1)
    assert house.rows("suppression") == []


@pytest.mark.parametrize(
    ("stage", "step"),
    [("mail", Reply(421, "4.3.2 Shutting down")), ("data", Close())],
)
def test_a_conversation_that_breaks_off_counts_no_attempt(
    house: House, maria: Reader, post: SmtpServer, monkeypatch: pytest.MonkeyPatch, stage: str, step: Any
):
    """The server gone before the message was complete: back to planned as if nothing had been tried."""
    monkeypatch.setattr(sending, "_FIRST_PAUSE", timedelta(seconds=30))  # longer than any machine takes to look
    post.script(stage, step, times=1)
    assert house.work() == 0
    item = maria.delivery()
    assert (item.state, item.attempt, item.doubts, item.owner) == (State.PLANNED, 0, 0, None)
    assert item.next_try_at == house.now
    house.hang_up()
    if stage == "mail":
        # A server that is shutting down is left alone for a while, unless the operator knows better.
        assert house.work() == 0
        house.app.pacing.forgive(RELAY, now=house.now)
        house.hang_up()
    assert house.work() == 1
    assert maria.steps() == ["one"]
    assert maria.delivery().doubts == 0


def test_a_mail_server_that_is_down_loses_nothing_and_blames_nobody(house: House, post: SmtpServer):
    """Down for hours: every letter stays planned at attempt 0, and each leaves once when the server is back."""
    house.sequence("trust", "one", "two")
    house.publish()
    readers = [house.reader(f"reader-{number}@example.org") for number in range(22)]
    house.at(TUESDAY)
    post.stop()
    for _ in range(3):
        assert house.work() == 0
        house.hang_up()
        house.later(minutes=20)
    rows = house.rows("delivery")
    assert len(rows) == 22
    assert {(row["state"], row["attempt"], row["doubts"], row["owner"]) for row in rows} == {("planned", 0, 0, None)}
    assert house.rows("suppression") == []
    post.start()
    assert house.work() == 22
    assert all(reader.steps() == ["one"] for reader in readers)


def test_a_lane_rests_while_the_mail_server_is_down(house: House, maria: Reader, post: SmtpServer):
    """A server that is down is not hammered, however long it has been: nothing is claimed until the rest is over."""
    house.plan()
    post.stop()
    house.lanes[1]._troubles = 100_000
    house.send()
    epoch = maria.delivery().epoch
    house.send()
    assert maria.delivery().epoch == epoch
    post.start()


# --- no answer ------------------------------------------------------------------------------------


@pytest.fixture
def rich(house: House) -> Reader:
    """Somebody whose first letter has an affirmation and a post, and is due."""
    house.content.affirmations("calm", "brave")
    house.content.posts("key: old, published: 2026-01-01", "key: new, published: 2026-02-01")
    house.sequence("trust", letter("one", affirmation="next", related="newest"), "two")
    house.publish()
    reader = house.reader()
    house.at(TUESDAY)
    return reader


@pytest.mark.usefixtures("restless")
def test_a_letter_without_an_answer_is_repeated_once_and_alike(house: House, rich: Reader, post: SmtpServer):
    """The repeat keeps Message-ID, Date, affirmation, posts and revision, whatever was published meanwhile."""
    post.script("dot", Do(house.stop.set), Close(), times=1)
    house.work()
    house.stop.clear()
    doubt = rich.delivery()
    assert (doubt.state, doubt.doubts, doubt.received, doubt.attempt) == (State.UNCERTAIN, 1, False, 0)
    house.content.affirmations("late", "brave")
    house.content.posts("key: newer, published: 2026-03-01")
    house.sequence("trust", letter("one", print_number=2, affirmation="next", related="newest"), "two")
    house.later(minutes=3)
    house.publish()
    assert house.work() == 1
    first, second = post.ledger
    assert first.content == second.content
    item = rich.delivery()
    assert (item.state, item.doubts, item.revision, item.received) == (State.SENT, 1, 1, True)
    assert (item.affirmation, item.posts, item.number) == ("calm", ["new"], 1)
    assert item.message_id == doubt.message_id == second.message_id
    assert item.message_date == doubt.message_date == local(TUESDAY)
    assert rich.due() == local(NEXT_TUESDAY)


@pytest.mark.usefixtures("restless")
def test_a_repeat_that_was_refused_meanwhile_stays_alike(house: House, rich: Reader, post: SmtpServer):
    """A repeat put off by 4xx is still the repeat: uncertain, and with the same bytes when it is taken."""
    post.script("dot", Close(), times=1)
    post.script("rcpt", Reply(250, "2.1.5 Ok"), times=1)
    post.script("rcpt", Reply(451, "4.2.0 Later"), times=1)
    house.work()
    item = rich.delivery()
    assert (item.state, item.doubts, item.attempt) == (State.UNCERTAIN, 1, 1)
    house.clock.set(item.next_try_at)
    house.work()
    assert len(post.ledger) == 2
    assert post.ledger[0].content == post.ledger[1].content


@pytest.mark.usefixtures("restless")
def test_twice_without_an_answer_is_held_and_counts_as_received(house: House, maria: Reader, post: SmtpServer):
    """After the one repeat it is held for good; the reader goes on with the next letter a week later."""
    post.script("dot", Close(), times=2)
    assert house.work() == 0
    item = maria.delivery()
    assert (item.state, item.received, item.doubts, item.owner) == (State.HELD, True, 2, None)
    assert len(post.ledger) == 2
    assert maria.due() == local(NEXT_TUESDAY)
    assert house.app.overseeing.release(None, now=house.now) == 0
    house.live(NEXT_TUESDAY)
    assert maria.steps() == ["one", "one", "two"]
    assert len({mail.message_id for mail in maria.letters()}) == 2


@pytest.mark.usefixtures("restless")
def test_no_answer_is_held_at_once_where_the_operator_prefers_a_gap(open_house: Callable[..., House], post: SmtpServer):
    """`ON_UNCERTAIN=hold`: no repeat at all, and the reader goes on."""
    house = open_house(on_uncertain="hold")
    maria = reader_of(house)
    post.script("dot", Close(), times=1)
    house.work()
    item = maria.delivery()
    assert (item.state, item.received, item.doubts) == (State.HELD, True, 1)
    house.live(NEXT_TUESDAY)
    assert maria.steps() == ["one", "two"]


@pytest.mark.usefixtures("restless")
def test_leaving_takes_back_the_repeat(house: House, maria: Reader, post: SmtpServer):
    """Whoever leaves before the repeat does not get it."""
    post.script("dot", Do(house.stop.set), Close(), times=1)
    house.work()
    house.stop.clear()
    maria.leave()
    assert maria.delivery().state is State.WITHDRAWN
    house.live(weeks=2)
    assert len(post.ledger) == 1


# --- faults of our own ----------------------------------------------------------------------------


def test_a_letter_that_cannot_be_rendered_is_held_until_it_is_mended(house: House, post: SmtpServer):
    """A fault of the text holds the letter, and the publish that mends it sends it: once, as mended."""
    house.sequence("trust", "one", letter("two", text=POISON), "three")
    house.publish()
    maria = house.reader()
    house.live(NEXT_TUESDAY)
    item = maria.delivery()
    assert (item.step, item.state, item.attempt, item.message_id) == ("two", State.HELD, 0, None)
    assert "rendered" in (item.reason or "")
    house.later(hours=1)
    house.sequence("trust", "one", letter("two", print_number=2), "three")
    house.publish()
    house.work()
    assert maria.steps() == ["one", "two"]
    assert (maria.letters()[-1].print_number, maria.delivery().revision) == (2, 2)
    house.live(weeks=2)
    assert maria.steps() == ["one", "two", "three"]


def test_one_poisoned_letter_does_not_stop_the_others(house: House):
    """What is wrong with one letter, or with one address, is nobody else's trouble."""
    house.sequence("trust", "one", letter("two", text=POISON), "three")
    house.publish()
    readers = [house.reader(f"reader-{number}@example.org") for number in range(3)]
    house.live(TUESDAY)
    fresh = [house.reader(f"fresh-{number}@example.org") for number in range(3)]
    set_row(house, "subscriber", fresh[1].record.id, address="no address at all")
    house.at(NEXT_TUESDAY)
    house.plan()
    house.send()
    assert [reader.delivery().state for reader in readers] == [State.HELD] * 3
    assert [reader.delivery().state for reader in fresh] == [State.SENT, State.HELD, State.SENT]
    assert all("no address at all" not in (row["reason"] or "") for row in house.rows("delivery"))


@contextmanager
def away(house: House, post: SmtpServer, *, writes: int, committed: bool) -> Iterator[None]:
    """From the first dot on, so many writes fail; `committed`: each had come through all the same."""
    usual = house.app.database.write
    left = 0

    def go_away() -> None:
        nonlocal left
        left = writes

    @contextmanager
    def write(**how: Any) -> Iterator[Any]:
        nonlocal left
        fails = left > 0
        left -= fails
        if fails and not committed:
            message = "The database is away."
            raise DatabaseUnavailable(message)
        with usual(**how) as connection:
            yield connection
        if fails:
            message = "The connection broke while it was committed."
            raise DatabaseUnavailable(message)

    house.app.database.write = write  # type: ignore[method-assign]
    post.script("dot", Do(go_away), times=1)
    try:
        yield
    finally:
        house.app.database.write = usual  # type: ignore[method-assign]


@pytest.mark.parametrize("committed", [False, True])
def test_a_verdict_is_written_as_soon_as_the_database_is_back(
    house: House, maria: Reader, post: SmtpServer, monkeypatch: pytest.MonkeyPatch, committed: bool
):
    """Away for a moment between the answer and the record: written once it is back, and not sent again."""
    monkeypatch.setattr(sending, "_RECORD_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    with away(house, post, writes=2, committed=committed):
        assert house.work() == 1
    assert maria.delivery().state is State.SENT
    assert len(post.ledger) == 1
    assert maria.due() == local(NEXT_TUESDAY)


def test_a_verdict_waits_for_the_next_tick_while_the_database_is_away(
    house: House, post: SmtpServer, monkeypatch: pytest.MonkeyPatch
):
    """Away for longer: the lane remembers the verdict and records it later; nothing is in doubt, nothing doubled."""
    monkeypatch.setattr(sending, "_RECORD_PAUSES_SECONDS", (0.0,))
    maria = reader_of(house)
    house.plan()
    with away(house, post, writes=20, committed=False):
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                house.lanes[1].send_due()
        assert maria.delivery().state is State.HANDING_OVER
    house.later(minutes=3)
    house.lanes[1].send_due()
    assert maria.delivery().state is State.SENT
    house.live(weeks=2)
    assert maria.steps() == ["one", "two", "three"]
    assert all(row["doubts"] == 0 for row in house.rows("delivery"))


def test_what_was_claimed_goes_back_when_the_database_returns(
    house: House, post: SmtpServer, monkeypatch: pytest.MonkeyPatch
):
    """The rest of a batch is given back once the database can be told, and leaves in the same tick."""
    monkeypatch.setattr(sending, "_RECORD_PAUSES_SECONDS", ())
    house.sequence("trust", "one", "two")
    house.publish()
    readers = [house.reader(f"reader-{number}@example.org") for number in range(5)]
    house.at(TUESDAY)
    house.plan()
    with away(house, post, writes=4, committed=False), pytest.raises(DatabaseUnavailable):
        house.lanes[1].send_due()
    house.lanes[1].send_due()
    assert [reader.steps() for reader in readers] == [["one"]] * 5
    assert all(row["doubts"] == 0 for row in house.rows("delivery"))


# --- time -----------------------------------------------------------------------------------------


def test_a_late_letter_waits_for_the_morning(house: House, maria: Reader):
    """More than two hours behind its slot it leaves at 08:00 local or later, and not before."""
    house.plan()
    house.at("2026-11-24 22:30")
    assert house.send() == 0
    item = maria.delivery()
    assert (item.state, item.attempt) == (State.PLANNED, 0)
    assert item.next_try_at == local("2026-11-25 08:00")
    house.at("2026-11-25 07:59")
    assert house.send() == 0
    house.at("2026-11-25 08:00")
    assert house.send() == 1


def test_a_letter_within_two_hours_of_its_slot_leaves_at_any_hour(house: House):
    """The reader chose the hour: 23:00 chosen, 00:59 is fine."""
    house.sequence("trust", "one")
    house.publish()
    maria = house.reader(slot="tue 23:00")
    house.at("2026-11-24 23:00")
    house.plan()
    house.at("2026-11-25 00:59")
    assert house.send() == 1
    assert maria.steps() == ["one"]


def test_a_late_letter_is_left_out_where_the_operator_says_so(open_house: Callable[..., House]):
    """`LATE=skip`: that week passes, the step is kept, and the reader's story says why."""
    house = open_house(late="skip")
    maria = reader_of(house)
    house.plan()
    house.at("2026-11-24 11:30")
    assert house.send() == 0
    assert maria.delivery().state is State.WITHDRAWN
    assert maria.due() == local(NEXT_TUESDAY)
    assert "late" in str(maria.story("moved")[-1].detail)
    house.live(weeks=2)
    assert maria.steps() == ["one", "two"]


def test_a_letter_too_soon_after_the_last_one_is_moved(house: House, maria: Reader):
    """Whatever was planned, no letter leaves within five days of the last one; the reader's story says why."""
    house.plan()
    set_row(house, "subscription", maria.subscription().id, last_letter_at=house.now - timedelta(hours=119))
    assert house.send() == 0
    assert maria.delivery().state is State.WITHDRAWN
    assert maria.due() == local(NEXT_TUESDAY)
    assert "too soon" in str(maria.story("moved")[-1].detail)
    house.live(NEXT_TUESDAY)
    assert maria.steps() == ["one"]


def test_five_days_are_far_enough(house: House, maria: Reader):
    """120 elapsed hours after the last letter the next one may leave."""
    house.plan()
    set_row(house, "subscription", maria.subscription().id, last_letter_at=house.now - timedelta(hours=120))
    assert house.send() == 1


# --- what forbids a letter at the last moment -------------------------------------------------------


def test_stopped_means_that_nothing_leaves_and_nothing_is_lost(house: House, maria: Reader):
    """While sending is stopped nothing is claimed; when it is started again everything leaves."""
    house.plan()
    house.app.overseeing.stop(now=house.now)
    assert house.send() == 0
    assert maria.delivery().state is State.PLANNED
    assert house.app.office.is_stopped()
    house.app.overseeing.start(now=house.now)
    assert not house.app.office.is_stopped()
    assert house.send() == 1


def test_stopping_reaches_what_is_claimed_already(house: House, maria: Reader, monkeypatch: pytest.MonkeyPatch):
    """Stopped between claim and handover: given back, not withdrawn."""
    house.plan()
    once_ready(monkeypatch, lambda: house.app.overseeing.stop(now=house.now))
    assert house.send() == 0
    item = maria.delivery()
    assert (item.state, item.owner, item.attempt) == (State.PLANNED, None, 0)
    assert maria.mails() == []
    house.app.overseeing.start(now=house.now)
    assert house.send() == 1


def test_a_process_that_ends_finishes_its_letter_and_gives_the_rest_back(house: House, post: SmtpServer):
    """The letter in hand is finished, all others are planned again."""
    house.sequence("trust", "one")
    house.publish()
    for number in range(5):
        house.reader(f"reader-{number}@example.org")
    house.at(TUESDAY)
    house.plan()
    post.script("dot", Do(house.stop.set), times=1)
    assert house.send() == 1
    states = sorted(row["state"] for row in house.rows("delivery"))
    assert states == ["planned"] * 4 + ["sent"]
    assert {row["owner"] for row in house.rows("delivery")} == {None}


@pytest.mark.parametrize("how", ["leave", "pause"])
def test_leaving_or_pausing_reaches_what_is_claimed_already(
    house: House, maria: Reader, monkeypatch: pytest.MonkeyPatch, how: str
):
    """From the answer to the reader on, a letter that was claimed and rendered does not leave."""
    house.plan()
    once_ready(monkeypatch, maria.leave if how == "leave" else lambda: maria.pause(weeks=1))
    assert house.send() == 0
    assert maria.mails() == []
    item = maria.delivery()
    assert (item.state, item.owner, item.handing_over_at) == (State.WITHDRAWN, None, None)
    house.live(weeks=2, days=3)
    assert maria.steps() == ([] if how == "leave" else ["one", "two"])


def test_leaving_while_a_letter_is_handed_over_ends_with_that_letter(house: House, maria: Reader, post: SmtpServer):
    """Only the letter already in its handover still arrives; it is written down, and nothing follows."""
    post.script("dot", Do(maria.leave), times=1)
    house.work()
    assert maria.delivery().state is State.SENT
    assert (maria.state(), maria.due()) == (Standing.LEFT, None)
    house.live(weeks=3)
    assert maria.steps() == ["one"]


def test_a_refusal_for_now_is_withdrawn_where_the_reader_has_left_meanwhile(
    house: House, maria: Reader, post: SmtpServer
):
    """Left during the handover, and the server says 4xx: it is not sent again."""
    post.script("dot", Do(maria.leave), Reply(451, "4.3.0 Later"), times=1)
    house.work()
    house.live(days=3)
    assert maria.mails() == []
    assert maria.delivery().state is State.WITHDRAWN


def test_a_lost_lease_gives_a_letter_back(house: House, maria: Reader, monkeypatch: pytest.MonkeyPatch):
    """A worker whose lease ran out behind the claim sends nothing, and takes nothing back either."""
    house.plan()
    _ = house.lanes
    once_ready(
        monkeypatch,
        lambda: set_row(house, "worker", house.worker, lease_until=DatabaseNow(timedelta(seconds=-1))),
    )
    assert house.send() == 0
    assert (maria.delivery().state, maria.delivery().owner) == (State.PLANNED, None)
    house.app.rescuing.renew(house.worker, host="here")
    assert house.send() == 1


def test_a_lost_lease_gives_a_confirmation_back(house: House, monkeypatch: pytest.MonkeyPatch):
    """A confirmation whose worker lost its lease is released, not withdrawn: somebody waits for it."""
    house.sequence("trust", "one")
    house.publish()
    maria = house.ask()
    _ = house.lanes
    once_ready(
        monkeypatch,
        lambda: set_row(house, "worker", house.worker, lease_until=DatabaseNow(timedelta(seconds=-1))),
    )
    assert house.send() == 0
    assert maria.delivery(kind=Kind.CONFIRMATION).state is State.PLANNED
    house.app.rescuing.renew(house.worker, host="here")
    assert house.send() == 1


@pytest.mark.parametrize("stays", [True, False], ids=["the reader stays", "the reader leaves meanwhile"])
def test_a_handover_that_took_too_long_is_renewed_with_the_same_checks(
    house: House, maria: Reader, monkeypatch: pytest.MonkeyPatch, *, stays: bool
):
    """Where the commit took more than two seconds everything is asked again; who is paused gets nothing."""
    house.plan()
    usual, renew = desk.handovers.hand_over, Desk.renew
    renewals = []

    def slow(*arguments: Any, renew: bool = False, **named: Any) -> Any:
        renewals.append(renew)
        return usual(*arguments, renew=renew, **named)

    def long_ago_and_then_now() -> float:
        return time.monotonic() - (0.0 if renewals else 3.0)

    def meanwhile(self: Desk, handed: Handed) -> Handed | None:
        if not stays:
            maria.pause(weeks=1)
        return renew(self, handed)

    monkeypatch.setattr(desk.handovers, "hand_over", slow)
    # The clock of this module only: the worker's other threads look at theirs whenever they like.
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=long_ago_and_then_now))
    monkeypatch.setattr(Desk, "renew", meanwhile)
    assert house.lanes[1].send_due() == stays
    assert renewals[:2] == [False, True]
    assert maria.steps() == (["one"] if stays else [])
    assert maria.delivery().state is (State.SENT if stays else State.WITHDRAWN)


def test_a_confirmation_that_nobody_waits_for_is_withdrawn(house: House, monkeypatch: pytest.MonkeyPatch):
    """Confirmed by an earlier mail meanwhile: the second confirmation does not leave."""
    house.sequence("trust", "one")
    house.publish()
    maria = house.ask()
    assert maria.delivery(kind=Kind.CONFIRMATION).due_at == NOW
    record = maria.subscription()
    set_row(house, "subscription", record.id, state=Standing.ACTIVE, confirmed_at=NOW, next_due_at=local(TUESDAY))
    assert house.send() == 0
    assert maria.delivery(kind=Kind.CONFIRMATION).state is State.WITHDRAWN
