"""What stands in an email for this reader: affirmation, posts, "Letter n of m", the welcome back, links, headers."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from sqlalchemy import select

from newsletter.domain.delivery import Kind, State
from newsletter.domain.sequence import Affirmation, RelatedPost, Revision, Step
from newsletter.errors import TokenExpired
from newsletter.service.choosing import choose_affirmation, choose_posts
from newsletter.service.composing import Composed, Ingredients
from newsletter.store.deliveries import COLUMNS, to_delivery
from newsletter.store.tables import delivery
from newsletter.tokens import Purpose
from tests.support.building import House, Mail, Reader, letter, local
from tests.support.smtp_server import Reply, SmtpServer

TUESDAY = "2026-11-24 09:00"


def step(**choices: object) -> Step:
    return Step(key="one", number=10, path="one.md", subject="One", body="Text", **choices)  # type: ignore[arg-type]


def post_of(key: str, day: int | None = None, **more: object) -> RelatedPost:
    published = None if day is None else date(2026, 1, day)
    return RelatedPost(key=key, title=key, url=f"/{key}", published=published, **more)  # type: ignore[arg-type]


def keys(posts: tuple[RelatedPost, ...]) -> list[str]:
    return [post.key for post in posts]


def shown(reader: Reader) -> list[str | None]:
    return [item.affirmation for item in reader.deliveries()]


# --- affirmations ---------------------------------------------------------------------------------

AFFIRMATIONS = Revision(affirmations=tuple(Affirmation(key=key, text=key) for key in ("a", "b", "c")))


@pytest.mark.parametrize(
    ("had", "chosen"),
    [
        ([], "a"),
        (["a"], "b"),
        (["c", "a"], "b"),
        (["b", "c"], "a"),
        (["b", "c", "a"], "b"),
        (["gone", "c", "a", "b"], "c"),
    ],
)
def test_the_next_affirmation_is_one_not_had_else_the_one_had_longest_ago(had: list[str], chosen: str):
    """The first in the file's order that the reader has not had; when all were had, the one had longest ago."""
    found = choose_affirmation(AFFIRMATIONS, step(affirmation="next"), had=had)
    assert found is not None
    assert found.key == chosen


def test_a_named_affirmation_is_shown_whether_or_not_it_was_had():
    """A name is a name; and no affirmation is none."""
    named = choose_affirmation(AFFIRMATIONS, step(affirmation="a"), had=["a"])
    assert named is not None
    assert named.key == "a"
    assert choose_affirmation(AFFIRMATIONS, step(affirmation=None), had=[]) is None
    assert choose_affirmation(Revision(), step(affirmation="next"), had=["gone"]) is None


def test_no_affirmation_is_repeated_until_all_were_had(house: House):
    """Over rounds and sequences of one reader none comes twice before all came once; then in the same order."""
    house.content.affirmations("a", "b", "c")
    house.sequence("trust", letter("one", affirmation="next"), letter("two", affirmation="b"), on_finish="repeat")
    house.publish()
    maria = house.reader()
    house.live("2026-12-29 12:00")
    assert shown(maria) == ["a", "b", "c", "b", "a", "b"]
    assert ["I am a." in mail.text for mail in maria.letters()] == [True, False, False, False, True, False]


def test_a_letter_that_did_not_arrive_uses_no_affirmation_up(house: House, post: SmtpServer):
    """Refused for now: the next attempt has the same affirmation, and the reader was shown it once."""
    house.content.affirmations("a", "b")
    house.sequence("trust", letter("one", affirmation="next"), letter("two", affirmation="next"))
    house.publish()
    maria = house.reader()
    post.script("dot", Reply(451, "4.0.0 Later"), times=2)
    house.live(weeks=2)
    assert shown(maria) == ["a", "b"]


# --- related posts --------------------------------------------------------------------------------

POSTS = (post_of("old", 1), post_of("new", 9), post_of("undated"), post_of("mid", 5))


