"""Which step is which, and what differs between two revisions."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.editing import (
    Change,
    compare,
    identify,
    names_of,
    outlines_of,
    renamed_without_saying,
    without_orders,
)
from newsletter.domain.sequence import Revision, Sequence, Step


def step(key: str, *, number: int = 1, **more: object) -> Step:
    """A step whose text follows from its key, unless another is given."""
    values = {"path": f"sequences/trust/{number:02}-{key}.md", "subject": "Hello", "body": f"About {key}.\n", **more}
    return Step(key=key, number=number, **values)  # type: ignore[arg-type]


def revision(*steps: Step | str, key: str = "trust", late: tuple[str, ...] = ()) -> Revision:
    """One sequence of some steps, numbered in this order."""
    made = [step(one, number=at) if isinstance(one, str) else one for at, one in enumerate(steps, start=1)]
    return Revision(sequences=(Sequence(key=key, title="Trust", steps=tuple(made), deliver_late=late),))


class History:
    """Publishes one revision after the other, as the service does."""

    def __init__(self) -> None:
        self.live: Revision | None = None
        self.names: dict[tuple[str, str], str] = {}

    def publish(self, *steps: Step | str) -> list[str]:
        """Publish; the identities in order."""
        self.live = identify(revision(*steps), live=self.live, names=self.names)
        self.names |= names_of(self.live)
        return [one.identity for one in self.live.sequences[0].steps]


@pytest.fixture
def history() -> History:
    return History()


class TestIdentity:
    """A step is remembered by an identity that its key may lose and take up again."""

    def test_a_new_step_is_called_by_its_key(self, history: History):
        """At first a step's identity is its key."""
        assert history.publish("one", "two") == ["one", "two"]

    def test_renumbering_and_moving_change_no_identity(self, history: History):
        """Another number or another place is the same step."""
        history.publish("one", "two", "three")
        assert history.publish(step("three", number=1), step("one", number=70)) == ["three", "one"]

    def test_formerly_hands_the_identity_over(self, history: History):
        """A renamed step that says so keeps the identity."""
        history.publish("one", "two")
        assert history.publish("one", step("deux", formerly="two")) == ["one", "two"]

    def test_a_step_can_be_renamed_again_and_again(self, history: History):
        """Each renaming hands the same identity on, also past a revision that was skipped."""
        history.publish("one")
        history.publish(step("un", formerly="one"))
        assert history.publish(step("eins", formerly="un")) == ["one"]
        assert history.publish(step("ichi", formerly="one")) == ["one"]
        assert history.publish(step("ichi")) == ["one"]

    def test_formerly_may_stay_in_the_file(self, history: History):
        """A second publication with the same `formerly` changes no identity."""
        history.publish("one", "two")
        assert history.publish("one", step("deux", formerly="two")) == ["one", "two"]
        assert history.publish("one", step("deux", formerly="two")) == ["one", "two"]

    def test_an_old_name_can_be_given_to_a_new_letter(self, history: History):
        """A new letter under a name that was renamed away is another step."""
        history.publish("one", "two")
        history.publish("one", step("deux", formerly="two"))
        assert history.publish("two", "one", step("deux", formerly="two")) == ["two~2", "one", "two"]
        assert history.publish("deux", "one", "two") == ["two", "one", "two~2"]

    def test_renaming_back_takes_the_identity_back(self, history: History):
        """A step renamed and renamed back is the same step."""
        history.publish("one")
        history.publish(step("un", formerly="one"))
        assert history.publish(step("one", formerly="un")) == ["one"]

    def test_a_step_that_comes_back_is_the_one_that_went(self, history: History):
        """A step removed and put back is remembered by the same identity."""
        history.publish("one", "two")
        history.publish("one")
        assert history.publish("one", "two") == ["one", "two"]

    def test_a_renamed_step_that_comes_back_is_the_one_that_went(self, history: History):
        """A key that stood for a renamed step still does after it was removed and put back."""
        history.publish("one", "two")
        history.publish("one", step("deux", formerly="two"))
        history.publish("one")
        assert history.publish("one", "deux") == ["one", "two"]

    def test_a_copied_file_takes_nothing_from_the_letter_it_was_copied_from(self, history: History):
        """A new letter whose head still says `formerly` takes no identity that a living letter has."""
        history.publish("one", "two")
        history.publish("one", step("deux", formerly="two"))
        assert history.publish(step("copy", formerly="two"), "one", "deux") == ["copy", "one", "two"]

    def test_two_steps_never_share_an_identity(self, history: History):
        """Where two files claim the same former key, the first has it and the other is new."""
        history.publish("one", "two")
        identities = history.publish(step("a", formerly="two"), step("b", formerly="two"), "one")
        assert identities == ["two", "b", "one"]

    def test_a_name_made_up_for_a_new_step_is_never_taken(self, history: History):
        """However often a name is given away, each step has an identity of its own."""
        history.publish("one")
        history.publish(step("un", formerly="one"))
        history.publish("un", "one")
        history.publish("un", step("deux", formerly="one"))
        assert history.publish("un", "deux", "one") == ["one", "one~2", "one~3"]

    def test_sequences_do_not_share_names(self):
        """The same key in two sequences is two steps."""
        names = {("other", "one"): "another"}
        found = identify(revision("one"), live=None, names=names)
        assert found.sequences[0].steps[0].identity == "one"

    @given(
        st.lists(
            st.lists(
                st.tuples(st.sampled_from("abcde"), st.one_of(st.none(), st.sampled_from("abcde"))),
                unique_by=lambda one: one[0],
                min_size=1,
            ),
            min_size=1,
            max_size=8,
        )
    )
    def test_whatever_is_renamed_identities_stay_apart_and_live_keys_keep_theirs(self, edits: list):
        """Under any renaming no two steps share an identity, and a key that stays keeps its own."""
        history = History()
        before: dict[str, str] = {}
        for edit in edits:
            steps = [step(key, formerly=old if old != key else None) for key, old in edit]
            identities = history.publish(*steps)
            assert len(set(identities)) == len(identities)
            now = dict(zip([key for key, _ in edit], identities, strict=True))
            assert all(now[key] == before[key] for key in now.keys() & before.keys())
            assert all(len(identity) <= 80 for identity in identities)
            before = now


