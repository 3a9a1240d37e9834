"""The rules of a good email, each held by every kind of email that readers get."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest

from newsletter.domain.delivery import Kind
from newsletter.rendering.facts import NoticeFacts, Rendered
from newsletter.rendering.typesetting import HTML_LIMIT_BYTES
from tests.rendering.conftest import TOKEN
from tests.rendering.reading import Page, contrast
from tests.support import once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from newsletter.domain.sequence import Sequence, Step
    from newsletter.rendering.facts import LetterFacts
    from newsletter.rendering.typesetting import Typesetter

KINDS = ("letter", "last", "note", "discreet", "confirmation", "already_subscribed")
LETTERS = KINDS[:4]
FORBIDDEN = r"flex|grid|float|position|var\(|calc\(|background-image|url\(|@import|@font-face|expression"
SCALE = {"15px", "17px", "21px", "28px"}
NOTICE = NoticeFacts(action_url=f"https://letters.example.org/confirm/{TOKEN}", expires_text="until 19 March, 08:00")


@pytest.fixture(scope="module", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Templates that are the same are compiled once: what they make of the facts is tested here."""
    with once.templates_compiled_once():
        yield


class Email(NamedTuple):
    """An email as it was set, and as a mail program reads it."""

    kind: str
    rendered: Rendered
    page: Page


@pytest.fixture(params=KINDS)
def email(
    request: pytest.FixtureRequest,
    typesetter: Typesetter,
    series: Sequence,
    notes: Sequence,
    letter_step: Step,
    note_step: Step,
    facts: Callable[..., LetterFacts],
) -> Email:
    match request.param:
        case "letter":
            rendered = typesetter.letter(series, letter_step, facts(welcome_back=True))
        case "last":
            rendered = typesetter.letter(series, letter_step, facts(number=9, country="DE"))
        case "note":
            rendered = typesetter.letter(notes, note_step, facts(number=40, total=None, posts=()))
        case "discreet":
            rendered = typesetter.letter(series, letter_step, facts(discreet=True))
        case kind:
            rendered = typesetter.notice(Kind(kind), NOTICE)
    return Email(request.param, rendered, Page(rendered.html))


def test_rule_1_the_document_says_what_it_is(email: Email) -> None:
    assert email.rendered.html.startswith("<!DOCTYPE html>\n<html ")
    assert email.page.find("html", lang="en", dir="ltr")
    assert email.page.find("meta", charset="utf-8")
    assert "scal" not in email.page.find("meta", name="viewport")[0].attributes["content"].replace("initial-scale", "")


def test_every_tag_closes_in_order(email: Email) -> None:
    assert email.page.faults == []


def test_rule_2_one_wrapper_names_the_message(email: Email) -> None:
    """Clients drop html and body, so language, direction, ground and size are said again inside."""
    body = email.page.find("body")[0]
    (wrapper,) = [child for child in body.children if not isinstance(child, str)]
    assert {"role": "article", "aria-roledescription": "email", "lang": "en", "dir": "ltr"}.items() <= (
        wrapper.attributes.items()
    )
    assert email.rendered.subject in wrapper.attributes["aria-label"]
    assert wrapper.style("background-color")
    assert wrapper.style("font-size") == "17px"


def test_rule_3_the_title_is_the_subject(email: Email) -> None:
    assert email.page.find("title")[0].words == email.rendered.subject


def test_rule_4_one_fluid_column_with_a_ghost_table(email: Email) -> None:
    (column,) = [table for table in email.page.find("table") if table.style("max-width")]
    assert (column.style("width"), column.style("max-width")) == ("100%", "600px")
    assert any('width="600"' in comment and "[if mso]" in comment for comment in email.page.comments)
    widths = [element.style("width") for element in email.page.all if element.style("width")]
    assert set(widths) == {"100%"}, "nothing inside is wider than its column"


def test_rule_5_type_and_colour_stand_inline(email: Email) -> None:
    """`<style>` holds the dark design, hover and refinements: nothing that a letter needs."""
    for element in email.page.all:
        if element.own_words and email.page.is_shown(element):
            assert email.page.value(element, "color"), element
            assert email.page.value(element, "background-color"), element
            assert email.page.value(element, "font-size"), element
            assert email.page.value(element, "line-height"), element


