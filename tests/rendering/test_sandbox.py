"""What somebody who may edit letters or templates cannot do."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from newsletter.errors import RenderError
from newsletter.rendering.sandbox import (
    OUTPUT_LIMIT,
    SOURCE_LIMIT,
    STEP_LIMIT,
    STRING_LIMIT,
    LetterEnvironment,
    refuse_in_content,
)
from newsletter.rendering.templates import Templates
from newsletter.rendering.typesetting import Typesetter
from newsletter.rendering.wording import BODY_VARIABLES, HEAD_VARIABLES
from tests.rendering.conftest import SHIPPED_TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.domain.sequence import Revision, Sequence, Step
    from newsletter.rendering.facts import LetterFacts, Site

ATTACKS = {
    "class of a string": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by subscript": "{{ ''['__class__'] }}",
    "class by filter": "{{ '' | attr('__class__') }}",
    "class by map": "{{ [''] | map(attribute='__class__') | first }}",
    "class by format": "{{ '{0.__class__}'.format('') }}",
    "class by format_map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "format kept for later": "{% set f = '{0.__class__}'.format %}{{ f('') }}",
    "format by filter": "{{ '{0.__class__}' | attr('format') }}",
    "format by the format filter": "{{ '%1000000000d' | format(1) }}",
    "codes of a letter's own dict": "{{ letter.__init__.__globals__ }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "the environment of a macro": "{% macro m() %}{% endmacro %}{{ m._environment }}",
    "the template itself": "{{ self.__dict__ }}",
    "the context": "{{ self._TemplateReference__context }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "cycler": "{{ cycler.__init__.__globals__ }}",
    "joiner": "{{ joiner() }}",
    "namespace": "{% set n = namespace(a=1) %}{{ n.a }}",
    "dict": "{{ dict(a=1) }}",
    "range": "{% for i in range(10) %}{{ i }}{% endfor %}",
    "the settings": "{{ config }}",
    "the surroundings": "{{ env }}{{ environ }}{{ request }}{{ settings }}",
    "a file": "{% include '/etc/passwd' %}",
    "a file above": "{% include '../pyproject.toml' %}",
    "another template": "{% import '../../newsletter/settings.py' as x %}",
    "a long string": "{{ 'a' * 1000000000 }}",
    "a long string from the left": "{{ 1000000000 * 'a' }}",
    "a long list": "{{ [0] * 1000000000 }}",
    "a wide number": "{{ '%1000000000d' % 1 }}",
    "a tower": "{{ 9 ** 9 ** 9 }}",
    "a huge number": "{{ 999999999999 * 999999999999 * 999999999999 * 999999999999 }}",
    "padding": "{{ 'a'.ljust(1000000000) }}{{ 'a'.center(1000000000) }}{{ 'a'.zfill(1000000000) }}",
    "replacing": "{{ ('a' * 1000).replace('a', 'b' * 1000) }}",
    "centring": "{{ 'a' | center(1000000000) }}",
    "indenting": "{{ 'a' | indent(1000000000) }}",
    "batching": "{{ [1] | batch(1000000000, 0) | list }}",
    "a doubling string": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
    "a doubling sum": "{% set a = 'aaaaaaaaaa' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
    "a doubling block": "{% set a %}aaaaaaaaaa{% endset %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40,
    "a loop in a loop in a loop": (
        "{% set l = (1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0) %}" + "{% for x in l %}" * 12 + "x" + "{% endfor %}" * 12
    ),
    "a macro without end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that doubles": (
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "macros in macros that double": (
        "{% macro m(s) %}{{ s }}{{ s }}{% endmacro %}{{ " + "m(" * 40 + "'aaaaaaaaaa'" + ")" * 40 + " }}"
    ),
    "a recursive loop": "{% for x in (1, 2) recursive %}{{ loop((1, 2)) }}{% endfor %}",
    "changing what is shared": "{{ links.update({'pause': 'https://evil.example.org'}) }}{{ links.clear() }}",
    "escaping switched off": "{% autoescape false %}{{ affirmation }}{% endautoescape %}",
    "safe": "{{ '<script>' | safe }}",
    "brackets without end": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "a number of many digits": "{{ " + "9" * 6000 + " }}",
    "debug": "{% debug %}",
}

LEAKS = ("<class", "<module", "<function", "object at 0x", "root:", "requires-python", "evil")


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_operators_text_with_an_attack_is_refused(attack: str) -> None:
    """Refused when read, with its line, without any of it being run."""
    faults = refuse_in_content(LetterEnvironment(None), f"Hello,\n\n{attack}", BODY_VARIABLES)
    assert faults
    assert all(fault.line in {1, 3} for fault in faults)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_template_with_an_attack_is_refused_or_harmless(
    attack: str,
    revision: Revision,
    site: Site,
    series: Sequence,
    letter_step: Step,
    facts: Callable[..., LetterFacts],
) -> None:
    """Within a second and a few megabytes, and without a word of the program coming out."""
    own = replace(revision, templates={"email/letter.txt": attack})
    typesetter = Typesetter(own, site, shipped_templates=SHIPPED_TEMPLATES)
    tracemalloc.start()
    began = time.monotonic()
    try:
        text = typesetter.letter(series, letter_step, facts()).text
    except RenderError as refusal:
        text = str(refusal)
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.monotonic() - began < 10
    assert peak_bytes < 40_000_000
    assert not any(word in text for word in LEAKS)
    assert len(text) < OUTPUT_LIMIT


class TestTheWallsOneByOne:
    def _render(self, source: str, **context: object) -> str:
        templates = Templates({"own.html": source}, shipped=SHIPPED_TEMPLATES)
        return templates.render("own.html", context)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("{{ ''.__class__ }}", "unsafe"),
            ("{{ 'a'.format }}", "format is not available"),
            ("{{ 'a'.join }}", "unsafe"),
            ("{{ 'a'.upper() }}", "unsafe"),
            ("{{ (1, 2).count(1) }}", "unsafe"),
            ("{{ big.bit_length() }}", "unsafe"),
            ("{{ few.start }}", "unsafe"),
            ("{{ 'a' * 3 }}", "numbers only"),
            ("{{ 2 ** 3 }}", "powers"),
            ("{{ big + 1 }}", "numbers beyond"),
            ("{{ long + long }}", "string of more than"),
            ("{{ long ~ long }}", "string of more than"),
            ("{% for x in many %}{% endfor %}", "loops and calls"),
            ("{% for x in few %}{% for y in few %}{{ long }}{% endfor %}{% endfor %}", "puts out more than"),
            ("{% autoescape false %}{% endautoescape %}", "escaping cannot be switched off"),
            ("{{ lost + 1 }}", "'lost' is undefined"),
            ("{{ lost ~ 'a' }}", "'lost' is undefined"),
            ("{% for x in lost %}{% endfor %}", "'lost' is undefined"),
            ("{{ 'x' | map('upper') }}", "No filter named 'map'"),
            ("x" * (SOURCE_LIMIT + 1), "longer than"),
        ],
    )
    def test_a_wall_says_what_it_stopped(self, source: str, message: str) -> None:
        context = {"big": 10**13, "long": "x" * (STRING_LIMIT - 10), "many": range(STEP_LIMIT + 1), "few": range(9)}
        with pytest.raises(Exception, match=message):
            self._render(source, **context)

    def test_ordinary_templates_do_not_meet_them(self) -> None:
        source = "{% for x in (1, 2) %}{{ x + 1 }}{{ 'a' ~ x }}{{ loop.index }}{% endfor %}{{ d.get('k') | upper }}"
        assert self._render(source, d={"k": "v"}) == "2a113a22V"

    def test_joining_keeps_escaping(self) -> None:
        """Words that are joined with markup are escaped; markup stays."""
        source = "{% set m %}<b>{% endset %}{{ m ~ '<i>' }}{{ 'x' ~ '<i>' }}"
        assert self._render(source) == "<b>&lt;i&gt;x&lt;i&gt;"

    def test_a_budget_belongs_to_one_rendering(self) -> None:
        templates = Templates({"own.html": "{% for x in many %}{% endfor %}"}, shipped=SHIPPED_TEMPLATES)
        for _ in range(5):
            templates.render("own.html", {"many": range(STEP_LIMIT - 10)})


class TestWhatALetterMayDo:
    @pytest.mark.parametrize(
        "source",
        [
            "{{ letter.number }} of {{ letter.total }}, {{ site.name }}, {{ reader.country or 'somewhere' }}",
            "{% if letter.number == 1 %}a{% elif letter.number > 3 and not letter.total %}b{% else %}c{% endif %}",
            "{{ 'last' if letter.number == letter.total else 'not yet' }}{{ letter.number + 1 }}",
            "{% for word in ('one', 'two') %}{{ word | upper }}{% endfor %}",
            "{{ help_lines }}{{ affirmation }}{# a remark #}",
            "[pause]({{ links.pause }}) {{ reader.country is none }} {{ site.url }}",
        ],
    )
    def test_printing_comparing_and_looping(self, source: str) -> None:
        assert refuse_in_content(LetterEnvironment(None), source, BODY_VARIABLES, only_printed=("links",)) == []

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("{{ reader.name }}", "there is no 'reader.name'; write reader.country."),
            ("{{ first_name }}", "there is no 'first_name'; there are reader.country, letter.number"),
            ("{{ letter }}", "'letter' cannot be used alone; write one of letter.number, letter.total."),
            ("{{ affirmation.key }}", "there is no 'affirmation.key'; write affirmation."),
            ("{{ letter.number() }}", "calls like name() are not available"),
            ("{{ letter['number'] }}", "square brackets are not available"),
            ("{{ 'a' | shout }}", "No filter named|there is no filter 'shout'; there are abs,"),
            ("{% if links.pause == 'x' %}{% endif %}", "'links.pause' can be printed and nothing else."),
            ("{{ links.pause | upper }}", "'links.pause' can be printed and nothing else."),
            ("{% set x = 1 %}", "{% set %} is not available"),
            ("{% for %}", ""),
        ],
    )
    def test_what_is_refused_is_said_with_a_way_out(self, source: str, message: str) -> None:
        (fault, *_) = refuse_in_content(
            LetterEnvironment(None), f"a\n{source}", BODY_VARIABLES, only_printed=("links",)
        )
        assert fault.line == 2
        assert any(part in fault.message for part in message.split("|"))

    def test_a_subject_has_no_links_or_blocks(self) -> None:
        for source in ("{{ help_lines }}", "{{ links.pause }}", "{{ affirmation }}"):
            assert refuse_in_content(LetterEnvironment(None), source, HEAD_VARIABLES)
        assert not refuse_in_content(LetterEnvironment(None), "Note {{ letter.number }}", HEAD_VARIABLES)
