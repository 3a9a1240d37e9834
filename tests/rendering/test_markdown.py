"""From an operator's Markdown to both parts of an email."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsletter.errors import RenderError
from newsletter.rendering.markdown import read_body
from tests.rendering.reading import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.rendering.facts import Rendered

    SetBody = Callable[..., Rendered]


def own_part(rendered: Rendered) -> tuple[str, str]:
    """The HTML and the text between the heading and the affirmation."""
    html = rendered.html.split("</h1>")[1].split("<figure")[0]
    html = re.sub(r' (style|class)="[^"]*"', "", html.split("</td>")[0])
    text = rendered.text.split("==\n", 1)[1].split("\nI can go slowly", 1)[0].split("\n    I can", 1)[0]
    return html.strip(), text.strip()


@pytest.mark.parametrize(
    ("body", "html", "text"),
    [
        ("One.\n\nTwo.", "<p>One.</p>\n<p>Two.</p>", "One.\n\nTwo."),
        ("Warmly,\nJoan", "<p>Warmly,<br>\nJoan</p>", "Warmly,\nJoan"),
        ("*a* **b** `c`", "<p><em>a</em> <strong>b</strong> c</p>", "*a* *b* c"),
        ("## Two\n\nx\n\n### Three", "<h2>Two</h2>\n<p>x</p>\n<h3>Three</h3>", "Two\n---\n\nx\n\nThree\n-----"),
        ("- a\n- b", "<ul><li>a</li>\n<li>b</li>\n</ul>", "- a\n- b"),
        ("3. a\n4. b", '<ol start="3"><li>a</li>\n<li>b</li>\n</ol>', "3. a\n4. b"),
        ("> a\n>\n> b", "<blockquote><p>a</p>\n<p>b</p>\n</blockquote>", "> a\n\n> b"),
        ("- a\n\n  b", "<ul><li><p>a</p>\n<p>b</p>\n</li>\n</ul>", "- a\n\n  b"),
        ("    four spaces", "<p>four spaces</p>", "four spaces"),
        ("<b>x</b> & <3", "<p>&lt;b&gt;x&lt;/b&gt; &amp; &lt;3</p>", "<b>x</b> & <3"),
        ("\\{\\{ x }} and {", "<p>&#123;&#123; x }} and &#123;</p>", "{{ x }} and {"),
        ("&#123;{ letter.number }}", "<p>&#123;&#123; letter.number }}</p>", "{{ letter.number }}"),
        ("*{{ letter.number }}*", "<p><em>3</em></p>", "*3*"),
        ("a{# gone #}b", "<p>ab</p>", "ab"),
        ("{# gone\nover lines #}\na", "<p>a</p>", "a"),
        ("x\n\n---\n\ny", "<p>x</p>\n<hr>\n<p>y</p>", f"x\n\n{'-' * 32}\n\ny"),
    ],
)
def test_each_block_in_both_parts(set_body: SetBody, body: str, html: str, text: str) -> None:
    assert own_part(set_body(body)) == (html, text)


class TestLinks:
    def test_the_address_stands_alone_below_the_words(self, set_body: SetBody) -> None:
        rendered = set_body("Read [the post](https://example.org/a) when it suits you.")
        assert ("the post", "https://example.org/a") in Page(rendered.html).links
        assert "Read the post when it suits you.\nhttps://example.org/a\n" in rendered.text

    def test_several_links_of_a_paragraph_are_told_apart(self, set_body: SetBody) -> None:
        rendered = set_body("[One](https://example.org/1) or [two](https://example.org/2).")
        assert "One or two.\nOne:\nhttps://example.org/1\ntwo:\nhttps://example.org/2\n" in rendered.text

    def test_an_address_in_the_words_is_not_said_twice(self, set_body: SetBody) -> None:
        rendered = set_body("See <https://example.org/a>")
        assert "See\nhttps://example.org/a\n" in rendered.text

    def test_a_path_is_below_the_site(self, set_body: SetBody) -> None:
        assert "https://www.example.org/a-post" in set_body("[A post](/a-post)").text

    def test_a_readers_own_link(self, set_body: SetBody) -> None:
        rendered = set_body("You can [rest]({{ links.pause }}) or [look]({{ site.url }}/x).")
        assert dict(Page(rendered.html).links)["rest"].endswith("#pause")
        assert "look:\nhttps://www.example.org//x" in rendered.text

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("[x](relative.html)", "leads nowhere from an email"),
            ("[x](//evil.example.org/)", "leads nowhere from an email"),
            ("[x](ftp://example.org/)", "leads nowhere from an email"),
            ("[x](https://e.org/?c={{ reader.country }})", "no other hole"),
            ("[x](https://e.org/{{ links.pause }})", "nothing may stand before"),
            ("[x]({{ links.pause }}?a=1)", "nothing may stand before or behind"),
            ("Click [here](https://e.org/).", "where it leads"),
            ("[](https://e.org/)", "where it leads"),
        ],
    )
    def test_addresses_that_are_refused(self, set_body: SetBody, body: str, message: str) -> None:
        with pytest.raises(RenderError, match=message):
            set_body(body)

    @pytest.mark.parametrize("scheme", ["javascript", "data", "vbscript", "file"])
    def test_an_address_that_runs_something_is_no_link(self, set_body: SetBody, scheme: str) -> None:
        rendered = set_body(f"[x]({scheme}:alert(1))")
        assert all(not address.startswith(scheme) for _, address in Page(rendered.html).links)


class TestBoxes:
    def test_a_practice_has_a_title_and_a_time(self, set_body: SetBody) -> None:
        rendered = set_body("::: practice Find your floor | Two minutes\nFeel it.\n:::\n\nAfter.")
        page = Page(rendered.html)
        (title,) = [h2 for h2 in page.find("h2") if h2.words == "Find your floor"]
        assert title.parent
        assert title.parent.tag == "td"
        assert "Two minutes" in title.parent.words
        assert "Feel it." in title.parent.words
        assert "After." not in title.parent.words
        rule = "-" * 32
        assert f"{rule}\nFind your floor\nTwo minutes\n\nFeel it.\n\n{rule}\n\nAfter." in rendered.text

    def test_a_title_is_words(self, set_body: SetBody) -> None:
        rendered = set_body("::: practice <b> & {{ letter.number }} | *x*\nFeel it.\n:::")
        assert Page(rendered.html).find("h2")[0].words == "<b> & 3"
        assert "<b> & 3\n*x*\n" in rendered.text

    def test_a_source_is_small(self, set_body: SetBody) -> None:
        page = Page(set_body("::: source\nFrom a book.\n:::").html)
        (paragraph,) = [p for p in page.find("p") if p.words == "From a book."]
        assert page.value(paragraph, "font-size") == "15px"

    @pytest.mark.parametrize(
        ("body", "line", "message"),
        [
            ("a\n\n::: practise X | y\nb\n:::", 7, "there is no such box"),
            ("a\n\n::: practice\nb\n:::", 7, "needs a title"),
            ("a\n\n::: practice X | y\nb\n", 7, "has no end"),
            ("a\n\nb\n\n# Big", 9, "begin this one with ##"),
            ("a\n\n### Small", 7, "skips a level"),
            ("a\n\n![x](https://e.org/x.png)", 7, "no pictures"),
            ("a\n\nb {{ help_lines }}", 7, "a line of its own"),
            ("{# one\ntwo #}\n\n# Big", 8, "begin this one"),
            ("a\n\n{% raw %}{{ x }}{% endraw %}", 7, "not available"),
        ],
    )
    def test_faults_have_their_line(self, set_body: SetBody, body: str, line: int, message: str) -> None:
        """The file's own line: the body of these begins at the fifth."""
        with pytest.raises(RenderError, match=rf"^sequences/own/01-own\.md:{line}: .*{message}"):
            set_body(body)


