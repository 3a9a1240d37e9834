"""What a letter says to whom."""

from __future__ import annotations

import quopri
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.domain.delivery import Kind
from newsletter.domain.sequence import Affirmation, RelatedPost
from newsletter.errors import ContentError, RenderError
from newsletter.rendering.facts import Links, NoticeFacts
from newsletter.rendering.plates import Plate
from newsletter.rendering.typesetting import Typesetter
from tests.rendering.conftest import LETTER_BODY, SHIPPED_TEMPLATES
from tests.rendering.reading import Page
from tests.support import once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from newsletter.domain.sequence import Revision, Sequence, Step
    from newsletter.rendering.facts import LetterFacts, Rendered, Site

LINKS = st.from_regex(
    r"https://letters\.example\.org/[a-z]{4,9}/[A-Za-z0-9_-]{20,120}([?&=#][a-z']{0,9}){0,2}", fullmatch=True
)
TELLING = ("trust", "habit", "guard", "harmful", "The Steady Page")


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Templates that are the same are compiled once: what they make of the facts is tested here."""
    with once.templates_compiled_once():
        yield


class TestALetterOfASeries:
    def test_progress_in_words_and_dots(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """The dots are hidden from screen readers; the words stand beside them."""
        page = Page(typesetter.letter(series, letter_step, facts()).html)
        (dots,) = [element for element in page.all if element.attributes.get("aria-hidden") == "true"]
        assert dots.words.strip() == "●●●○○○○○○"
        assert "Letter 3 of 9" in (dots.parent.words if dots.parent else "")

    def test_the_affirmation_is_a_figure(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """Its attribution is the letter, and it is no heading."""
        (figure,) = Page(typesetter.letter(series, letter_step, facts()).html).find("figure")
        assert figure.words.split("\n") == [
            "",
            "I can go slowly and still be going.",
            "Letter 3 · to keep",
            "",
        ]

    def test_a_related_post_has_a_title_and_one_reason(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """A path stands for a page below the site's address."""
        letter = typesetter.letter(series, letter_step, facts())
        assert ("How to deal with a hard boss", "https://www.example.org/boss/") in Page(letter.html).links
        assert "How to deal with a hard boss\nOn measure.\nhttps://www.example.org/boss/\n" in letter.text

    def test_back_from_a_pause(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        letter = typesetter.letter(series, letter_step, facts(number=4, welcome_back=True))
        line = "Welcome back. This is letter 4, and nothing was missed."
        assert line in Page(letter.html).body_words
        assert line in letter.text

    def test_the_author_signs_and_gets_the_replies(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        letter = typesetter.letter(series, letter_step, facts())
        assert (letter.from_name, letter.reply_to) == ("Joan", "joan@example.org")
        unsigned = typesetter.letter(replace(series, author=None), letter_step, facts())
        assert (unsigned.from_name, unsigned.reply_to) == ("The Steady Page", "desk@example.org")

    def test_whether_replies_are_read(
        self, revision: Revision, site: Site, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        for read, line in (
            (True, "You can reply; a person reads it within three days. It is not for emergencies."),
            (False, "Nobody reads replies."),
        ):
            typesetter = Typesetter(revision, replace(site, replies_read=read), shipped_templates=SHIPPED_TEMPLATES)
            letter = typesetter.letter(series, letter_step, facts())
            assert line in Page(letter.html).body_words
            assert line in " ".join(letter.text.split())

    def test_a_condition_shows_one_of_its_sides(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        middle = typesetter.letter(series, letter_step, facts(number=3))
        last = typesetter.letter(series, letter_step, facts(number=9))
        assert ("This is the last one" in middle.html, "Another one comes" in middle.html) == (False, True)
        assert ("This is the last one" in last.html, "Another one comes" in last.html) == (True, False)
        assert ("This is the last one" in last.text, "Another one comes" in last.text) == (True, False)

    def test_a_series_of_many_letters_shows_no_dots(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        html = typesetter.letter(series, letter_step, facts(total=52)).html
        assert "Letter 3 of 52" in html
        assert "○" not in html


class TestANote:
    def test_it_counts_nothing(
        self, typesetter: Typesetter, notes: Sequence, note_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """A sequence without an end has no "n of m", and the affirmation is kept without a number."""
        note = typesetter.letter(notes, note_step, facts(number=40, total=None))
        assert not re.search(r"Letter \d|40| of \d", note.text)
        assert "To keep" in note.text

    def test_a_preheader_is_there_even_where_none_was_written(
        self, typesetter: Typesetter, notes: Sequence, note_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        page = Page(typesetter.letter(notes, note_step, facts(total=None)).html)
        assert page.preheader.words.startswith("A short letter, to read whenever it suits you.")


class TestHelpLines:
    def test_a_sensitive_letter_shows_those_of_the_readers_country(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        letter = typesetter.letter(series, letter_step, facts(country="GB"))
        words = Page(letter.html).body_words
        assert "Somebody to talk to Samaritans Call 116 123 or online at samaritans.org. Day and night." in words
        assert "Shout Text SHOUT to 85258. Day and night." in words
        assert ("116 123", "tel:116123") in Page(letter.html).links
        assert "Samaritans\nCall 116 123 or online at samaritans.org.\nDay and night.\nhttps://www.sam" in letter.text

    def test_languages_are_named_unless_it_is_english_alone(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        text = typesetter.letter(series, letter_step, facts(country="DE")).text
        assert "Call or text 116 016 or chat at hilfetelefon.de/chat." in text
        assert "Day and night, in German and Turkish." in text

    @pytest.mark.parametrize("country", [None, "NZ"])
    def test_any_other_country_gets_the_international_one(
        self,
        typesetter: Typesetter,
        series: Sequence,
        letter_step: Step,
        facts: Callable[..., LetterFacts],
        country: str | None,
    ) -> None:
        assert "findahelpline.com" in typesetter.letter(series, letter_step, facts(country=country)).text

    def test_a_letter_that_places_them_shows_them_there_and_only_there(
        self, typesetter: Typesetter, series: Sequence, note_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        letter = typesetter.letter(series, note_step, facts())
        assert letter.text.count("Samaritans") == 1
        assert letter.html.count("Samaritans") == 1
        assert letter.text.index("Samaritans") < letter.text.index("Warmly")

    def test_a_placement_that_is_skipped_does_not_lose_them(
        self, typesetter: Typesetter, series: Sequence, note_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """The lines of a sensitive letter appear even where its own condition left them out."""
        body = "Hello,\n\n{% if letter.number == 1 %}\n{{ help_lines }}\n{% endif %}\n\nJoan\n"
        letter = typesetter.letter(series, replace(note_step, body=body), facts(number=2))
        assert letter.html.count("Samaritans") == letter.text.count("Samaritans") == 1

    def test_a_letter_that_is_not_sensitive_has_none_of_itself(
        self, typesetter: Typesetter, notes: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        assert "Samaritans" not in typesetter.letter(notes, letter_step, facts()).html


class TestDiscreet:
    """Nothing that is seen on a screen, or read over a shoulder, tells what the letter is about."""

    @pytest.fixture
    def plain(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> Rendered:
        return typesetter.letter(series, letter_step, facts(discreet=True))

    def test_the_sender_and_the_subject(self, plain: Rendered) -> None:
        assert (plain.from_name, plain.subject) == ("Weekly note", "Your note, 12 March")
        assert plain.reply_to == "desk@example.org"

    def test_what_a_mail_program_shows(self, plain: Rendered) -> None:
        page = Page(plain.html)
        seen = {
            "title": page.find("title")[0].words,
            "h1": page.find("h1")[0].words,
            "label": page.find("div", role="article")[0].attributes["aria-label"],
            "text": plain.text.splitlines()[0],
        }
        assert set(seen.values()) == {"Your note, 12 March"}
        assert page.preheader.words.startswith("Here is your note for this week")

    def test_nothing_telling_above_the_letter_itself(self, plain: Rendered) -> None:
        head = plain.html[: plain.html.index("Hello,")]
        for word in TELLING:
            assert word.casefold() not in head.casefold()
        assert "Letter 3" not in head

    def test_a_post_with_a_telling_title_is_not_there(self, plain: Rendered) -> None:
        assert "Signs of a harmful" not in plain.html + plain.text
        assert "How to deal with a hard boss" in plain.html

    def test_the_help_line_stays_under_a_neutral_heading(self, plain: Rendered) -> None:
        assert "Good to have at hand" in plain.html
        assert "Somebody to talk to" not in plain.html
        assert "Samaritans" in plain.html

    def test_the_footer_names_nobody_but_the_postal_address(self, plain: Rendered) -> None:
        assert plain.html.count("The Steady Page") == LETTER_BODY.count("site.name") + 1
        assert "You get this because you asked for it. It is number 3 of 9." in Page(plain.html).body_words

    def test_back_from_a_pause_nothing_is_counted(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        letter = typesetter.letter(series, letter_step, facts(discreet=True, welcome_back=True))
        assert "Welcome back. Nothing was missed." in letter.text

    def test_the_day_is_the_readers_own(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        first = facts(discreet=True)
        typesetter.letter(series, letter_step, first)
        second = first._replace(local_date=first.local_date.replace(month=12, day=1))
        assert typesetter.letter(series, letter_step, second).subject == "Your note, 1 December"


class TestNotices:
    @pytest.mark.parametrize("kind", [Kind.CONFIRMATION, Kind.ALREADY_SUBSCRIBED])
    def test_neutral_for_everybody(self, typesetter: Typesetter, kind: Kind) -> None:
        notice = typesetter.notice(kind, NoticeFacts(action_url="https://letters.example.org/c/1"))
        for word in ("trust", "Nine letters", "weekly note", "Joan"):
            assert word not in notice.html + notice.text + notice.subject

    def test_the_words_of_the_confirmation(self, typesetter: Typesetter) -> None:
        notice = typesetter.notice(
            Kind.CONFIRMATION, NoticeFacts(action_url="https://l.example.org/c/1", expires_text="until Friday")
        )
        words = (
            "Someone asked for letters to this address. If it was you, press the button. "
            "If not, do nothing; nothing will come."
        )
        assert notice.subject == "Please confirm your address"
        assert words in Page(notice.html).body_words
        assert words in " ".join(notice.text.split())
        assert "The button works until Friday." in notice.text
        assert notice.from_name == "The Steady Page"

    def test_a_discreet_one_has_the_plain_sender(self, typesetter: Typesetter) -> None:
        facts = NoticeFacts(action_url="https://l.example.org/c/1", discreet=True)
        assert typesetter.notice(Kind.CONFIRMATION, facts).from_name == "Weekly note"

    def test_a_letter_is_no_notice(self, typesetter: Typesetter) -> None:
        with pytest.raises(RenderError, match="letter"):
            typesetter.notice(Kind.LETTER, NoticeFacts(action_url="https://l.example.org/c/1"))


class TestWhatComesFromOutside:
    NASTY = '<script>alert(1)</script> & "quotes" {{ 7 * 7 }} {% if %} *stars* [x](javascript:1)'

    def test_library_texts_are_words_and_nothing_else(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        post = RelatedPost(key="p", title=self.NASTY, url="/p/", why=self.NASTY)
        letter = typesetter.letter(
            series, letter_step, facts(affirmation=Affirmation(key="a", text=self.NASTY), posts=(post,))
        )
        page = Page(letter.html)
        assert page.faults == []
        assert not page.find("script")
        assert page.body_words.count(self.NASTY) == 3
        assert "49" not in letter.html
        assert " ".join(letter.text.split()).count(self.NASTY) == 3

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(country=st.text(max_size=20), why=st.text(max_size=40))
    def test_no_text_of_a_reader_becomes_markup(
        self,
        typesetter: Typesetter,
        notes: Sequence,
        note_step: Step,
        facts: Callable[..., LetterFacts],
        country: str,
        why: str,
    ) -> None:
        step = replace(note_step, body="Hello {{ reader.country }}, [pause]({{ links.pause }}) at will.")
        post = RelatedPost(key="p", title="A post", url="/p/", why=f"x{why}x")
        page = Page(typesetter.letter(notes, step, facts(country=country, posts=(post,))).html)
        assert page.faults == []
        baseline = Page(typesetter.letter(notes, step, facts(country="GB", posts=(post,))).html)
        assert [e.tag for e in page.all] == [e.tag for e in baseline.all]


class TestFaults:
    def test_the_operators_file_and_line_are_named(self, set_body: Callable[..., object]) -> None:
        with pytest.raises(RenderError, match=r"^sequences/own/01-own\.md:7: there is no 'letter.count'; write"):
            set_body("Hello,\n\nthis is {{ letter.count }}.")

    def test_so_they_are_for_what_only_shows_when_a_letter_is_set(self, set_body: Callable[..., object]) -> None:
        """A loop over nothing, a total that is not there: the line is found again through Markdown."""
        body = "Hello,\n\n- one\n- two {{ letter.number }}\n\n{% if letter.total > 3 %}\nMany.\n{% endif %}"
        with pytest.raises(RenderError, match=r"^sequences/own/01-own\.md:10: '>' not supported"):
            set_body(body, total=None)

    def test_a_fault_in_an_overridden_template_names_it(
        self, revision: Revision, site: Site, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        for source, message in (
            ("{% block %}", r"^templates/email/letter\.txt:1: "),
            ("Hello\n\n{{ nobody }}", r"^templates/email/letter\.txt:3: 'nobody' is undefined"),
            ("{% include 'email/lost.txt' %}", r"^templates/email/letter\.txt: there is no template 'email/lost"),
        ):
            own = replace(revision, templates={"email/letter.txt": source})
            typesetter = Typesetter(own, site, shipped_templates=SHIPPED_TEMPLATES)
            with pytest.raises(RenderError, match=message):
                typesetter.letter(series, letter_step, facts())

    def test_a_macro_that_is_missing_is_named(
        self, revision: Revision, site: Site, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        own = replace(revision, templates={"email/macros.html": "{% macro heading(content) %}x{% endmacro %}"})
        typesetter = Typesetter(own, site, shipped_templates=SHIPPED_TEMPLATES)
        with pytest.raises(RenderError, match=r"templates/email/macros\.html: .*'paragraph'"):
            typesetter.letter(series, letter_step, facts())

    def test_check_finds_what_only_some_readers_would_meet(
        self, typesetter: Typesetter, series: Sequence, letter_step: Step
    ) -> None:
        for body, message in (
            ("{% if letter.total > 3 %}\nx\n{% endif %}", "not supported"),
            ("{% if reader.country == 'DE' %}\n{{ letter.number + reader.country }}\n{% endif %}", "numbers only"),
            ("**{% if letter.number == 9 %}**x{% endif %}", "begins inside"),
            ("You live in {{ reader.country }}.", "some readers do not have"),
            ("[a](/x) and [a](/y)", "two links say 'a'"),
        ):
            with pytest.raises(ContentError, match=message) as raised:
                typesetter.check(series, replace(letter_step, body=body))
            assert raised.value.path == letter_step.path

    def test_check_passes_a_sound_letter(self, typesetter: Typesetter, revision: Revision) -> None:
        for sequence in revision.sequences:
            for step in sequence.steps:
                typesetter.check(sequence, step)


class TestOverriddenTemplates:
    def test_they_rule_over_the_shipped_ones(
        self, revision: Revision, site: Site, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        own = replace(revision, templates={"email/letter.txt": "Mine: {{ heading }}\n{{ links.pause }}\n"})
        letter = Typesetter(own, site, shipped_templates=SHIPPED_TEMPLATES).letter(series, letter_step, facts())
        assert letter.text.startswith("Mine: Three small habits")
        assert "<h1" in letter.html

    def test_one_that_does_more_with_a_link_than_print_it_is_obeyed(
        self, revision: Revision, site: Site, series: Sequence, letter_step: Step, facts: Callable[..., LetterFacts]
    ) -> None:
        """Such a letter cannot be made by putting links into an earlier one; it is set anew each time."""
        own = replace(revision, templates={"email/letter.txt": "{{ links.pause | upper }}\n"})
        typesetter = Typesetter(own, site, shipped_templates=SHIPPED_TEMPLATES)
        for _ in range(2):
            assert typesetter.letter(series, letter_step, facts()).text.startswith("HTTPS://LETTERS")


class TestManyReaders:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_what_is_put_together_for_a_reader_is_what_is_rendered_for_them(
        self,
        revision: Revision,
        site: Site,
        series: Sequence,
        facts: Callable[..., LetterFacts],
        data: st.DataObject,
    ) -> None:
        """Byte for byte, whoever had the letter before."""
        typesetter = Typesetter(revision, site, shipped_templates=SHIPPED_TEMPLATES)
        step = data.draw(st.sampled_from(series.steps))
        draw = {
            "number": st.integers(1, 3),
            "total": st.sampled_from([None, 3, 9]),
            "affirmation": st.sampled_from([None, *revision.affirmations]),
            "posts": st.lists(st.sampled_from(revision.related_posts), max_size=2, unique=True).map(tuple),
            "country": st.sampled_from([None, "GB", "DE"]),
            "discreet": st.booleans(),
            "welcome_back": st.booleans(),
            "local_date": st.dates(date(2026, 1, 1), date(2026, 12, 31)),
            "links": st.builds(Links, **dict.fromkeys(("unsubscribe", "preferences", "pause", "too_much"), LINKS)),
        }
        one = facts(**{name: data.draw(drawn) for name, drawn in draw.items()})
        for name, drawn in draw.items():
            own = one._replace(**{name: data.draw(drawn)})
            rendered = typesetter.letter(series, step, own)
            encoded = typesetter.encoded_letter(series, step, own)
            assert encoded == Plate.of(rendered, own.links).encoded(own.links)
            assert quopri.decodestring(encoded.html).decode().replace("\r\n", "\n") == rendered.html
            assert quopri.decodestring(encoded.text).decode().replace("\r\n", "\n") == rendered.text

    def test_threads_do_not_mix_readers_up(
        self,
        typesetter: Typesetter,
        series: Sequence,
        letter_step: Step,
        facts: Callable[..., LetterFacts],
        links: Links,
    ) -> None:
        def of(number: int) -> tuple[str, str]:
            own = links._replace(pause=f"https://letters.example.org/p/{number:04d}")
            letter = typesetter.encoded_letter(series, letter_step, facts(number=number % 9 + 1, links=own))
            return quopri.decodestring(letter.html).decode(), quopri.decodestring(letter.text).decode()

        with ThreadPoolExecutor(8) as pool:
            letters = list(pool.map(of, range(200)))
        for number, (html, text) in enumerate(letters):
            assert f"/p/{number:04d}" in html
            assert f"/p/{number:04d}" in text
            assert f"Letter {number % 9 + 1} of 9" in text
            assert len(re.findall(r"/p/\d{4}", html)) == 1
