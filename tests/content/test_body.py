"""Reading and rendering agree on what a letter may say: else it would be published, and then held."""

from functools import partial

import pytest

from newsletter.content import body
from newsletter.content.body import check_containers, check_letter_text
from newsletter.content.faults import Faults, Page
from newsletter.errors import ContentErrors
from newsletter.rendering import sandbox, wording

ALLOWED = [
    "Hello {{ site.name }}, this is letter {{ letter.number }} of {{ letter.total }}.",
    "{{ help_lines }} {{ affirmation }} [stop]({{ links.unsubscribe }})",
    "{% if reader.country == 'DE' and not letter.total is none %}a{% elif affirmation %}b{% endif %}",
    "{% for word in ['a', 'b'] %}{{ word|upper }}{% else %}{{ site.url }}{% endfor %}",
    "{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{{ letter.number + 1 }} {{ -1 }} {{ 1000000000000 }}",
    "{{ letter.total|default('many') }} {{ 'a' if affirmation else 'b' }}",
    "{# a note #} {% raw %}{{ nobody }}{% endraw %} \\{ }} }",
]
REFUSED = [
    *("{{ nobody }}", "{{ site }}", "{{ reader|upper }}", "{{ site.name.upper }}", "{{ affirmation.text }}"),
    *(
        "{{ site['name'] }}",
        "{{ help_lines[0] }}",
        "{{ help_lines[:1] }}",
        "{{ range(9) }}",
        "{{ site.name() }}",
    ),
    *("{{ 2 * 3 }}", "{{ 2 ** 3 }}", "{{ 7 % 2 }}", "{{ 7 / 2 }}", "{{ 'a' ~ 'b' }}", "{{ {'a': 1} }}"),
    *(
        "{{ site.name|safe }}",
        "{{ site.name|center(9) }}",
        "{{ site.name|join(d='a') }}",
        "{{ 1 is callable }}",
    ),
    *("{% set a = 1 %}", "{% set a %}b{% endset %}", "{% macro a() %}{% endmacro %}", "{% include 'a' %}"),
    *("{% import 'a' as b %}", "{% from 'a' import b %}", "{% extends 'a' %}", "{% block a %}{% endblock %}"),
    *("{% call a() %}{% endcall %}", "{% filter upper %}a{% endfilter %}", "{% with a = 1 %}{% endwith %}"),
    *("{% autoescape false %}a{% endautoescape %}", "{% for a in [1] recursive %}{% endfor %}", "{% do a %}"),
    *(
        "{{ 1000000000001 }}",
        "{{ links.pause|upper }}",
        "{% if links.pause %}{% endif %}",
        "{% for a in [1] %}{{ a.b }}{% endfor %}",
        "{% for a in [1] %}{{ loop }}{% endfor %}",
    ),
    *(
        "{{",
        "{% if %}",
        "{% endif %}",
        "{{ site. }}",
        "{{ " + "(" * 3000,
        "{{ 'a'|default(default_value='b') }}",
    ),
]


def faults_of(check, source):
    faults = Faults()
    check(source, Page("a.md", faults, first_line=10))
    try:
        faults.raise_any("content")
    except ContentErrors as refused:
        return [(error.line, error.message) for error in refused.errors]
    return []


def refused_later(source, variables=wording.BODY_VARIABLES, only_printed=("links",)):
    environment = sandbox.LetterEnvironment(None)
    return sandbox.refuse_in_content(environment, source, variables, only_printed=only_printed)


@pytest.mark.parametrize("source", ALLOWED)
def test_what_reading_allows_rendering_allows_as_well(source):
    assert faults_of(check_letter_text, source) == []
    assert refused_later(source) == []


@pytest.mark.parametrize("source", REFUSED)
def test_what_rendering_refuses_reading_refuses_first_and_on_the_same_line(source):
    source = f"one\n\n{source}\n"
    later = refused_later(source)

    found = faults_of(check_letter_text, source)

    assert found
    assert later
    if "((" not in source:  # nobody can tell on which line too many brackets are one too many
        assert found[0][0] == (later[0].line or 3) + 9


@pytest.mark.parametrize("source", ["{{ links.pause }}", "{{ help_lines }}", "{{ affirmation }}"])
def test_a_subject_holds_no_links_and_no_blocks(source):
    check = partial(check_letter_text, head=True)

    assert [line for line, _ in faults_of(check, source)] == [10]
    assert refused_later(source, wording.HEAD_VARIABLES, ())
    assert faults_of(check, "{{ site.name }} {{ letter.number }} {{ reader.country }}") == []


def test_reading_and_rendering_know_the_same_words():
    assert body.FILTERS == sandbox.FILTER_NAMES
    assert sandbox.TEST_NAMES == body.TESTS
    assert body.NAMES == wording.BODY_VARIABLES
    assert set(wording.HEAD_VARIABLES) == body.HEAD_NAMES
    assert (body.LARGEST_NUMBER, body.LONGEST_TEXT) == (sandbox.NUMBER_LIMIT, sandbox.SOURCE_LIMIT)


@pytest.mark.parametrize(
    "source",
    [
        "::: practice Find your floor | two minutes\na\n:::",
        "a\n\n::: practice Find your floor\na\n:::\n\n:::: source\nb\n::::\nc",
        "   :::practice A\nb\n   :::   ",
        "a ::: b\n    ::: c",
    ],
)
def test_boxes_that_are_opened_and_closed_are_fine(source):
    assert faults_of(check_containers, source) == []


def test_each_wrong_box_is_told_on_its_own_line():
    source = "a\n:::\n::: practise A\n:::\n::: source\nb\n::: practice A\nc"

    assert [line for line, _ in faults_of(check_containers, source)] == [11, 12, 16, 16]
