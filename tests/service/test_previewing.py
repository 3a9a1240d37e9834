"""Letters as an imagined reader would get them, from content that need not be published."""

from __future__ import annotations

import email
import email.policy
from typing import TYPE_CHECKING

import pytest

from newsletter.errors import RenderError
from tests.support.building import House, letter

if TYPE_CHECKING:
    from email.message import EmailMessage

    from newsletter.service.previewing import PreviewedLetter

HELP_LINES = """
DE: [{name: Telefonseelsorge, kind: crisis, phone: "0800 111", hours: "24/7"}]
"*": [{name: Worldwide, kind: crisis, web: "https://help.example.org/", hours: "24/7"}]
"""


@pytest.fixture
def house(house: House) -> House:
    """A house in whose folder something lies that was never published."""
    house.content.write("help-lines.yaml", HELP_LINES)
    house.content.affirmations("calm", "kind")
    house.content.posts("key: older, published: 2026-01-01", "key: newer, published: 2026-02-01")
    shows = {"affirmation": "next", "related": "newest"}
    house.sequence("trust", letter("one", **shows), letter("two", **shows), letter("three", **shows))
    return house


def preview(
    house: House, key: str = "trust", *, country: str | None = None, discreet: bool = False
) -> list[PreviewedLetter]:
    """What `newsletter preview` would write."""
    revision, _ = house.app.publishing.read(house.content.root, today=house.now.date())
    sequence = revision.sequence(key)
    assert sequence is not None
    return list(house.app.previewing.letters(revision, sequence, country=country, discreet=discreet, now=house.now))


def opened(one: PreviewedLetter) -> EmailMessage:
    """The message as a mail program reads it."""
    return email.message_from_bytes(one.message, policy=email.policy.default)


def text_of(one: PreviewedLetter) -> str:
    """Its text part, unfolded."""
    part = opened(one).get_body(("plain",))
    assert part is not None
    return " ".join(part.get_content().split())


def test_every_letter_in_order_as_it_would_leave(house: House):
    """All letters come in order, numbered, each as a whole message to a reader who does not exist."""
    letters = preview(house)
    assert [one.step.key for one in letters] == ["one", "two", "three"]
    for number, one in enumerate(letters, start=1):
        message = opened(one)
        assert message["Subject"] == one.rendered.subject
        assert message["To"] == "reader@example.org"
        assert message["List-Unsubscribe"]
        assert {part.get_content_type() for part in message.walk()} >= {"text/plain", "text/html"}
        assert f"Letter {number} of 3" in text_of(one)


def test_nothing_is_shown_twice_to_the_imagined_reader(house: House):
    """Affirmations and posts follow one another as they would, and begin again when all were had."""
    texts = [text_of(one) for one in preview(house)]
    assert ["calm" in text for text in texts] == [True, False, True]
    assert ["kind." in text for text in texts] == [False, True, False]
    assert [("/newer" in text, "/older" in text) for text in texts] == [(True, False), (False, True), (True, False)]


def test_a_sequence_without_an_end_has_no_total(house: House):
    """Letters that come round again are not counted against an end."""
    house.sequence("note", "spring", "summer", on_finish="repeat")
    assert not any(" of 2" in text_of(one) for one in preview(house, "note"))


def test_a_sensitive_letter_shows_the_help_of_the_country(house: House):
    """The imagined reader's country decides which help lines are shown; without one the fallback is."""
    house.sequence("trust", "one", sensitive="true")
    (one,) = preview(house, country="DE")
    assert "Telefonseelsorge" in text_of(one)
    (one,) = preview(house)
    assert "Worldwide" in text_of(one)


def test_a_discreet_reader_gets_a_plain_subject(house: House):
    """Discreet mode is previewed, too."""
    plain, usual = preview(house, discreet=True)[0], preview(house)[0]
    assert plain.rendered.subject != usual.rendered.subject
    assert "called one" not in str(opened(plain)["Subject"])


def test_nothing_is_written(house: House):
    """Neither a revision nor a reader comes of it, also where something else is live."""
    before = house.everything()
    preview(house)
    assert house.everything() == before
    house.publish()
    before = house.everything()
    house.sequence("trust", letter("one", print_number=2))
    assert ["in print 2" in text_of(one) for one in preview(house)] == [True]
    assert house.everything() == before


def test_a_letter_that_cannot_be_set_is_named(house: House, monkeypatch: pytest.MonkeyPatch):
    """A fault that only a reader meets is a render error, told when that letter's turn comes."""
    monkeypatch.setattr("newsletter.rendering.typesetting.Typesetter.check", lambda *_: None)
    house.sequence("trust", "one", letter("two", text="More: {{ letter.total + 1 }}"), on_finish="repeat")
    revision, _ = house.app.publishing.read(house.content.root, today=house.now.date())
    sequence = revision.sequence("trust")
    assert sequence is not None
    letters = house.app.previewing.letters(revision, sequence, country=None, discreet=False, now=house.now)
    assert next(letters).step.key == "one"
    with pytest.raises(RenderError, match="two"):
        next(letters)
