"""Edits between the letters of real readers, against a model of rules 1 to 5 written from their words."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.domain.sequence import Finish, OnFinish, Revision, Sequence, Step
from newsletter.domain.subscription import State
from tests.support.building import House, Reader, letter, local
from tests.support.smtp_server import SmtpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LETTERS = "abcdef"
# Rendering is tested elsewhere; these templates make it quick.
TEMPLATES = {"email/letter.html": "<p>{{ subject }}</p>", "email/letter.txt": "{{ subject }} {{ links.unsubscribe }}"}


@dataclass
class Person:
    """One reader, as the rules say it."""

    received: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    stands: str | None = None
    round: int = 1
    state: str = "active"
    away_until_week: int = 0
    planned: str | None = None
    everything: list[tuple[int, str]] = field(default_factory=list)

    def publish(self, before: list[str], now: list[str], late: set[str]) -> None:
        """Rule 2."""
        last = self.received[-1] if self.received else None
        if last in now:
            self.stands = last
        elif self.stands not in now:
            earlier = before[: before.index(self.stands)] if self.stands else []
            self.stands = next((step for step in reversed(earlier) if step in now), None)
        if self.stands is not None:
            ahead = set(now[: now.index(self.stands)])
            self.passed |= (ahead - set(before)) - late - set(self.received)
        self.passed -= late

    def next(self, order: list[str]) -> str | None:
        """Rule 1."""
        return next((step for step in order if step not in self.received and step not in self.passed), None)

    def receive(self, step: str) -> None:
        """A letter arrived."""
        self.received.append(step)
        self.everything.append((self.round, step))
        self.stands = step

    def settle(self, order: list[str], finish: Finish) -> None:
        """What the sequence says about its end, and about its growth."""
        if self.state in ("finished", "left"):
            return
        if self.next(order) is not None:
            self.state = "active"
        elif finish is Finish.REPEAT:
            self.state, self.round = "active", self.round + 1
            self.received, self.passed, self.stands = [], set(), None
        else:
            self.state = "waiting" if finish is Finish.HOLD else "finished"


class Story:
    """The same events told to a house and to the model of it."""

    def __init__(self, house: House, patch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.order: list[str] = ["a", "b", "c"]
        self.finish = Finish.STOP
        self.names = {step: step for step in LETTERS}  # by identity: the key of its file
        self.formerly: dict[str, str] = {}
        self.renamed = 0
        self.week = 0
        self.readers: list[Reader] = []
        self.people: list[Person] = []
        patch.setattr(house.app.publishing, "read", lambda folder, today: (self.content(), ()))
        house.publish()
        house.at("2026-11-24 12:00")

    def content(self) -> Revision:
        """What lies in the folder."""
        steps = tuple(
            Step(
                key=self.names[step],
                number=number,
                path=f"sequences/trust/{number}-{self.names[step]}.md",
                subject=f"letter {step}",
                body=f"The letter {step}.\n",
                formerly=self.formerly.get(step),
                affirmation=None,
                related=(),
            )
            for number, step in enumerate(self.order, start=1)
        )
        sequence = Sequence(key="trust", title="Trust", steps=steps, on_finish=OnFinish(finish=self.finish))
        return Revision(sequences=(sequence,), templates=dict(TEMPLATES))

    def tell(self, event: tuple[str, Any]) -> None:
        """Let something happen, and see that both sides agree."""
        kind, detail = event
        getattr(self, f"_{kind}")(detail)
        self.compare()

    def _join(self, _: object) -> None:
        if len(self.readers) < 3:
            self.readers.append(self.house.reader(f"reader{len(self.readers)}@example.org"))
            self.people.append(Person())

    def _leave(self, who: int) -> None:
        if self.people:
            at = who % len(self.people)
            self.readers[at].leave()
            self.people[at].state = "left"
            self.people[at].planned = None

    def _pause(self, who: int) -> None:
        """Two weeks from a Tuesday noon: the next Tuesday is left out."""
        if self.people and self.people[who % len(self.people)].state == "active":
            at = who % len(self.people)
            self.readers[at].pause(weeks=2)
            self.people[at].away_until_week = self.week + 2

    def _publish(self, detail: tuple[list[str], set[str], Finish]) -> None:
        order, late, finish = detail
        late &= set(order)
        before, self.order, self.finish = self.order, list(order), finish
        self.house.publish(deliver_late=[self.names[step] for step in sorted(late)])
        self._published(before, late)

    def _published(self, before: list[str], late: set[str]) -> None:
        for person in self.people:
            person.publish(before, self.order, late)
            if person.planned is not None and person.planned not in self.order:
                person.planned = None  # rule 4
            if person.planned is None:
                person.settle(self.order, self.finish)

    def _rename(self, which: int) -> None:
        step = self.order[which % len(self.order)]
        self.renamed += 1
        self.formerly[step] = self.names[step]
        self.names[step] = f"renamed-{self.renamed}"
        self.house.publish()
        self._published(self.order, set())

    def _week(self, in_between: list[tuple[str, Any]]) -> None:
        """The next Tuesday, 09:00: letters are planned, whatever happens happens, letters leave."""
        self.week += 1
        self.house.at(local("2026-11-24 09:00") + timedelta(weeks=self.week))
        self.house.plan()
        self.house.later(seconds=1)  # the slot is over for whoever has no letter planned
        present = []
        for person in self.people:
            if person.away_until_week <= self.week and person.state == "active":
                person.planned = person.next(self.order)
                present.append(person)
        for kind, detail in in_between:
            getattr(self, f"_{kind}")(detail)
        self.house.work()
        for person in present:
            if person.state in ("left", "finished"):
                continue
            step = person.planned or person.next(self.order)
            person.planned = None
            if step is not None:
                person.receive(step)
            person.settle(self.order, self.finish)
        self.house.at(local("2026-11-24 12:00") + timedelta(weeks=self.week))

    def compare(self) -> None:
        """Every reader has received what the rules say, in their order, and stands where they say."""
        for reader, person in zip(self.readers, self.people, strict=True):
            rows = [item for item in reader.deliveries() if item.received]
            rows.sort(key=lambda item: item.sent_at or item.due_at)
            arrived = [(item.round, item.step) for item in rows]
            assert arrived == person.everything
            assert len(set(arrived)) == len(arrived)
            mails = [mail.subject.removeprefix("letter ") for mail in reader.mails()]
            assert mails == [step for _, step in person.everything]
            state = State.ACTIVE if reader.state() is State.PAUSED else reader.state()
            if person.state == "waiting" and person.away_until_week > self.week:
                continue  # one whose letters ran out during their pause waits for its end
            assert state == person.state


an_order = st.lists(st.sampled_from(LETTERS), unique=True, min_size=1, max_size=5)
a_finish = st.sampled_from([Finish.STOP, Finish.STOP, Finish.HOLD, Finish.REPEAT])
an_edit = st.one_of(
    st.tuples(st.just("publish"), st.tuples(an_order, st.sets(st.sampled_from(LETTERS), max_size=2), a_finish)),
    st.tuples(st.just("rename"), st.integers(0, 5)),
)
a_week = st.tuples(
    st.just("week"), st.lists(st.one_of(an_edit, st.tuples(st.just("leave"), st.integers(0, 2))), max_size=1)
)
an_event = st.one_of(
    a_week,
    st.tuples(st.just("week"), st.just([])),
    an_edit,
    st.tuples(st.just("join"), st.none()),
    st.tuples(st.just("pause"), st.integers(0, 2)),
)
some_events = st.lists(an_event, min_size=4, max_size=16)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    """Makes migrated databases, one for each story."""
    if request.param == "sqlite":
        migrated = request.getfixturevalue("migrated_sqlite")

        @contextmanager
        def sqlite() -> Iterator[str]:
            path = tmp_path / f"{uuid4().hex}.db"
            path.write_bytes(migrated.read_bytes())
            yield f"sqlite:///{path}"

        return sqlite
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("migrated_postgres")

    @contextmanager
    def postgres() -> Iterator[str]:
        url = server.create_database(template=template)
        yield url
        server.drop_database(url)

    return postgres


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(events=some_events)
def test_whatever_is_edited_between_letters_the_rules_hold(
    new_database: Callable[[], Any], tmp_path: Path, events: list[tuple[str, Any]]
):
    """Under any edits, renamings, pauses and leavings everybody receives what the rules say, and nothing twice."""
    with new_database() as url, SmtpServer() as post, pytest.MonkeyPatch.context() as patch:
        house = House(url, tmp_path, post=post)
        try:
            story = Story(house, patch)
            story.tell(("join", None))
            for event in events:
                story.tell(event)
        finally:
            house.close()


class TestSeveralRevisions:
    """Revisions that went live one after the other before anybody was re-timed."""

    @pytest.fixture
    def house(self, house: House) -> House:
        """A house with three letters, and a reader who has had two of them."""
        house.sequence("trust", "one", "two", "three")
        house.publish()
        house.reader()
        house.live("2026-12-02 12:00")
        return house

    def publish_untimed(self, house: House, *steps: Any) -> None:
        """Go live, and die before anybody is re-timed."""
        house.sequence("trust", *steps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(house.app.publishing, "retime", lambda **_: 0)
            house.publish()

    def test_people_are_moved_by_what_is_live(self, house: House):
        """A last letter that was taken out and put back ends nobody's series."""
        maria = Reader(house, "maria@example.org")
        self.publish_untimed(house, "one", "two")
        self.publish_untimed(house, "one", "two", "three")
        house.app.housekeeping.keep_house(now=house.now)
        assert maria.state() is State.ACTIVE
        assert all(head.retimed_at for head in house.app.publishing.history())
        house.live(weeks=2)
        assert maria.steps() == ["one", "two", "three"]

    def test_each_of_them_passes_people_by(self, house: House):
        """New letters of each revision before the last one received pass by; those at the end come."""
        maria = Reader(house, "maria@example.org")
        self.publish_untimed(house, "zero", "one", "two", "three")
        self.publish_untimed(house, "zero", "one", "half", "two", "three", "four")
        house.app.housekeeping.keep_house(now=house.now)
        house.live(weeks=4)
        assert maria.steps() == ["one", "two", "three", "four"]

    def test_another_distance_in_an_earlier_one_counts(self, house: House):
        """A changed `after` that a later revision kept is heeded, though another revision lies between."""
        maria = Reader(house, "maria@example.org")
        self.publish_untimed(house, "one", "two", letter("three", after="3 days"))
        self.publish_untimed(house, "one", "two", letter("three", after="3 days"), "four")
        house.app.housekeeping.keep_house(now=house.now)
        assert maria.due() == local("2026-12-04 09:00")