@pytest.mark.parametrize(
    ("shown_before", "chosen"),
    [
        ([], ["new"]),
        (["new"], ["mid"]),
        (["new", "mid"], ["old"]),
        (["mid", "new", "old"], ["undated"]),
        (["old", "new", "undated", "mid"], ["old"]),
        (["gone", "mid", "new", "undated", "old"], ["mid"]),
    ],
)
def test_the_newest_post_not_yet_shown(shown_before: list[str], chosen: list[str]):
    """The newest that the reader was not shown; undated ones last; when all were shown, the one longest ago."""
    revision = Revision(related_posts=POSTS)
    assert keys(choose_posts(revision, step(), shown=shown_before, discreet=False)) == chosen


def test_a_post_that_is_only_for_naming_is_shown_where_it_is_named():
    """The tag `named-only` keeps a post out of "newest", even when nothing else is left."""
    revision = Revision(related_posts=(post_of("special", 9, tags=("named-only",)),))
    assert choose_posts(revision, step(), shown=[], discreet=False) == ()
    assert keys(choose_posts(revision, step(related=("special",)), shown=["special"], discreet=False)) == ["special"]


def test_discreet_mode_hides_what_would_give_the_reader_away():
    """A post marked `discreet: hide` is shown to no reader in discreet mode: not as newest, named or named again."""
    revision = Revision(related_posts=(post_of("plain", 1), post_of("telling", 9, hide_when_discreet=True)))
    assert keys(choose_posts(revision, step(), shown=[], discreet=True)) == ["plain"]
    assert keys(choose_posts(revision, step(), shown=["telling", "plain"], discreet=True)) == ["plain"]
    assert choose_posts(revision, step(related=("telling",)), shown=[], discreet=True) == ()
    assert choose_posts(revision, step(related_discreet=("telling",)), shown=[], discreet=True) == ()
    assert keys(choose_posts(revision, step(), shown=[], discreet=False)) == ["telling"]


@pytest.mark.parametrize(
    ("instead", "discreet", "chosen"),
    [(("plain",), True, ["plain"]), (("plain",), False, ["new"]), ((), True, []), (None, True, ["new"])],
)
def test_discreet_readers_may_be_shown_other_posts(instead, discreet, chosen):
    """`related_discreet` stands in for `related` in discreet mode only, and may say none."""
    revision = Revision(related_posts=(post_of("plain", 1), post_of("new", 9)))
    one = step(related=("new",), related_discreet=instead)
    assert keys(choose_posts(revision, one, shown=[], discreet=discreet)) == chosen


def test_posts_are_shown_once_and_written_down(house: House):
    """Each letter shows the newest post not yet shown, below the site's address, and the ledger remembers it."""
    house.content.posts("key: old, published: 2026-01-01", "key: new, published: 2026-02-01")
    house.sequence("trust", *(letter(name, related="newest") for name in ("one", "two", "three")))
    house.publish()
    maria = house.reader()
    house.live(weeks=3)
    assert [item.posts for item in maria.deliveries()] == [["new"], ["old"], ["new"]]
    assert house.app.site.site_url.rstrip("/") + "/new" in maria.letters()[0].text
    assert "On old" not in maria.letters()[0].text


# --- Letter n of m --------------------------------------------------------------------------------


def progress_of(mail: Mail) -> str | None:
    words = mail.text.split()
    found = [at for at, word in enumerate(words[:-3]) if word.lower() == "letter" and words[at + 2] == "of"]
    return None if not found else " ".join([words[found[0] + 1], "of", words[found[0] + 3].strip(".,:;·—")])


def numbers(reader: Reader) -> list[str | None]:
    return [progress_of(mail) for mail in reader.letters()]


def test_letter_n_of_m(house: House):
    """The n is the letters received plus one, m that plus those still ahead."""
    house.sequence("trust", "one", "two", "three")
    house.publish()
    maria = house.reader()
    house.live(weeks=3)
    assert numbers(maria) == ["1 of 3", "2 of 3", "3 of 3"]
    assert [item.number for item in maria.deliveries()] == [1, 2, 3]


