"""Which step comes next, under every edit: the rules one by one, then against a model of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.progress import (
    Outline,
    Place,
    begin_round,
    catch_up,
    newly_passed,
    next_step,
    receive,
    standing,
    steps_ahead,
)
from newsletter.domain.sequence import Sequence, Step


def outline(revision: int, steps: str, *, late: str = "") -> Outline:
    """An outline whose steps are single letters."""
    return Outline(revision=revision, steps=tuple(steps), deliver_late=frozenset(late))


def sequence(steps: str) -> Sequence:
    """A sequence whose steps are single letters."""
    made = (Step(key=key, identity=key, number=at, path="", subject="", body="") for at, key in enumerate(steps))
    return Sequence(key="trust", title="Trust", steps=tuple(made))


def place(received: str = "", *, seen: int = 1, passed: str = "") -> Place:
    """Somebody who received some steps, in this order."""
    return Place(
        anchor=received[-1] if received else None,
        seen_revision=seen,
        received=frozenset(received),
        passed=frozenset(passed),
    )


def coming(steps: str, at: Place) -> str:
    """All that is still ahead, in order."""
    found = ""
    while (step := next_step(sequence(steps), received=at.received, passed=at.passed)) is not None:
        found += step.identity
        at = receive(at, step.identity)
    return found


class TestNextStep:
    """Rule 1: the first step in the live order that was neither received nor passed by."""

    @pytest.mark.parametrize(
        ("steps", "received", "passed", "expected"),
        [
            ("abc", "", "", "a"),
            ("abc", "a", "", "b"),
            ("abc", "abc", "", None),
            ("abc", "a", "b", "c"),
            ("abc", "b", "", "a"),
            ("cba", "a", "", "c"),
            ("", "a", "", None),
        ],
    )
    def test_the_first_neither_received_nor_passed_is_next(
        self, steps: str, received: str, passed: str, expected: str | None
    ):
        """The next step is the first of the live order that is left."""
        step = next_step(sequence(steps), received=set(received), passed=set(passed))
        assert (step.identity if step else None) == expected

    def test_the_count_ahead_is_what_is_left(self):
        """Ahead is what was neither received nor passed by, the next one included; what is gone counts nowhere."""
        assert steps_ahead(sequence("abcd"), received={"a", "gone"}, passed={"c"}) == 2


class TestPassing:
    """Rule 2: what is new and stands before the last step received passes by."""

    @pytest.mark.parametrize(
        ("before", "now", "received", "passed"),
        [
            pytest.param("abc", "axbc", "ab", "x", id="new before the last received: passes"),
            pytest.param("abc", "xabc", "a", "x", id="new at the very front: passes"),
            pytest.param("abc", "abxc", "ab", "", id="new right behind the last received: comes"),
            pytest.param("abc", "abcx", "ab", "", id="new at the end: comes"),
            pytest.param("abc", "xabc", "", "", id="nothing received yet: nothing passes"),
            pytest.param("abc", "cab", "a", "", id="a step moved to the front passes nobody"),
            pytest.param("abc", "bca", "ab", "", id="the last received moved: passes nobody"),
            pytest.param("abc", "axyc", "ab", "", id="received step gone: its predecessor stands for it"),
            pytest.param("abc", "xac", "ab", "x", id="new before the surviving predecessor: passes"),
            pytest.param("abc", "axc", "ab", "", id="new behind the surviving predecessor: comes"),
            pytest.param("abc", "xyc", "ab", "", id="no predecessor survived: nothing passes"),
            pytest.param("abcd", "xbyacd", "abc", "xy", id="moved around: judged by the last received"),
            pytest.param("abc", "xyz", "abc", "", id="everything new: everything comes"),
        ],
    )
    def test_new_steps_pass_by_where_they_stand_before_the_last_received(
        self, before: str, now: str, received: str, passed: str
    ):
        """What is new passes by exactly where it stands before the last step received, or what stands for it."""
        after = catch_up(place(received), [outline(1, before), outline(2, now)])
        assert after.passed == set(passed)
        assert after.seen_revision == 2
        assert (after.received, after.anchor, after.round) == (set(received), received[-1:] or None, 1)

    def test_what_is_delivered_late_passes_nobody_by(self):
        """A new step that the operator names reaches readers who are past it."""
        after = catch_up(place("ab"), [outline(1, "abc"), outline(2, "xaybc", late="y")])
        assert after.passed == {"x"}
        assert coming("xaybc", after) == "yc"

    def test_late_delivery_reaches_those_whom_a_step_had_passed_by(self):
        """A step that passed somebody by in an earlier revision comes to them once it is delivered late."""
        history = [outline(1, "abc"), outline(2, "xabc"), outline(3, "xabc", late="x")]
        assert catch_up(place("a"), history[:2]).passed == {"x"}
        assert catch_up(place("a"), history).passed == set()
        assert coming("xabc", catch_up(place("a"), history)) == "xbc"

    def test_late_delivery_sends_nothing_twice(self):
        """A step that was received is not sent again because it is delivered late."""
        after = catch_up(place("ab"), [outline(1, "abc"), outline(2, "abc", late="ab")])
        assert coming("abc", after) == "c"

    def test_late_delivery_holds_for_its_own_revision(self):
        """A later revision that repeats no order changes nothing for those who were not passed by."""
        history = [outline(1, "abc"), outline(2, "xabc", late="x"), outline(3, "xyabc")]
        assert catch_up(place("a"), history).passed == {"y"}

    def test_a_step_that_comes_back_is_new(self):
        """A step that was removed and is put back before the last one received passes by."""
        history = [outline(1, "abc"), outline(2, "bc"), outline(3, "abc")]
        assert catch_up(place("b"), history).passed == {"a"}

    def test_a_step_that_comes_back_is_received_only_once(self):
        """A step that was received, removed and put back is neither passed by nor sent again."""
        history = [outline(1, "abc"), outline(2, "bc"), outline(3, "abc")]
        after = catch_up(place("ab"), history)
        assert after.passed == set()
        assert coming("abc", after) == "c"

    def test_each_revision_is_judged_by_itself(self):
        """Several revisions between two letters pass by what each of them puts before the last step received."""
        history = [outline(1, "abc"), outline(2, "axbc"), outline(3, "yaxbzc"), outline(4, "yaxbczw")]
        after = catch_up(place("ab"), history)
        assert after.passed == {"x", "y"}
        assert coming("yaxbczw", after) == "czw"

    def test_what_was_seen_is_not_judged_again(self):
        """A step that stood ahead when its revision was seen does not pass by later."""
        history = [outline(1, "abc"), outline(2, "axbc")]
        after = receive(receive(catch_up(place("a"), history), "x"), "b")
        assert catch_up(after, history) == after
        skipping = receive(catch_up(place("a"), history), "b")
        assert catch_up(skipping, [*history, outline(3, "axbcd")]).passed == set()

    def test_catching_up_step_by_step_or_at_once_is_the_same(self):
        """Whether a place is looked at after each revision or after the last makes no difference."""
        history = [outline(1, "abc"), outline(2, "xab"), outline(3, "xayb"), outline(4, "cxayb", late="y")]
        slowly = place("abc")
        for count in range(2, 5):
            slowly = catch_up(slowly, history[:count])
        assert slowly == catch_up(place("abc"), history)

    def test_a_place_that_has_seen_nothing_is_passed_by_nothing(self):
        """Somebody whose sequence had no outline yet begins with the live one."""
        assert catch_up(place("", seen=0), [outline(3, "abc")]) == place("", seen=3)

    def test_nothing_changes_without_a_newer_revision(self):
        """Without outlines, or with old ones only, a place stays what it is."""
        for history in ([], [outline(1, "abc")]):
            assert catch_up(place("a"), history) == place("a")


class TestStanding:
    """Behind which step somebody stands whose last one is gone."""

    @pytest.mark.parametrize(
        ("orders", "expected"),
        [
            (["abc"], "c"),
            (["abc", "ab"], "b"),
            (["abc", "ba"], "b"),
            (["abc", "a", "ab"], "a"),
            (["abc", "xb", "x"], "x"),
            (["abc", "xyz"], None),
            (["abc", "ab", "abc"], "c"),
            (["abc", "xyz", "cxyz"], "c"),
            (["xyz"], None),
        ],
    )
    def test_the_nearest_survivor_stands_for_what_is_gone(self, orders: list[str], expected: str | None):
        """A step that is gone is stood for by its nearest survivor, until it is back."""
        assert standing("c", [outline(at, steps) for at, steps in enumerate(orders)]) == expected

    def test_nobody_stands_anywhere_before_the_first_letter(self):
        """Whoever received nothing stands behind nothing."""
        assert standing(None, [outline(1, "abc")]) is None
        assert standing(None, []) is None

    def test_whoever_stands_nowhere_is_passed_by_nothing(self):
        """Nothing passes by where there is no step to be behind."""
        assert newly_passed(None, before=outline(1, "a"), now=outline(2, "xa")) == set()
        assert newly_passed("gone", before=outline(1, "a"), now=outline(2, "xa")) == set()


class TestRounds:
    """A round begins with everything ahead."""

    def test_the_next_round_forgets_what_was_received_and_passed(self):
        """In a new round every step of the live order comes again, in order, also one that had passed by."""
        begun = begin_round(place("ab", passed="x"))
        assert begun == Place(round=2, seen_revision=1)
        assert coming("xab", begun) == "xab"

    def test_a_step_that_is_new_in_a_later_round_is_judged_by_that_round(self):
        """What was received in an earlier round makes nothing pass by in this one."""
        begun = begin_round(place("abc"))
        assert catch_up(begun, [outline(1, "abc"), outline(2, "xabc")]).passed == set()


# Against a model: rules 1 to 3 told for one reader, eagerly, at each publication -----------------------------


@dataclass
class Model:
    """One reader, moved at each publication and each letter, by the words of the rules."""

    order: list[str]
    received: list[str] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    stands_for_last: str | None = None
    round: int = 1

    def publish(self, order: list[str], late: set[str]) -> None:
        last = self.received[-1] if self.received else None
        if last in order:
            self.stands_for_last = last
        elif self.stands_for_last not in order:
            before = self.order[: self.order.index(self.stands_for_last)] if self.stands_for_last else []
            survivors = [step for step in before if step in order]
            self.stands_for_last = survivors[-1] if survivors else None
        new = set(order) - set(self.order)
        if self.stands_for_last is not None:
            ahead = set(order[: order.index(self.stands_for_last)])
            self.passed |= (new & ahead) - late - set(self.received)
        self.passed -= late
        self.order = order

    def next(self) -> str | None:
        return next((step for step in self.order if step not in self.received and step not in self.passed), None)

    def send(self) -> str | None:
        step = self.next()
        if step is None:
            self.received, self.passed, self.stands_for_last = [], set(), None
            self.round += 1
            return None
        self.received.append(step)
        self.stands_for_last = step
        return step


STEPS = "abcdefgh"
an_order = st.lists(st.sampled_from(STEPS), unique=True, min_size=1, max_size=len(STEPS))
a_publication = st.tuples(an_order, st.sets(st.sampled_from(STEPS), max_size=2))
an_event = st.one_of(st.just("letter"), st.just("look"), a_publication)


@given(first=an_order, events=st.lists(an_event, max_size=40))
def test_whatever_is_edited_the_rules_hold(first: list[str], events: list[object]):
    """Under any edits between any letters the next step is what the rules say, and a round repeats nothing."""
    model, at, revisions = Model(order=first), Place(seen_revision=1), [outline(1, "".join(first))]
    this_round: list[str] = []
    for event in events:
        if isinstance(event, tuple):
            order, late = event
            late &= set(order)
            model.publish(order, late)
            revisions.append(outline(len(revisions) + 1, "".join(order), late="".join(late)))
        else:
            at = catch_up(at, revisions)
            step = next_step(sequence("".join(revisions[-1].steps)), received=at.received, passed=at.passed)
            assert (step.identity if step else None) == model.next()
            if event == "letter":
                sent = model.send()
                at = begin_round(at) if step is None else receive(at, step.identity)
                this_round = [] if sent is None else [*this_round, sent]
                assert len(set(this_round)) == len(this_round)
        assert catch_up(at, revisions).passed == model.passed
        assert at.received == set(model.received)
        assert at.round == model.round


@given(orders=st.lists(an_order, min_size=1, max_size=6), sent=st.integers(0, 8))
def test_everybody_receives_what_neither_passed_nor_went(orders: list[list[str]], sent: int):
    """After any edits a reader to whom all is sent has received every live step but those that passed by."""
    revisions = [outline(1, "".join(orders[0]))]
    at = Place(seen_revision=1)
    for _ in range(sent):
        step = next_step(sequence("".join(orders[0])), received=at.received, passed=at.passed)
        at = at if step is None else receive(at, step.identity)
    for order in orders[1:]:
        revisions.append(outline(len(revisions) + 1, "".join(order)))
    at = catch_up(at, revisions)
    passed = at.passed
    rest = coming("".join(orders[-1]), at)
    assert set(rest) | at.received | passed >= set(orders[-1])
    assert not set(rest) & (at.received | passed)
    assert list(rest) == [step for step in orders[-1] if step in rest]