def test_rule_6_nothing_that_mail_programs_break(email: Email) -> None:
    styles = email.page.style + "".join(e.attributes.get("style", "") for e in email.page.all)
    assert re.search(FORBIDDEN, styles) is None
    tags = {element.tag for element in email.page.all}
    assert not tags & {"script", "form", "input", "link", "svg", "iframe", "img", "video", "object"}
    assert not any(name.startswith("on") for element in email.page.all for name in element.attributes)


def test_rule_7_layout_tables_are_presentation(email: Email) -> None:
    tables = email.page.find("table")
    tables += [table for comment in email.page.comments for table in Page(f"<body>{comment}").find("table")]
    assert len(tables) >= 2
    for table in tables:
        expected = {"role": "presentation", "cellpadding": "0", "cellspacing": "0", "border": "0"}
        assert expected.items() <= table.attributes.items()


def test_rule_8_one_heading_and_the_others_in_order(email: Email) -> None:
    levels = [int(e.tag[1]) for e in email.page.all if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_rule_9_sizes_come_from_one_scale_and_lines_have_air(email: Email) -> None:
    for element in email.page.all:
        size, height = email.page.value(element, "font-size"), email.page.value(element, "line-height")
        if element.own_words and email.page.is_shown(element):
            assert size in SCALE
            assert height is not None
            limit = 1.25 if element.tag == "h1" else 1.4
            assert int(height[:-2]) / int(str(size)[:-2]) >= limit
    assert "justify" not in email.rendered.html
    aligned = {element.style("text-align") for element in email.page.all} - {None}
    assert aligned == {"left"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_rule_10_everything_can_be_read(email: Email, dark: bool) -> None:
    """The contrast of every text with its ground is at least 4.5, footer and links included."""
    seen = 0
    for element in email.page.all:
        if element.own_words and email.page.is_shown(element):
            ink = email.page.value(element, "color", dark=dark)
            ground = email.page.value(element, "background-color", dark=dark)
            assert ink, element
            assert ground, element
            assert contrast(ink, ground) >= 4.5, (element.own_words, ink, ground)
            seen += 1
    assert seen > 5


def test_rule_10_no_pure_black_and_white(email: Email) -> None:
    colours = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{3,6}\b", email.rendered.html)}
    assert not colours & {"#000", "#000000", "#fff", "#ffffff"}


def test_rule_11_links_say_where_they_lead(email: Email) -> None:
    targets: dict[str, str] = {}
    for words, address in email.page.links:
        assert words
        assert words.casefold() not in {"here", "click here", "link"}
        assert targets.setdefault(words, address) == address
        assert address.startswith(("https://", "tel:"))
    for link in email.page.find("a"):
        decorated = link.style("text-decoration")
        assert decorated == ("none" if "button" in link.classes else "underline")
        assert int(str(email.page.value(link, "line-height"))[:-2]) >= 24


@pytest.mark.parametrize("email", ["confirmation", "already_subscribed"], indirect=True)
def test_rule_12_the_button_is_a_cell_and_a_link(email: Email) -> None:
    cell, link = (element for element in email.page.all if "button" in element.classes)
    assert (cell.tag, link.tag) == ("td", "a")
    assert cell.attributes["bgcolor"] == cell.style("background-color") == link.style("background-color")
    assert link.attributes["href"] == NOTICE.action_url
    padding = int(str(link.style("padding")).split("px")[0])
    assert 2 * padding + int(str(link.style("line-height"))[:-2]) >= 44
    assert "v:" not in email.rendered.html


def test_rule_13_a_dark_design_of_its_own(email: Email) -> None:
    assert email.page.find("meta", name="color-scheme", content="light dark")
    assert email.page.find("meta", name="supported-color-schemes", content="light dark")
    assert "color-scheme: light dark" in email.page.style
    rules = [rule for rules in email.page.dark.values() for rule in rules.split(";") if rule.strip()]
    assert rules
    assert all("!important" in rule for rule in rules)
    used = {name for element in email.page.all for name in element.classes}
    assert used - {"pad", "top", "desk", "keep"} <= set(email.page.dark)


def test_rule_13_text_and_ground_stand_on_the_same_cell(email: Email) -> None:
    """A program that recolours one of them has to know the other."""
    for cell in email.page.find("td"):
        if "background-color" in cell.attributes.get("style", "") and "button" not in cell.classes:
            assert cell.style("color")
            assert cell.attributes["bgcolor"] == cell.style("background-color")


def test_rule_14_the_preheader_comes_first_and_is_padded(email: Email) -> None:
    wrapper = email.page.find("div", role="article")[0]
    first = next(child for child in wrapper.children if not isinstance(child, str))
    assert first is email.page.preheader
    said = first.words.split("\u2007")[0]
    assert 40 <= len(said) <= 100
    assert first.words.count("\u2007\ufeff\u034f") >= 40
    assert email.page.value(first, "color", inherited=False) is None, "hidden by display, never by colour"


def test_rules_15_and_16_nothing_is_fetched(email: Email) -> None:
    """No picture, no pixel, no font, no style sheet: an opened email asks nobody for anything."""
    assert not re.search(r"<(img|link|iframe|object|embed)|src=|@import|url\(|background=", email.rendered.html)
    assert "utm_" not in email.rendered.html
    assert all("?" not in address for _, address in email.page.links)


@pytest.mark.parametrize("email", LETTERS, indirect=True)
def test_rule_17_the_footer_in_its_order(email: Email) -> None:
    """Why you get this, pause, change, leave, postal address; all of it as readable as the rest."""
    words = email.page.body_words
    places = [
        words.index(part)
        for part in (
            "If this is too much today",
            "You get this because",
            "Pause for a while",
            "Change the day or the hour",
            "Stop these letters",
            "12 Quiet Lane",
        )
    ]
    assert places == sorted(places)
    assert email.rendered.text.rstrip().endswith("The Steady Page\n12 Quiet Lane\nBristol BS1 4DJ, United Kingdom")


def test_rule_18_the_text_part_says_the_same(email: Email) -> None:
    """The same words in the same order, every link alone on its line, 72 columns, no litter."""
    text = email.rendered.text
    lines = text.splitlines()
    for _, address in email.page.links:
        if address.startswith("tel:"):
            assert address.removeprefix("tel:") in re.sub(r"[ -]", "", text)
        else:
            assert address in [line.strip().removeprefix("> ") for line in lines]
    urls = set(re.findall(r"https?://\S+", text))
    assert urls == {address for _, address in email.page.links if address.startswith("http")}
    assert all(len(line) <= 72 or re.fullmatch(r" *https?://\S+", line) for line in lines)
    assert not re.search(r"\u2007|\ufeff|\u034f|\[image|<\w|&\w+;|\{\{|\{%|None$", text)
    words = _words(email.page.body_words)
    said = _words(re.sub(r"https?://\S+", "", text))
    missing = [word for word in words if word not in said and "." not in word]
    assert len(missing) <= 0.03 * len(words), missing


def _words(text: str) -> list[str]:
    return re.findall(r"[\w\u2019'.-]*\w", text.casefold())


def test_the_first_line_of_the_text_part_is_a_good_one(email: Email) -> None:
    expected = {
        "letter": "Letter 3 of 9",
        "last": "Letter 9 of 9",
        "note": "A small promise",
        "discreet": "Your note, 12 March",
        "confirmation": "Please confirm your address",
        "already_subscribed": "About your request",
    }
    assert email.rendered.text.splitlines()[0] == expected[email.kind]


def test_rule_20_an_email_is_small(email: Email) -> None:
    assert len(email.rendered.html.encode()) <= 20_000
    assert not re.search(r"\{\{|\}\}|\{%|%\}|\{#|qz\w+qz|>None<", email.rendered.html)


def test_rule_20_a_letter_that_programs_would_cut_off_is_refused(set_body: Callable[..., object]) -> None:
    with pytest.raises(Exception, match=r"sequences/own/01-own\.md: this makes \d+ KB") as raised:
        set_body("word " * 20_000)
    assert type(raised.value).__name__ == "RenderError"
    assert HTML_LIMIT_BYTES == 90_000


def test_nothing_runs_over_the_edge_of_a_phone(email: Email, browser: Browser) -> None:
    """At 390 and 320 points, in light and dark, and with every <style> removed."""
    bare = re.sub(r"<style>.*?</style>", "", email.rendered.html, flags=re.DOTALL)
    page = browser.new_page()
    for html in (email.rendered.html, bare):
        page.set_content(html)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (390, 320):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_link_is_large_enough_for_a_thumb(email: Email, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.set_content(email.rendered.html)
    buttons = page.evaluate("[...document.querySelectorAll('a.button')].map(a => a.getBoundingClientRect().height)")
    assert all(height >= 44 for height in buttons)
    context.close()