def test_letter_n_of_m_counts_what_this_reader_will_get(house: House):
    """Steps that passed a reader by are neither received nor ahead; removed ones that they had still count."""
    house.sequence("trust", "one", "two", "three", "four")
    house.publish()
    maria = house.reader()
    house.live("2026-12-01 12:00")
    house.sequence("trust", "first", "one", "three", "four", "five", "six")
    house.publish()
    ada = house.reader("ada@example.org", slot="tue 10:00")
    house.live("2027-01-19 12:00")
    assert maria.steps() == ["one", "two", "three", "four", "five", "six"]
    assert numbers(maria) == ["1 of 4", "2 of 4", "3 of 6", "4 of 6", "5 of 6", "6 of 6"]
    assert numbers(ada) == [f"{n} of 6" for n in range(1, 7)]


def test_letter_n_of_m_begins_again_with_the_next_round(house: House):
    """A letter of a sequence without an end says no m, whichever round it is."""
    house.sequence("trust", "one", "two", on_finish="repeat")
    house.publish()
    maria = house.reader()
    house.live(weeks=4)
    assert maria.steps() == ["one", "two", "one", "two"]
    assert numbers(maria) == [None] * 4
    assert [item.number for item in maria.deliveries()] == [1, 2, 1, 2]


# --- welcome back ---------------------------------------------------------------------------------


def test_the_first_letter_after_a_pause_says_welcome_back_once(house: House):
    """One line in the next letter, with its number, and none in the one after it."""
    house.sequence("trust", "one", "two", "three", "four")
    house.publish()
    maria = house.reader()
    house.live(TUESDAY)
    maria.pause(weeks=2)
    house.live("2027-01-05 12:00")
    assert maria.steps() == ["one", "two", "three", "four"]
    assert ["Welcome back" in mail.text for mail in maria.letters()] == [False, True, False, False]
    assert "This is letter 2, and nothing was missed" in maria.letters()[1].text


def test_who_was_never_away_is_not_welcomed_back(house: House):
    """Pausing and resuming within the week before any letter came still is a return; not pausing is none."""
    house.sequence("trust", "one", "two")
    house.publish()
    maria, ada = house.reader(), house.reader("ada@example.org")
    maria.pause(weeks=1)
    house.later(hours=1)
    maria.resume()
    house.live(weeks=2)
    assert ["Welcome back" in mail.text for mail in maria.letters()] == [True, False]
    assert not any("Welcome back" in mail.text for mail in ada.letters())


# --- links and headers ----------------------------------------------------------------------------


def test_a_letter_carries_its_readers_own_links(house: House):
    """Its links open this reader's place and this subscription, and nobody else's."""
    house.sequence("trust", "one")
    house.publish()
    readers = [house.reader(), house.reader("ada@example.org")]
    house.live(TUESDAY)
    for reader in readers:
        (mail,) = reader.letters()
        signer = house.app.signer
        leaving = signer.verify(Purpose.UNSUBSCRIBE, mail.token("unsubscribe"), now=house.now)
        assert leaving.id == reader.subscription().id
        settings = signer.verify(Purpose.PREFERENCES, mail.token("preferences"), now=house.now)
        assert settings.id == reader.record.id
        assert f"{house.app.site.base_url}/too-much" in mail.text


def test_a_letter_from_a_form_is_the_letter_that_is_composed(house: House, monkeypatch: pytest.MonkeyPatch):
    """Byte for byte, for readers who share a form and for those who have none of theirs."""
    house.sequence("trust", "one", "two")
    house.publish()
    for number in range(8):
        house.reader(f"reader-{number}@example.org", discreet=number % 2 == 0)
    house.reader("O'Hara+news@example.org")
    house.live(TUESDAY)
    house.at("2026-12-01 09:00")
    house.plan()
    app, composed = house.app, dict[bool, list[Composed | None]]()
    for has_forms in (True, False):
        monkeypatch.setattr(app.office.composer._links, "are_plain", has_forms)
        with app.database.write() as connection:
            edition = app.editions.live(connection)
            assert edition is not None
            rows = connection.execute(select(*COLUMNS).where(delivery.c.state == State.PLANNED))
            items = sorted(to_delivery(row) for row in rows)
            needed = Ingredients.gather(connection, edition, items)
            composed[has_forms] = [
                app.office.composer.compose(connection, edition, item, each, now=house.now)
                for item, each in zip(items, needed, strict=True)
                if each is not None
            ]
    assert len(composed[True]) == 9
    assert composed[True] == composed[False]