class TestCompare:
    """What publishing would change, as an operator would say it."""

    @pytest.mark.parametrize(
        ("before", "now", "expected"),
        [
            ("abc", "abc", {}),
            ("abc", "abcd", {"d": [Change.NEW]}),
            ("abc", "xabc", {"x": [Change.NEW]}),
            ("abc", "ac", {"b": [Change.REMOVED]}),
            ("abc", "cab", {"c": [Change.MOVED]}),
            ("abcd", "bcda", {"a": [Change.MOVED]}),
            ("abcd", "cxbd", {"x": [Change.NEW], "b": [Change.MOVED], "a": [Change.REMOVED]}),
            ("", "ab", {"a": [Change.NEW], "b": [Change.NEW]}),
            ("ab", "", {"a": [Change.REMOVED], "b": [Change.REMOVED]}),
        ],
    )
    def test_the_fewest_changes_are_told(self, before: str, now: str, expected: dict[str, list[Change]]):
        """New, moved and removed steps are told, and nothing that stayed where it was."""
        old, new = (identify(revision(*steps), live=None, names={}).sequences[0] for steps in (before, now))
        found = compare(old if before else None, new if now else None)
        assert {change.key: list(change.changes) for change in found} == expected

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"body": "Another text.\n"}, Change.CHANGED),
            ({"subject": "Another"}, Change.CHANGED),
            ({"preheader": "Another"}, Change.CHANGED),
            ({"heading": "Another"}, Change.CHANGED),
            ({"affirmation": None}, Change.CHANGED),
            ({"related": ("a-post",)}, Change.CHANGED),
            ({"related_discreet": ()}, Change.CHANGED),
            ({"after": timedelta(days=3)}, Change.RETIMED),
            ({"key": "other", "formerly": "one", "body": "About one.\n"}, Change.RENAMED),
            ({"number": 5, "path": "sequences/trust/05-one.md"}, None),
            ({"body_line": 9}, None),
            ({"head_lines": {"subject": 3}}, None),
        ],
    )
    def test_each_part_of_a_letter_is_compared(self, change: dict[str, object], expected: Change | None):
        """Text, timing and name are told apart; the number and the file are no change."""
        first = identify(revision("one"), live=None, names={})
        values = {"number": 1, **change}
        second = identify(revision(step(str(values.pop("key", "one")), **values)), live=first, names=names_of(first))
        found = compare(first.sequences[0], second.sequences[0])
        assert [change.changes for change in found] == ([] if expected is None else [(expected,)])

    def test_the_changes_stand_in_the_new_order_and_the_removed_ones_last(self):
        """An operator reads the changes in the order of the letters."""
        old, new = (identify(revision(*steps), live=None, names={}).sequences[0] for steps in ("xab", "cabd"))
        assert [change.key for change in compare(old, new)] == ["c", "d", "x"]

    @pytest.mark.parametrize(("now", "moved"), [("badc", 2), ("dcba", 3), ("cdab", 2), ("bcda", 1), ("abdc", 1)])
    def test_no_more_is_told_as_moved_than_has_to_be(self, now: str, moved: int):
        """The fewest steps whose moving explains an order are told."""
        old, new = (identify(revision(*steps), live=None, names={}).sequences[0] for steps in ("abcd", now))
        assert [change.changes for change in compare(old, new)] == [(Change.MOVED,)] * moved

    @given(st.permutations("abcdefg"), st.integers(0, 7), st.integers(0, 7))
    def test_what_is_not_told_as_moved_kept_its_order(self, order: list[str], first: int, second: int):
        """All steps that are not told as moved, new or removed stand in the same order as before."""
        old = identify(revision(*"abcdefg"[first:]), live=None, names={}).sequences[0] if first < 7 else None
        new = identify(revision(*order[second:]), live=None, names={}).sequences[0] if second < 7 else None
        told = {change.key for change in compare(old, new)}
        kept = [[one.key for one in side.steps if one.key not in told] if side else [] for side in (old, new)]
        assert kept[0] == kept[1]


