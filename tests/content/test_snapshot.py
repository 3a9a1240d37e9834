import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsletter.content import snapshot
from newsletter.content.files import read_content
from newsletter.domain.sequence import Finish, OnFinish, Revision, Sequence, Step
from newsletter.errors import DatabaseRefused

REVISIONS = st.builds(
    Revision,
    sequences=st.lists(st.from_type(Sequence), max_size=3).map(tuple),
    help_lines=st.from_type(Revision).map(lambda revision: revision.help_lines),
    templates=st.dictionaries(st.text(), st.text(), max_size=4),
)


@given(revision=REVISIONS)
@settings(max_examples=40, deadline=None)
def test_a_revision_comes_back_exactly_as_it_was(revision):
    text = snapshot.to_json(revision)

    back = snapshot.from_json(text)

    assert back == revision
    assert snapshot.to_json(back) == text
    assert snapshot.digest(back) == snapshot.digest(revision)


@given(after=st.timedeltas(), templates=st.dictionaries(st.text(), st.text()))
@settings(deadline=None)
def test_a_duration_comes_back_to_the_microsecond(after, templates):
    step = Step(key="a", number=1, path="p", subject="s", body="b", after=after)
    revision = Revision(sequences=(Sequence(key="a", title="A", steps=(step,)),), templates=templates)

    assert snapshot.from_json(snapshot.to_json(revision)) == revision


@given(revision=REVISIONS)
@settings(max_examples=25, deadline=None)
def test_the_digest_does_not_depend_on_the_order_in_which_mappings_were_filled(revision):
    turned = replace(
        revision,
        help_lines=dict(reversed(revision.help_lines.items())),
        templates=dict(reversed(revision.templates.items())),
    )

    assert snapshot.digest(turned) == snapshot.digest(revision)


def test_the_digest_tells_revisions_apart_that_differ_in_one_thing():
    step = Step(key="a", number=1, path="p", subject="s", body="b")
    sequence = Sequence(key="a", title="A", steps=(step,))
    variants = [
        sequence,
        replace(sequence, sensitive=True),
        replace(sequence, on_finish=OnFinish(finish=Finish.HOLD)),
        replace(sequence, deliver_late=("a",)),
        replace(sequence, steps=(replace(step, after=timedelta(days=1)),)),
        replace(sequence, steps=(replace(step, related=()),)),
        replace(sequence, steps=(replace(step, related_discreet=()),)),
        replace(sequence, steps=(replace(step, identity="a"),)),
    ]

    assert len({snapshot.digest(Revision(sequences=(one,))) for one in variants}) == len(variants)


def test_the_text_is_canonical(folder):
    text = snapshot.to_json(read_content(folder.root))

    assert text == json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def test_the_digest_of_a_known_revision_stays_what_it_is():
    """Stored digests are compared with new ones: a change here makes every publication look like a change."""
    step = Step(key="a", number=1, path="p", subject="Café", body="b", after=timedelta(days=3))
    revision = Revision(sequences=(Sequence(key="a", title="A", steps=(step,)),))

    assert snapshot.digest(revision) == "276df9f3472596ded2111cc626b624c79b0fa45a0dd706f2c475f1a16aa1a3f4"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sequences": [{"key": 1}]}', '{"help_lines": {"US": [{}]}}'])
def test_a_damaged_snapshot_is_refused_with_what_to_do(text):
    with pytest.raises(DatabaseRefused, match="publish the content folder again"):
        snapshot.from_json(text)