def test_the_headers_of_a_letter(house: House):
    """One click leaves (RFC 8058); lists and feedback are opaque and alike for every sequence; the date is UTC."""
    house.sequence("trust", "one", author="{name: Ruth, email: ruth@example.org}")
    house.sequence("grief", "one")
    house.publish()
    maria, ada = house.reader(), house.reader("ada@example.org", "grief")
    house.live(TUESDAY)
    (mail,), (other,) = maria.letters(), ada.letters()
    head = mail.message
    url = f"{house.app.site.base_url}/unsubscribe/{mail.token('unsubscribe')}"
    assert head["List-Unsubscribe"].startswith(f"<{url}>")
    assert head["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert head["To"] == "maria@example.org"
    assert str(head["From"]) == "Ruth <letters@example.org>"
    assert str(head["Reply-To"]) == "ruth@example.org"
    assert str(other.message["From"]) == "Letters <letters@example.org>"
    assert (mail.date, maria.delivery().message_date) == (local(TUESDAY), local(TUESDAY))
    assert mail.message_id == maria.delivery().message_id
    for name in ("List-Id", "Feedback-ID"):
        assert str(head[name]) == str(other.message[name])
        assert "trust" not in str(head[name])
    assert maria.subscription().id.hex not in mail.content.decode("ascii").lower()


def test_a_confirmation_is_neutral_and_offers_no_leaving(house: House):
    """It names no sequence, carries no list headers, and its link works for seven days from the request."""
    house.sequence("trust", "one", title="About trust")
    house.publish()
    maria = house.ask()
    house.later(days=2)
    house.work()
    (mail,) = maria.mails()
    assert [mail.message[name] for name in ("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post")] == [None] * 3
    assert mail.subject == "Please confirm your address"
    assert "trust" not in mail.text.lower()
    token = mail.token("confirm")
    asked = maria.delivery(kind=Kind.CONFIRMATION).created_at
    house.app.signer.verify(Purpose.CONFIRM, token, now=asked + timedelta(days=6, hours=23))
    with pytest.raises(TokenExpired):
        house.app.signer.verify(Purpose.CONFIRM, token, now=asked + timedelta(days=7, seconds=1))


@pytest.mark.parametrize(
    ("address", "on_the_wire"),
    [("jörg@example.org", "jörg@example.org"), ("maria@bücher.example", "maria@xn--bcher-kva.example")],
)
def test_an_address_beyond_ascii_is_written_as_the_wire_takes_it(
    house: House, post: SmtpServer, address: str, on_the_wire: str
):
    """A local part beyond ASCII goes out with SMTPUTF8; a domain beyond ASCII goes out as IDNA, without."""
    house.sequence("trust", "one")
    house.publish()
    house.reader(address)
    house.live(TUESDAY)
    (received,) = post.ledger
    assert received.recipient == on_the_wire
    mail_from = next(heard.line for heard in post.heard if heard.line.startswith("MAIL"))
    assert ("SMTPUTF8" in mail_from) is not on_the_wire.isascii()
    assert f"To: {on_the_wire}\r\n".encode() in received.content


def test_an_address_that_the_server_cannot_take_is_held(house: House, post: SmtpServer):
    """A server without SMTPUTF8: the letter is held, the others go, and nobody is suppressed."""
    post.extensions.remove("SMTPUTF8")
    house.sequence("trust", "one")
    house.publish()
    jorg, maria = house.reader("jörg@example.org"), house.reader()
    house.live(TUESDAY)
    assert (jorg.delivery().state, jorg.delivery().received) == (State.HELD, False)
    assert maria.steps() == ["one"]
    assert house.rows("suppression") == []