class TestRenamedWithoutSaying:
    """A removed and an added step with the same text are most likely one step."""

    def test_the_same_text_under_another_name_is_found(self):
        """A file that was only renamed is found, with both its names."""
        old = identify(revision("one", "two"), live=None, names={})
        new = identify(revision("one", step("deux", body="\nAbout two.")), live=old, names=names_of(old))
        found = renamed_without_saying(old.sequences[0], new.sequences[0])
        assert [(before.key, now.key) for before, now in found] == [("two", "deux")]

    def test_a_renaming_that_says_so_is_none(self):
        """With `formerly` nothing is amiss; nor where the text is another, or the old step is still there."""
        old = identify(revision("one", "two"), live=None, names={})
        for steps in (
            ["one", step("deux", body="About two.\n", formerly="two")],
            ["one", "deux"],
            ["one", "two", step("deux", body="About two.\n")],
        ):
            new = identify(revision(*steps), live=old, names=names_of(old))
            assert renamed_without_saying(old.sequences[0], new.sequences[0]) == []


def test_an_outline_holds_order_and_late_delivery():
    """The outline of a sequence is its identities in order, with what is delivered late."""
    found = identify(revision("one", "two", late=("two",)), live=None, names={})
    outline = outlines_of(found, number=4)["trust"]
    assert (outline.revision, outline.steps, outline.deliver_late) == (4, ("one", "two"), {"two"})


def test_orders_are_no_content():
    """Two revisions that differ only in how they were published hold the same content."""
    assert revision("one", late=("one",)) != revision("one")
    assert without_orders(revision("one", late=("one",))) == revision("one")
