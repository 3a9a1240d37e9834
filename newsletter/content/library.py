"""The library that letters draw on: affirmations, related posts and help lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from newsletter.content.faults import Faults, Page, shown
from newsletter.content.keys import key_fault
from newsletter.content.text_files import read_text
from newsletter.content.yaml_marks import Fields, compose, entries, line_of, pairs
from newsletter.domain.sequence import FALLBACK_COUNTRY, Affirmation, HelpKind, HelpLine, RelatedPost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yaml.nodes import Node

AFFIRMATIONS_FILE = "affirmations.yaml"
POSTS_FILE = "related-posts.yaml"
HELP_FILE = "help-lines.yaml"
_COUNTRY = re.compile(r"[A-Z]{2}")
_WEB = re.compile(r"https?://[^\s/]+\S*")
_PATH = re.compile(r"/(?!/)\S*")
_HELP = (
    "name", "kind", "hours", "phone", "text", "chat", "web",
    "languages", "cost", "relay", "source", "checked_on",
)  # fmt: skip
_WAYS = ("phone", "text", "chat", "web")
_Item = TypeVar("_Item", Affirmation, RelatedPost)


@dataclass(frozen=True, kw_only=True)
class Library:
    """What the three files hold; each may be missing, and is empty then."""

    affirmations: tuple[Affirmation, ...] = ()
    related_posts: tuple[RelatedPost, ...] = ()
    help_lines: dict[str, tuple[HelpLine, ...]]


def read_library(folder: Path, faults: Faults) -> Library:
    """The library of a content folder; whatever is wrong with it is noted."""
    return Library(
        affirmations=_items(folder, AFFIRMATIONS_FILE, faults, _affirmation),
        related_posts=_items(folder, POSTS_FILE, faults, _related_post),
        help_lines=_help_lines(folder, faults),
    )


def _root(folder: Path, page: Page) -> Node | None:
    path = folder / page.path
    text = read_text(path, page) if path.exists() else None
    return None if text is None else compose(text, page)


def _items(folder: Path, name: str, faults: Faults, read: Callable[[Node, Page], _Item]) -> tuple[_Item, ...]:
    """The entries of one file in their order; a key that stands twice is a fault of the second."""
    page = Page(name, faults)
    root = _root(folder, page)
    if root is None:
        return ()
    items: list[_Item] = []
    lines: dict[str, int] = {}
    for node in entries(root, page, what=name):
        item, line = read(node, page), line_of(node, page)
        if item.key in lines:
            first = lines[item.key]
            page.fault(f"the key {item.key} was given on line {first} already; choose another.", line=line)
        if item.key:
            lines.setdefault(item.key, line)
            items.append(item)
    return tuple(items)


def _key(fields: Fields) -> str:
    key = fields.required("key")
    fault = key_fault(key) if key else None
    if fault:
        fields.fault("key", fault)
    return key


def _affirmation(node: Node, page: Page) -> Affirmation:
    fields = Fields(node, page, known=("key", "text", "tags"), what="an affirmation")
    return Affirmation(key=_key(fields), text=fields.required("text"), tags=fields.texts("tags"))


def _related_post(node: Node, page: Page) -> RelatedPost:
    known = ("key", "title", "url", "path", "why", "published", "tags", "discreet")
    fields = Fields(node, page, known=known, what="a related post")
    discreet = fields.text("discreet")
    if discreet not in (None, "hide"):
        fields.fault("discreet", "discreet can only be hide; write discreet: hide, or remove the line.")
    return RelatedPost(
        key=_key(fields),
        title=fields.required("title"),
        url=_url(fields),
        why=fields.text("why") or "",
        published=fields.day("published"),
        tags=fields.texts("tags"),
        hide_when_discreet=discreet == "hide",
    )


def _url(fields: Fields) -> str:
    """Where a post is: its `url`, or its `path` below the site's address."""
    if ("url" in fields) == ("path" in fields):
        fields.fault_whole("a post needs one address; write url: https://…, or path: /… below your site.")
        return ""
    name = "url" if "url" in fields else "path"
    typed = fields.text(name)
    if typed is None:
        return ""
    if not (_PATH.fullmatch(typed) or (name == "url" and _WEB.fullmatch(typed))):
        below = f"path: /{typed.lstrip('/').replace(' ', '-')}"
        wanted = "url: https://…, or path: /…" if name == "url" else below
        fields.fault(name, f"{name}: {shown(typed)} is no address; write {wanted}")
    return typed


def _help_lines(folder: Path, faults: Faults) -> dict[str, tuple[HelpLine, ...]]:
    page = Page(HELP_FILE, faults)
    root = _root(folder, page)
    if root is None:
        return {}
    found: dict[str, tuple[HelpLine, ...]] = {}
    for country, line, node in pairs(root, page, what=HELP_FILE):
        if country != FALLBACK_COUNTRY and not _COUNTRY.fullmatch(country):
            page.fault(f"{shown(country)} is no country; {_country_advice(country)}", line=line)
        services = entries(node, page, what=f"the services of {country}")
        found[country] = tuple(_help_line(service, page) for service in services)
    return found


def _country_advice(typed: str) -> str:
    if re.fullmatch(r"[A-Za-z]{2}", typed):
        return f"write {typed.upper()}."
    return 'write its two capital letters, as in DE, or "*" for everywhere else.'


def _help_line(node: Node, page: Page) -> HelpLine:
    fields = Fields(node, page, known=_HELP, what="a help line")
    if not any(way in fields for way in _WAYS):
        fields.fault_whole("nobody could reach this service; add phone, text, chat or web.")
    kind = fields.choice("kind", HelpKind)
    if "kind" not in fields:
        fields.fault_whole("kind is missing; add kind: crisis, kind: abuse or kind: child.")
    return HelpLine(
        name=fields.required("name"),
        kind=kind or HelpKind.CRISIS,
        hours=fields.required("hours"),
        phone=fields.text("phone"),
        text=fields.text("text"),
        chat=fields.text("chat"),
        web=_web(fields, "web"),
        languages=fields.texts("languages"),
        cost=fields.text("cost"),
        relay=fields.text("relay"),
        source=_web(fields, "source"),
        checked_on=fields.day("checked_on"),
    )


def _web(fields: Fields, name: str) -> str | None:
    typed = fields.text(name)
    if typed is not None and not _WEB.fullmatch(typed):
        fields.fault(name, f"{name}: {shown(typed)} is no web address; write {name}: https://…")
    return typed
