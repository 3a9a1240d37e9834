"""Templates become pages, an operator's before ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jinja2.exceptions import SecurityError, TemplateNotFound, UndefinedError

from newsletter import resources
from newsletter.domain.sequence import HelpKind, HelpLine
from newsletter.rendering.facts import Site
from newsletter.web.pages import Pages

if TYPE_CHECKING:
    from pathlib import Path

SITE = Site(
    name="Quiet <Page>",
    site_url="https://www.example.org",
    base_url="https://example.org/letters/",
    from_name="Ruth",
    from_address="letters@example.org",
    reply_to=None,
    postal_address="1 Road",
    replies_read=True,
    leave_url="https://www.example.net/",
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An operator's folder of templates."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "static").mkdir()
    return tmp_path


def pages(own: Path) -> Pages:
    return Pages(site=SITE, folders=[own, resources.templates_dir()])


def body(pages: Pages, template: str, **values: object) -> str:
    return bytes(pages.page(template, values).body).decode()


def test_an_operators_page_and_file_rule_over_ours(own: Path) -> None:
    (own / "pages/gone.html").write_text("Farewell from {{ site.name }}")
    (own / "static/site.css").write_text("p { color: teal }")
    changed = pages(own)
    assert body(changed, "gone") == "Farewell from Quiet &lt;Page&gt;"
    assert changed.assets["site.css"].content == b"p { color: teal }"
    assert changed.assets["zone.js"].content


def test_an_operators_page_may_extend_ours(own: Path) -> None:
    source = '{% extends "pages/base.html" %}{% block main %}Farewell{% endblock %}'
    (own / "pages/gone.html").write_text(source)
    html = body(pages(own), "gone")
    assert "Farewell" in html
    assert "Leave this page now" in html


def test_what_is_put_into_a_page_is_escaped(own: Path) -> None:
    html = body(pages(own), "sent", typed={"email": '"><script>alert(1)</script>', "country": "'\"><b>"})
    assert "<script>alert" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def test_links_stand_below_the_path_of_base_url(own: Path) -> None:
    html = body(pages(own), "gone")
    assert 'href="/letters/"' in html
    assert 'href="/letters/static/site.css?v=' in html


def test_the_address_of_a_file_changes_with_its_content(own: Path) -> None:
    before = pages(own).assets["site.css"].digest
    (own / "static/site.css").write_text("p { color: teal }")
    assert pages(own).assets["site.css"].digest != before


@pytest.mark.parametrize(
    "source", ["{{ nobody }}", "{{ site.nothing }}", "{{ site.__class__.__mro__[1].__subclasses__() }}"]
)
def test_a_page_that_names_what_is_not_there_fails_instead_of_showing_a_hole(own: Path, source: str) -> None:
    (own / "pages/gone.html").write_text(source)
    with pytest.raises((UndefinedError, SecurityError)):
        body(pages(own), "gone")


def test_a_page_that_does_not_exist_is_an_error(own: Path) -> None:
    with pytest.raises(TemplateNotFound):
        body(pages(own), "nothing")


def test_a_number_spelt_in_letters_is_shown_and_not_dialled(own: Path) -> None:
    lines = [
        HelpLine(name="A", kind=HelpKind.CRISIS, hours="24/7", phone="+1 (800) 555-0100", text="+1 (800) 555-0100"),
        HelpLine(name="B", kind=HelpKind.CRISIS, hours="24/7", phone="1-800-LISTEN", chat="https://www.b.example/"),
    ]
    html = body(pages(own), "too-much", countries=[], everywhere=lines)
    assert 'Call or text <a href="tel:+18005550100">+1 (800) 555-0100</a>' in html
    assert "Call 1-800-LISTEN" in html
    assert 'Chat at <a href="https://www.b.example/" rel="noreferrer">b.example</a>' in html
    assert html.count("Day and night") == 2
