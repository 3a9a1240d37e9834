"""YAML that keeps the line of everything, and runs nothing.

PyYAML composes a tree of marked nodes; no Python object is ever built from it. Anchors, aliases and tags are
refused: nobody needs them here, and they are how a small file becomes a large one.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

import yaml
from yaml.events import AliasEvent, NodeEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from newsletter.content.faults import Page, shown, suggestion
from newsletter.content.text_files import UNWANTED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_DEPTH = 10
_TAG = "tag:yaml.org,2002:"
_HINTS = (
    (
        "mapping values are not allowed",
        'a text with a colon needs quotes, as in "One: two"; a mapping needs braces, as in {key: value}',
    ),
    ("alias", 'a text that begins with * needs quotes, as in "*":'),
    ("anchor", "a text that begins with & needs quotes"),
    ("tags are not", "a text that begins with ! needs quotes"),
    ("could not find expected ':'", "write key: value, with a space after the colon"),
    ("unexpected end of stream", "close the quotation mark"),
    ("unknown escape", "double the backslash, or put the text in 'single' quotes"),
    ("expected a single document", "remove the line --- in the middle"),
    ("cannot start any token", "a text that begins with @, %, ` or | needs quotes"),
    (
        "expected <block end>",
        "lines of one list or mapping must begin in one column, and quotes must be closed",
    ),
    ("expected ',' or", "close the bracket, or put the text in quotes"),
)
_GENERAL_HINT = "write key: value, and put a text with special characters in double quotes"


_MISREAD = {"bool": "true or false", "timestamp": "a date", "int": "a number", "float": "a number"}


class _Loader(yaml.SafeLoader):
    """Composes nodes, refusing what a content file has no use for."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        problem = None
        if isinstance(event, AliasEvent):
            problem = "an alias is not known here"
        elif isinstance(event, NodeEvent) and event.anchor is not None:
            problem = "an anchor is not known here"
        elif getattr(event, "tag", None) is not None:
            problem = "tags are not known here"
        elif self.depth >= MAX_DEPTH:
            problem = "lists within lists are nested too deeply"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def compose(text: str, page: Page) -> Node | None:
    """The root of the YAML in `text`; None, and a fault at its line, when it is not YAML or holds nothing."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = f"{error.context or ''} {error.problem or ''}"
        hint = next((hint for part, hint in _HINTS if part in words), _GENERAL_HINT)
        line = page.first_line + (mark.line if mark else 0)
        page.fault(f"this is not YAML ({error.problem or 'unreadable'}): {hint}.", line=line)
        return None
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML makes a character of any number behind a backslash.
        page.fault("this is not YAML (a backslash names no character): double it.", line=page.first_line)
        return None
    finally:
        loader.dispose()
    if node is None:
        page.fault(f"there is nothing here but comments; {_GENERAL_HINT}.", line=page.first_line)
    return node


def line_of(node: Node, page: Page) -> int:
    """The line of the file on which `node` begins."""
    return int(page.first_line + node.start_mark.line)


def entries(node: Node, page: Page, *, what: str) -> list[Node]:
    """The entries of a list; empty, and a fault, when it is none."""
    if isinstance(node, SequenceNode):
        return list(node.value)
    message = f"{what} must be a list; begin each entry with a dash, as in: - key: …"
    page.fault(message, line=line_of(node, page))
    return []


def pairs(node: Node, page: Page, *, what: str) -> list[tuple[str, int, Node]]:
    """Key, line and value of each pair of a mapping. A key that is no text or stands twice is a fault."""
    if not isinstance(node, MappingNode):
        page.fault(f"{what} must be made of lines like key: value.", line=line_of(node, page))
        return []
    found: list[tuple[str, int, Node]] = []
    lines: dict[str, int] = {}
    for key_node, value in node.value:
        line = line_of(key_node, page)
        if not isinstance(key_node, ScalarNode):
            page.fault("a key must be one word; text with braces or brackets needs quotes.", line=line)
            continue
        # YAML would read the keys on, no and 1 as something else than text; what was typed is what is meant.
        key = str(key_node.value)
        plain = key.replace("-", "_")
        if plain in lines:
            page.fault(f"{shown(key)} was given on line {lines[plain]} already; keep one of them.", line=line)
            continue
        lines[plain] = line
        found.append((key, line, value))
    return found


def plain_text(node: Node, page: Page, *, name: str, one_line: bool = True) -> str | None:
    """The text of `node`, stripped; None, and a fault, when it is anything but text.

    Numbers count as the digits that were typed, so a telephone number needs no quotes. What YAML would take
    for a truth value, a date or a time needs them: another program that reads the file would see that.
    """
    line = line_of(node, page)
    if not isinstance(node, ScalarNode):
        kind = "a list" if isinstance(node, SequenceNode) else "a mapping"
        message = f'{name} must be one text, and YAML reads {kind} here; put it in quotes: {name}: "…"'
        page.fault(message, line=line)
        return None
    value = str(node.value).strip()
    tag = node.tag.removeprefix(_TAG)
    if tag == "null" or not value:
        page.fault(f"{name} is empty; write a text after the colon, or remove the line.", line=line)
        return None
    misread = _MISREAD.get(tag)
    if misread and (tag in ("bool", "timestamp") or ":" in value):
        page.fault(f'YAML reads {value} as {misread}; put it in quotes: {name}: "{value}"', line=line)
        return None
    if UNWANTED.search(value):
        # A double-quoted "\r" or "\ud800" passes every look at the file itself.
        page.fault(f"{name} holds an invisible character; write it without backslashes.", line=line)
        return None
    if one_line and "\n" in value:
        page.fault(f"{name} must stand on one line.", line=line)
        return None
    return value


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_Word = TypeVar("_Word", bound=StrEnum)
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Fields:
    """The named values of one mapping, asked for by name; a wrong one is noted and reads as absent.

    Attributes:
        page: the file it stands in.
        line: the line on which the mapping begins.
    """

    def __init__(self, node: Node, page: Page, *, known: Collection[str], what: str) -> None:
        self.page = page
        self.line = line_of(node, page)
        self._is_mapping = isinstance(node, MappingNode)
        self._values: dict[str, Node] = {}
        self._lines: dict[str, int] = {}
        for key, line, value in pairs(node, page, what=what):
            name = key.replace("-", "_")
            if name in known:
                self._values[name], self._lines[name] = value, line
            else:
                page.fault(f"{shown(key)} is not known in {what}; {suggestion(name, known)}", line=line)

    def __contains__(self, name: str) -> bool:
        """Whether the mapping has that key, with whatever value."""
        return name in self._values

    def node(self, name: str) -> Node | None:
        """The value of that key as it stands, or None."""
        return self._values.get(name)

    def line_of(self, name: str) -> int:
        """The line of that key, or of the mapping where it has no such key."""
        return self._lines.get(name, self.line)

    def fault(self, name: str, message: str) -> None:
        """Note a fault of the value of `name`."""
        self.page.fault(message, line=self.line_of(name))

    def fault_whole(self, message: str) -> None:
        """Note a fault of the mapping, unless it is none: then that is fault enough."""
        if self._is_mapping:
            self.page.fault(message, line=self.line)

    def text(self, name: str, *, one_line: bool = True) -> str | None:
        """An optional text, or None."""
        node = self._values.get(name)
        return None if node is None else plain_text(node, self.page, name=name, one_line=one_line)

    def required(self, name: str, *, one_line: bool = True) -> str:
        """A text that has to be there; empty, and a fault, when it is not."""
        if name not in self._values:
            self.fault_whole(f"{name} is missing; add the line {name}: …")
        return self.text(name, one_line=one_line) or ""

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; a single text counts as a list of one."""
        node = self._values.get(name)
        if node is None:
            return ()
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        read = (plain_text(entry, self.page, name=name) for entry in nodes)
        return tuple(text for text in read if text is not None)

    def flag(self, name: str) -> bool:
        """Whether `name` is true; false where it is absent."""
        node = self._values.get(name)
        if node is None:
            return False
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}bool":
            return _FLAGS[str(node.value).lower()]
        self.fault(name, f"{name} must be true or false; write {name}: true, without quotes.")
        return False

    def day(self, name: str) -> date | None:
        """A calendar day, or None."""
        node = self._values.get(name)
        if node is None:
            return None
        typed = str(node.value).strip() if isinstance(node, ScalarNode) else ""
        if _DATE.fullmatch(typed):
            try:
                return date.fromisoformat(typed)
            except ValueError:
                pass
        self.fault(name, f"{name} must be a day that exists; write year-month-day: {name}: 2026-11-23")
        return None

    def choice(self, name: str, kind: type[_Word]) -> _Word | None:
        """One of the words of an enumeration, or None."""
        typed = self.text(name)
        if typed is None:
            return None
        words: Mapping[str, _Word] = {member.value: member for member in kind}
        if typed not in words:
            self.fault(name, f"{name}: {shown(typed)} is not known; {suggestion(typed, tuple(words))}")
        return words.get(typed)
