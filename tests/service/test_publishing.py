"""Making content live, and what that does to people who are half-way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from newsletter.domain.delivery import State as DeliveryState
from newsletter.domain.editing import Change
from newsletter.domain.subscription import State
from newsletter.errors import ContentErrors, PublishRefused
from newsletter.service.publishing import Orders, Publishing
from newsletter.store import deliveries
from tests.support.building import House, Reader, letter, local
from tests.support.smtp_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from newsletter.service.publishing import Publication, StepEffect
    from tests.support.smtp_server import Session

DUE_AGAIN = local("2026-12-01 09:00")


@dataclass(frozen=True)
class Meanwhile:
    """The mail server takes its time with a letter, and something happens elsewhere."""

    action: Callable[[], object]
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        """Do it."""
        self.action()


@pytest.fixture
def house(house: House) -> House:
    """A house with three letters on trust."""
    house.sequence("trust", "one", "two", "three")
    house.publish()
    return house


def effects(publication: Publication, sequence: str = "trust") -> dict[str, StepEffect]:
    """By step key: what a publication does to a sequence."""
    found = {item.key: item for item in publication.sequences}
    return {effect.change.key: effect for effect in found[sequence].steps}


def changes(publication: Publication, sequence: str = "trust") -> dict[str, tuple[Change, ...]]:
    """By step key: what changed."""
    return {key: effect.change.changes for key, effect in effects(publication, sequence).items()}


def people_at_every_place(house: House) -> dict[str, Reader]:
    """One reader before the first letter, one behind each of the first two, and one who never confirmed."""
    names = ["two", "one", "none"]
    people = {}
    for name, day in zip(names, ("2026-11-23 12:00", "2026-11-30 12:00", "2026-12-07 12:00"), strict=True):
        house.live(day)
        people[name] = house.reader(f"{name}@example.org")
    house.ask("pending@example.org")
    assert [len(people[name].steps()) for name in names] == [2, 1, 0]
    return people


class TestPublishing:
    def test_publishing_twice_changes_nothing(self, house: House):
        """The same content again is no new revision, and nothing at all is written."""
        house.reader()
        before = house.everything()
        again = house.publish()
        assert (again.number, again.unchanged, again.sequences) == (1, True, ())
        assert house.everything() == before

    def test_a_look_ahead_changes_nothing(self, house: House):
        """A dry run says what would change, and nothing is written."""
        house.reader()
        house.sequence("trust", "zero", letter("one", print_number=2), "three", "two")
        before = house.everything()
        ahead = house.preview()
        assert house.everything() == before
        assert (ahead.number, ahead.unchanged) == (2, False)
        assert changes(ahead) == {"zero": (Change.NEW,), "one": (Change.CHANGED,), "two": (Change.MOVED,)}
        assert replace(house.publish(), retimed=0) == ahead

    def test_history_and_notes(self, house: House):
        """Every revision is kept with its note and its instant, the newest first; equal content has equal digests."""
        house.later(days=1)
        house.sequence("trust", "one", "two")
        house.publish(note="shorter")
        house.later(days=1)
        house.sequence("trust", "one", "two", "three")
        house.publish()
        heads = house.app.publishing.history()
        assert [(head.number, head.note) for head in heads] == [(3, None), (2, "shorter"), (1, None)]
        assert heads[0].digest == heads[2].digest != heads[1].digest
        assert all(head.retimed_at == head.published_at for head in heads)
        assert [head.number for head in house.app.publishing.history(limit=1)] == [3]

    def test_a_revision_is_what_was_published_not_what_lies_in_the_folder(self, house: House):
        """What is edited after publishing reaches nobody before it is published."""
        maria = house.reader()
        house.sequence("trust", letter("one", print_number=2))
        house.live(days=2)
        assert [mail.print_number for mail in maria.letters()] == [1]

    def test_templates_are_part_of_the_revision(self, open_house: Callable[..., House], tmp_path: Path):
        """An overridden template makes another revision, and its later edits reach nobody before publishing."""
        templates = tmp_path / "templates"
        templates.mkdir()
        house = open_house(templates_dir=templates)
        house.sequence("trust", "one", "two")
        house.publish()
        words = templates / "email" / "words.txt"
        words.parent.mkdir(parents=True)
        shipped = (house.app.editions._shipped_templates / "email" / "words.txt").read_text()
        words.write_text(shipped.replace("Please confirm your address", "Kindly confirm"))
        publication = house.publish()
        assert (publication.number, publication.library) == (2, ("templates",))
        words.write_text(shipped.replace("Please confirm your address", "Do it"))
        maria = house.ask()
        house.work()
        assert maria.mails()[0].subject == "Kindly confirm"

    def test_the_library_is_named_where_it_changed(self, house: House):
        """Changed affirmations, posts and help lines are told in words."""
        house.content.affirmations("calm", "kind")
        house.content.write("help-lines.yaml", '"*": [{name: A, kind: crisis, web: "https://a.org/", hours: "24/7"}]\n')
        publication = house.publish()
        assert publication.library == ("affirmations", "help lines")
        assert publication.sequences == ()
        assert publication.warnings

    def test_two_publications_at_once(self, house: House):
        """Four processes that publish the same edit at once make one revision."""
        house.reader()
        house.sequence("trust", "one", "two", "three", "four")
        barrier = Barrier(4)

        def publish(_: int) -> Publication:
            barrier.wait()
            return house.publish()

        with ThreadPoolExecutor(4) as pool:
            publications = list(pool.map(publish, range(4)))
        assert {publication.number for publication in publications} == {2}
        assert [publication.unchanged for publication in publications].count(False) == 1
        assert [head.number for head in house.app.publishing.history()] == [2, 1]


class TestRefusals:
    @pytest.fixture
    def before(self, house: House) -> dict[str, list[str]]:
        """All that is written, with one reader half-way."""
        house.reader()
        house.live(days=2)
        return house.everything()

    def test_a_faulty_file(self, house: House, before: dict[str, list[str]]):
        """One bad file among good edits leaves the live revision untouched, and every fault is named."""
        house.sequence("trust", letter("one", after="soon"), letter("two", print_number=2))
        house.content.write("sequences/trust/0030-three.md", "no head")
        for attempt in (house.publish, house.preview):
            with pytest.raises(ContentErrors) as refused:
                attempt()
            files = [error.path.rpartition("/")[2] for error in refused.value.errors]
            assert files == ["0010-one.md", "0030-three.md"]
        assert house.everything() == before

    def test_a_letter_that_cannot_be_rendered(self, house: House, before: dict[str, list[str]]):
        """A letter whose Jinja fails for an imagined reader is refused with its file."""
        house.sequence("trust", "one", letter("two", text="More: {{ letter.total + 1 }}"), on_finish="repeat")
        with pytest.raises(ContentErrors, match=r"0020-two\.md"):
            house.publish()
        assert house.everything() == before

    def test_a_sequence_with_readers_is_not_dropped_by_accident(self, house: House, before: dict[str, list[str]]):
        """A sequence that has readers is gone only by order."""
        house.content.drop("trust")
        house.sequence("note", "spring")
        for attempt in (house.publish, house.preview):
            with pytest.raises(PublishRefused, match="--retire trust"):
                attempt()
        assert house.everything() == before

    def test_a_renaming_must_be_said(self, house: House, before: dict[str, list[str]]):
        """The text of a step under another name is refused without `formerly`."""
        house.sequence("trust", "one", letter("second", text="This is two of trust in print 1."), "three")
        for attempt in (house.publish, house.preview):
            with pytest.raises(PublishRefused, match="formerly: two"):
                attempt()
        assert house.everything() == before

    def test_deliver_late_must_name_a_step(self, house: House, before: dict[str, list[str]]):
        """`--deliver-late` of no step is refused."""
        house.sequence("trust", "zero", "one", "two", "three")
        for attempt in (house.publish, house.preview):
            with pytest.raises(PublishRefused, match="--deliver-late zerro"):
                attempt(deliver_late=["zero", "zerro"])
        assert house.everything() == before

    def test_a_sequence_that_nobody_reads_may_go(self, house: House):
        """A sequence without readers is dropped without an order; who never confirmed is no reader."""
        house.ask()
        house.content.drop("trust")
        house.sequence("note", "spring")
        publication = house.publish()
        assert [(item.key, item.change) for item in publication.sequences] == [
            ("note", Change.NEW),
            ("trust", Change.REMOVED),
        ]


class TestNumbers:
    """What a dry run says is what then happens."""

    def test_a_new_step_passes_by_whoever_is_past_it(self, house: House):
        """Who received a later step never gets the new one; the numbers of the look ahead say for how many."""
        people = people_at_every_place(house)
        house.sequence("trust", "one", "between", "two", "three")
        effect = effects(house.preview())["between"]
        assert (effect.people_past, effect.people_ahead, effect.late) == (1, 2, False)
        assert house.preview().sequences[0].readers == 3
        house.publish()
        house.live(weeks=6)
        got = {name: reader.steps().count("between") for name, reader in people.items()}
        assert got == {"none": 1, "one": 1, "two": 0}
        assert people["two"].steps() == ["one", "two", "three"]
        assert people["none"].steps() == ["one", "between", "two", "three"]

    @pytest.mark.parametrize("order", ["between", "trust/between", "all"])
    def test_delivered_late_it_reaches_everybody(self, house: House, order: str):
        """A new step that the operator names is sent even to those who are past it."""
        people = people_at_every_place(house)
        house.sequence("trust", "one", "between", "two", "three")
        effect = effects(house.preview(deliver_late=[order]))["between"]
        assert (effect.people_past, effect.people_ahead, effect.late) == (1, 2, True)
        house.publish(deliver_late=[order])
        house.live(weeks=6)
        assert people["two"].steps() == ["one", "two", "between", "three"]
        assert people["one"].steps() == people["none"].steps() == ["one", "between", "two", "three"]

    def test_a_step_that_passed_people_by_can_be_delivered_late_afterwards(self, house: House):
        """Naming it in a later revision reaches exactly those whom it had passed by."""
        people = people_at_every_place(house)
        house.sequence("trust", "one", "between", "two", "three")
        house.publish()
        ahead = house.preview(deliver_late=["between"])
        effect = effects(ahead)["between"]
        assert (effect.people_past, effect.people_ahead, effect.late) == (1, 2, True)
        assert house.publish(deliver_late=["between"]).number == 3
        house.live(weeks=6)
        assert {name: reader.steps().count("between") for name, reader in people.items()} == {
            "none": 1,
            "one": 1,
            "two": 1,
        }

    def test_a_removed_step_in_numbers(self, house: House):
        """Of a removed step the look ahead says who had it and who will not; the others go on without it."""
        people = people_at_every_place(house)
        house.sequence("trust", "one", "three")
        effect = effects(house.preview())["two"]
        assert effect.change.changes == (Change.REMOVED,)
        assert (effect.people_past, effect.people_ahead) == (1, 2)
        house.publish()
        house.live(weeks=6)
        assert {name: reader.steps() for name, reader in people.items()} == {
            "none": ["one", "three"],
            "one": ["one", "three"],
            "two": ["one", "two", "three"],
        }

    def test_reordering_passes_nobody_by_and_repeats_nothing(self, house: House):
        """Whatever is moved, everybody gets every step once."""
        people = people_at_every_place(house)
        house.sequence("trust", "three", "two", "one")
        house.publish()
        house.live(weeks=6)
        for reader in people.values():
            assert sorted(reader.steps()) == ["one", "three", "two"]
            assert reader.state() is State.FINISHED

    def test_the_numbers_of_retimed_people(self, house: House):
        """The publication says how many got another due instant or state."""
        house.sequence("trust", "one", on_finish="hold")
        house.publish()
        for number in range(3):
            house.reader(f"reader{number}@example.org")
        house.live(days=2)
        house.sequence("trust", "one", "two", on_finish="hold")
        assert house.publish().retimed == 3


class TestEdits:
    def test_a_removed_step_is_withdrawn_where_it_was_planned(self, house: House):
        """A planned letter whose step is removed does not leave; the next one leaves in the same slot."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        house.plan()
        house.sequence("trust", "two", "three")
        house.publish()
        assert maria.delivery().reason == "the step was removed"
        house.work()
        assert maria.steps() == ["two"]
        assert [mail.date for mail in maria.letters()] == [local("2026-11-24 09:00")]

    def test_a_removed_step_that_comes_back(self, house: House):
        """A step that was withdrawn by an edit and is put back is sent on the same row."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        house.plan()
        first = maria.delivery().id
        house.sequence("trust", "two", "three")
        house.publish()
        house.sequence("trust", "one", "two", "three")
        house.publish()
        house.work()
        assert maria.steps() == ["one"]
        assert maria.delivery().id == first

    def test_a_renamed_step_is_not_sent_again(self, house: House):
        """`formerly` hands the step over: who had it does not get it under the new name, the others do."""
        maria = house.reader()
        house.live(days=2)
        ben = house.reader("ben@example.org")
        house.sequence(
            "trust",
            letter(
                "first",
                formerly="one",
                subject="A letter called one for you today",
                text="This is one of trust in print 1.",
            ),
            letter("second", formerly="two", text="This is second of trust in print 1."),
            "three",
        )
        publication = house.publish()
        assert changes(publication)["first"] == (Change.RENAMED,)
        assert set(changes(publication)["second"]) == {Change.RENAMED, Change.CHANGED}
        house.live(weeks=5)
        assert maria.steps() == ["one", "second", "three"]
        assert ben.steps() == ["one", "second", "three"]

    def test_an_appended_step_reaches_those_who_wait(self, house: House):
        """Who had received all of a held sequence gets a step that is added at the end, at their slot."""
        house.sequence("trust", "one", on_finish="hold")
        house.publish()
        maria = house.reader()
        house.live("2026-12-09 12:00")
        assert (maria.state(), maria.due()) == (State.WAITING, None)
        house.sequence("trust", "one", "two", on_finish="hold")
        house.publish()
        assert (maria.state(), maria.due()) == (State.ACTIVE, local("2026-12-15 09:00"))
        assert maria.story("retimed")
        house.live(weeks=2)
        assert maria.steps() == ["one", "two"]
        assert maria.state() is State.WAITING

    def test_a_shorter_series_finishes_who_had_the_rest(self, house: House):
        """Who has received all that is left finishes when the tail is cut off."""
        maria = house.reader()
        house.live("2026-12-02 12:00")
        house.sequence("trust", "one", "two")
        assert house.publish().retimed == 1
        assert (maria.state(), maria.due()) == (State.FINISHED, None)

    def test_who_finished_is_not_called_back(self, house: House):
        """A step appended to a series that stops reaches nobody who had finished it."""
        maria = house.reader()
        house.live(weeks=4)
        house.sequence("trust", "one", "two", "three", "four")
        assert house.publish().retimed == 0
        house.live(weeks=3)
        assert maria.steps() == ["one", "two", "three"]

    def test_another_after_moves_the_next_letter(self, house: House):
        """A changed `after` counts from the last letter; taken away again, the slot rules."""
        maria = house.reader()
        house.live("2026-11-24 12:00")
        assert maria.due() == DUE_AGAIN
        for after, due in (("3 days", "2026-11-27 09:00"), ("10 days", "2026-12-04 09:00"), (None, "2026-12-01 09:00")):
            house.sequence("trust", "one", letter("two", **({"after": after} if after else {})), "three")
            publication = house.publish()
            assert publication.retimed == 1
            assert changes(publication) == {"two": (Change.RETIMED,)}
            assert maria.due() == local(due)

    def test_a_mended_text_moves_nobody(self, house: House):
        """Another text re-times nobody, and the letter that waits is printed anew."""
        maria = house.reader()
        house.at("2026-11-24 09:00")
        house.plan()
        house.sequence("trust", letter("one", print_number=2), "two", "three")
        assert house.publish().retimed == 0
        house.work()
        assert [mail.print_number for mail in maria.letters()] == [2]

    def test_a_new_revision_reopens_what_was_held(self, house: House):
        """A letter that the mail server refused is tried again with the next revision."""
        maria = house.reader()
        house.post.script("dot", Reply(554, "5.6.0 no"), times=1)
        house.live("2026-11-24 09:30")
        assert maria.delivery().state is DeliveryState.HELD
        house.sequence("trust", letter("one", print_number=2), "two", "three")
        house.publish()
        house.work()
        assert [mail.print_number for mail in maria.letters()] == [2]
        assert maria.delivery().attempt == 1


class TestRetiring:
    def test_by_order_its_readers_finish(self, house: House):
        """A retired sequence ends for its readers, what waits is withdrawn, and nothing more comes."""
        maria = house.reader()
        ben = house.reader("ben@example.org")
        ben.pause(weeks=8)
        house.at("2026-11-24 09:00")
        house.plan()
        house.content.drop("trust")
        house.sequence("note", "spring")
        ahead = house.preview(retire=["trust"])
        assert [(item.key, item.change, item.readers) for item in ahead.sequences][1] == ("trust", Change.REMOVED, 2)
        assert house.publish(retire=["trust"]).retimed == 2
        assert (maria.state(), ben.state()) == (State.FINISHED, State.FINISHED)
        assert maria.delivery().state is DeliveryState.WITHDRAWN
        assert maria.story("finished")
        house.live(weeks=10)
        assert maria.letters() == ben.letters() == []

    def test_the_others_keep_theirs(self, house: House):
        """Retiring one sequence leaves the readers of another alone."""
        house.sequence("note", "spring", on_finish="repeat")
        house.publish()
        ben = house.reader("ben@example.org", "note")
        due = ben.due("note")
        house.reader()
        house.content.drop("trust")
        house.publish(retire=["trust"])
        assert (ben.state("note"), ben.due("note")) == (State.ACTIVE, due)


class TestFinishing:
    def test_waiting_readers_begin_again_where_a_sequence_comes_to_repeat(self, house: House):
        """A held sequence that now repeats begins the next round for those who waited."""
        house.sequence("trust", "one", on_finish="hold")
        house.publish()
        maria = house.reader()
        house.live(days=2)
        assert maria.state() is State.WAITING
        house.sequence("trust", "one", on_finish="repeat")
        house.publish()
        assert (maria.state(), maria.subscription().round, maria.due()) == (State.ACTIVE, 2, DUE_AGAIN)
        assert all(head.retimed_at for head in house.app.publishing.history())
        house.live(weeks=1)
        assert maria.steps() == ["one", "one"]

    def test_a_step_for_somebody_whose_letters_ran_out_during_a_pause(self, house: House):
        """Who paused while the last letter left gets a step that is added long after the pause."""
        house.sequence("trust", "one", on_finish="hold")
        house.publish()
        maria = house.reader()
        house.post.script("dot", Meanwhile(lambda: maria.pause(weeks=1)), times=1)
        house.at("2026-11-24 09:00")
        house.plan()
        house.send()
        assert maria.steps() == ["one"]
        house.later(days=60)
        house.plan()
        house.sequence("trust", "one", "two", on_finish="hold")
        house.publish()
        house.live(weeks=2)
        assert maria.steps() == ["one", "two"]
        assert maria.state() is State.WAITING

    def test_a_sequence_that_grows_during_a_pause_waits_for_its_end(self, house: House):
        """A step added for somebody who waits, while their other letters are paused, is held with them."""
        house.sequence("trust", "one", on_finish="hold")
        house.sequence("other", *(f"part{number}" for number in range(5)))
        house.publish()
        maria = house.reader("maria@example.org", "trust")
        house.live(days=2)
        house.reader("maria@example.org", "other")
        house.live("2026-12-02 12:00")
        assert (maria.state("trust"), maria.state("other")) == (State.WAITING, State.ACTIVE)
        maria.pause(weeks=8)
        until, arrived = maria.record.paused_until, len(maria.mails())
        house.sequence("trust", "one", "two", on_finish="hold")
        house.publish()
        assert {maria.state("trust"), maria.state("other")} == {State.PAUSED}
        house.live("2027-01-26 12:00")
        assert len(maria.mails()) == arrived
        assert maria.record.paused_until == until
        house.live("2027-03-31 12:00")
        assert maria.steps("trust") == ["one", "two"]
        assert len(maria.steps("other")) == 5


class TestRetiming:
    def test_an_interrupted_retiming_is_finished_by_housekeeping(self, house: House, monkeypatch: pytest.MonkeyPatch):
        """A process that died between going live and re-timing leaves it to the next one that keeps house."""
        maria = house.reader()
        house.live("2026-11-24 12:00")
        house.sequence("trust", "one", letter("two", after="3 days"), "three")

        def die(*_: Any, **__: Any) -> int:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Publishing, "retime", die)
            with pytest.raises(KeyboardInterrupt):
                house.publish()
        assert house.app.publishing.history()[0].retimed_at is None
        assert maria.due() == DUE_AGAIN
        house.app.housekeeping.keep_house(now=house.now, stop=lambda: True)
        assert house.app.publishing.history()[0].retimed_at is None
        house.app.housekeeping.keep_house(now=house.now)
        assert house.app.publishing.history()[0].retimed_at == house.now
        assert maria.due() == local("2026-11-27 09:00")

    def test_a_second_retiming_changes_nothing(self, house: House):
        """Re-timing again moves nobody."""
        house.reader()
        house.sequence("trust", "one", letter("two", after="3 days"), "three")
        house.publish()
        before = house.everything()
        assert house.app.publishing.retime(now=house.now) == 0
        assert house.everything() == before

    def test_what_is_being_handed_over_is_not_touched(self, house: House):
        """A letter whose step is removed while it is being handed over arrives once and is recorded."""
        maria = house.reader()

        def edit() -> None:
            house.sequence("trust", "two", "three")
            house.app.publishing.publish(house.content.root, orders=Orders(), now=house.now)

        house.post.script("dot", Meanwhile(edit), times=1)
        house.live("2026-12-10 12:00")
        assert maria.steps() == ["one", "two", "three"]
        assert {item.state for item in maria.deliveries()} == {DeliveryState.SENT}
        with house.app.database.read() as connection:
            assert deliveries.open_letters(connection, [maria.record.id]) == {}


def test_a_misspelt_retirement_is_refused(house: House):
    """--retire with a key that was never published, or is still in the folder, is refused and changes nothing."""
    house.sequence("trust", "one")
    live = house.publish().number
    for key in ("truts", "trust"):
        with pytest.raises(PublishRefused, match=f"--retire {key}"):
            house.publish(retire=[key])
    assert house.app.publishing.history()[0].number == live