class TestHoles:
    def test_a_block_alone_in_its_line_is_in_no_paragraph(self, set_body: SetBody) -> None:
        html, text = own_part(set_body("Before.\n{{ help_lines }}\nAfter."))
        assert html.startswith("<p>Before.</p>\n<div>\n<p>Samaritans<br>")
        assert html.endswith("</div>\n<p>After.</p>")
        assert text.startswith("Before.\n\nSamaritans\n")

    def test_an_affirmation_alone_in_its_line_is_the_figure(self, set_body: SetBody) -> None:
        rendered = set_body("Before.\n\n{{ affirmation }}\n\nAfter: {{ affirmation }}")
        (figure,) = Page(rendered.html).find("figure")
        assert "I can go slowly" in figure.words
        assert "After: I can go slowly and still be going." in Page(rendered.html).body_words
        assert rendered.text.count("I can go slowly") == 2

    def test_a_condition_in_lines_of_its_own_leaves_no_empty_paragraph(self, set_body: SetBody) -> None:
        body = "{% if letter.number == 3 %}\nThree.\n{% else %}\nOther.\n{% endif %}\nEnd."
        assert own_part(set_body(body)) == ("<p>Three.</p>\n<p>End.</p>", "Three.\n\nEnd.")

    def test_a_condition_within_a_paragraph(self, set_body: SetBody) -> None:
        body = "A{% if letter.number == 4 %} b{% endif %} c.\n\n{% if letter.number == 4 %}D.{% endif %}"
        assert own_part(set_body(body)) == ("<p>A c.</p>", "A c.")

    def test_a_condition_around_a_list_ends_it(self, set_body: SetBody) -> None:
        body = "{% if letter.number == 3 %}\n- a\n- b\n{% endif %}\nEnd."
        assert own_part(set_body(body)) == (
            "<ul><li>a</li>\n<li>b</li>\n</ul>\n<p>End.</p>",
            "- a\n- b\n\nEnd.",
        )

    def test_what_a_hole_prints_is_wrapped_with_its_paragraph(self, set_body: SetBody) -> None:
        text = set_body("word " * 12 + "{{ site.name }} " + "word " * 12).text
        assert "The Steady Page" in " ".join(text.split())
        assert all(len(line) <= 72 for line in text.splitlines() if "http" not in line)

    def test_a_hole_in_a_heading_is_underlined_as_long_as_it_is(self, set_body: SetBody) -> None:
        assert "Letter 3 here\n-------------\n" in set_body("## Letter {{ letter.number }} here").text

    def test_a_hole_is_never_markdown_or_html(self, set_body: SetBody) -> None:
        rendered = set_body("Hello {{ reader.country }}.", country="*x* <b> [y](https://evil.example.org)")
        assert "Hello *x* <b> [y](https://evil.example.org)." in Page(rendered.html).body_words
        assert all("evil" not in address for _, address in Page(rendered.html).links)

    def test_the_words_that_stand_for_holes_cannot_be_written_by_hand(self) -> None:
        """A text that holds such a word gets others, so that it prints nothing but itself."""
        inert = "qz0n0000x QZ1n0000x"
        body = read_body(f"a {{{{ letter.number }}}} {inert}", site_url="https://e.org", frame=_frame)
        for template in (body.html.source, body.text.source):
            assert inert in template
            assert len(re.findall(r"\{\{\s*letter", template)) == 1

    @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
    @given(
        parts=st.lists(
            st.sampled_from(
                [
                    *("{{ letter.number }}", "{% if letter.number %}", "{% endif %}", "{{ help_lines }}"),
                    *("{{ 'a}}b' }}", "{# c #}", "*", "_", "[", "](", ")", "\n", "\n\n", "- ", "> ", "## ", "`"),
                    *("::: practice X | y\n", ":::\n", "a", "<", "{", "}", "\\", "&#123;", "1. ", "  ", "é"),
                ]
            ),
            max_size=14,
        )
    )
    def test_no_hole_appears_that_was_not_written(self, parts: list[str]) -> None:
        """Whatever Markdown makes of braces, escapes and entities, a template has the text's holes only."""
        source = "".join(parts)
        written = {_inside(hole) for hole in HOLE.findall(source)} | {'{{"{"}}'}
        body = read_body(source, site_url="https://e.org", frame=_frame)
        for template in (body.html.source, body.text.source):
            ours = re.sub(r"\{% (end)?filter[^%]*%\}", "", template)
            assert {_inside(hole) for hole in HOLE.findall(ours)} <= written
            assert not re.search(r"qz\d+n\d+x", template)

    @pytest.mark.parametrize(
        ("source", "holes"),
        [
            ("{{ letter.number }}", 1),
            ("\\{{ letter.number }}", 1),
            ("{\\{ letter.number }}", 0),
            ("&#123;{ letter.number }}", 0),
            ("&lbrace;&lbrace; letter.number }}", 0),
            ("{**{ letter.number }}**", 0),
        ],
    )
    def test_braces_that_markdown_makes_are_no_holes(self, source: str, holes: int) -> None:
        body = read_body(source, site_url="https://e.org", frame=_frame)
        assert len(re.findall(r"\{\{\s*letter", body.html.source)) == holes
        assert len(re.findall(r"\{\{\s*letter", body.text.source)) == holes


HOLE = re.compile(
    r"""\{\{(?:[^'"}]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\}(?!\}))*\}\}|\{%.*?%\}|\{#.*?#\}""", re.DOTALL
)


def _inside(hole: str) -> str:
    return re.sub(r"\s", "", hole)


def _frame(macro: str, **options: object) -> tuple[str, str]:
    return f"<{macro}>", f"</{macro}>"
