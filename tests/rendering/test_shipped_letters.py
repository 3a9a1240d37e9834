"""The letters that come with the program, in the layout that comes with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from newsletter.content.files import read_content
from newsletter.rendering.imagined import readers
from newsletter.rendering.typesetting import Typesetter
from tests.rendering.conftest import SHIPPED_TEMPLATES
from tests.rendering.reading import Page

if TYPE_CHECKING:
    from newsletter.domain.sequence import Revision
    from newsletter.rendering.facts import Site

CONTENT = Path(__file__).parents[2] / "content"


@pytest.fixture(scope="module")
def shipped() -> Revision:
    return read_content(CONTENT)


def test_every_letter_can_be_set_for_everybody(shipped: Revision, site: Site) -> None:
    typesetter = Typesetter(shipped, site, shipped_templates=SHIPPED_TEMPLATES)
    assert shipped.sequences
    for sequence in shipped.sequences:
        for step in sequence.steps:
            typesetter.check(sequence, step)


def test_every_letter_is_small_and_sound(shipped: Revision, site: Site) -> None:
    """At most 20 KB of HTML with the longest list of help lines, and as much text as HTML says."""
    typesetter = Typesetter(shipped, site, shipped_templates=SHIPPED_TEMPLATES)
    for sequence in shipped.sequences:
        for step in sequence.steps:
            for facts in list(readers(shipped, step, base_url=site.base_url))[::5]:
                rendered = typesetter.letter(sequence, step, facts)
                assert len(rendered.html.encode()) <= 20_000, step.path
                page = Page(rendered.html)
                assert page.faults == []
                assert len(rendered.text.split()) >= 0.8 * len(page.body_words.split())


def test_every_sensitive_letter_shows_a_help_line_exactly_once(shipped: Revision, site: Site) -> None:
    typesetter = Typesetter(shipped, site, shipped_templates=SHIPPED_TEMPLATES)
    for sequence in shipped.sequences:
        if not sequence.sensitive:
            continue
        for step in sequence.steps:
            for facts in readers(shipped, step, base_url=site.base_url):
                first = shipped.help_for(facts.country)[0].name
                rendered = typesetter.letter(sequence, step, facts)
                assert Page(rendered.html).body_words.count(first) == 1, (step.path, facts.country)
                assert " ".join(rendered.text.split()).count(first) == 1
