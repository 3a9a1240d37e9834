"""Plain text: paragraphs of 72 columns, and an operator's Markdown as somebody would type it into an email.

Works on markdown-it's tokens and not on HTML, so that nothing is lost and no tag is left over. Jinja holes
are still inert words here; a paragraph that has one is wrapped when its letter is rendered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from markdown_it.token import Token

WIDTH = 72
_URL = re.compile(r"(?:https?://|mailto:)\S+")
_RULE = "-" * 32


def wrapped(text: str, first: str = "", rest: str | None = None) -> str:
    """`text` in lines of at most 72 columns; line breaks stay, and a URL has a line to itself.

    Args:
        text: words, of which only a URL or a monster is ever wider than a line.
        first: stands before the first line, a list's dash for one.
        rest: stands before the others; spaces as wide as `first` where None.
    """
    indent = " " * len(first) if rest is None else rest
    lines: list[str] = []
    for line in text.strip("\n").split("\n"):
        current = ""
        for word in line.split():
            if _URL.fullmatch(word):
                lines += [current, word] if current else [word]
                current = ""
            elif current and len(indent) + len(current) + 1 + len(word) > WIDTH:
                lines.append(current)
                current = word
            else:
                current = f"{current} {word}" if current else word
        lines += [current] if current else []
    return "\n".join((first if number == 0 else indent) + line for number, line in enumerate(lines))


def underlined(text: str, line: str = "-") -> str:
    """`text` wrapped, with a line as long as its longest below it."""
    block = wrapped(text)
    return f"{block}\n{line * max(map(len, block.splitlines()), default=0)}"


def tidied(text: str) -> str:
    """`text` without spaces at line ends or two empty lines together, with one line break at its end."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


@dataclass(frozen=True, kw_only=True)
class _Level:
    """A list item or quote around a paragraph: what stands before its first and its other lines."""

    first: str
    rest: str


class TextWriter:
    """Writes markdown-it tokens as the source of a Jinja text template.

    Args:
        has_hole: whether a text holds an inert word, so that its length is not known yet.
        literal: makes words safe to stand in a Jinja template.
    """

    def __init__(self, *, has_hole: Callable[[str], bool], literal: Callable[[str], str]) -> None:
        self._has_hole = has_hole
        self._literal = literal
        self._levels: list[_Level] = []
        self._counters: list[int | None] = []
        self._item_begins = False
        self._opening: Token | None = None
        self._writers: dict[str, Callable[[Token], str]] = {
            "paragraph_open": self._remember,
            "heading_open": self._remember,
            "inline": self._block,
            "hole": self._hole,
            "hr": lambda _: f"{self._indent()}{_RULE}\n\n",
            "blockquote_open": self._open_quote,
            "blockquote_close": self._close_level,
            "bullet_list_open": self._open_list,
            "bullet_list_close": self._close_list,
            "ordered_list_open": self._open_list,
            "ordered_list_close": self._close_list,
            "list_item_open": self._open_item,
            "list_item_close": self._close_level,
            "container_practice_open": self._open_practice,
            "container_practice_close": lambda _: f"{_RULE}\n\n",
        }

    def write(self, tokens: Sequence[Token]) -> str:
        """The template's source."""
        return "".join(self._writers[token.type](token) for token in tokens if token.type in self._writers)

    def _remember(self, token: Token) -> str:
        self._opening = token
        return ""

    def _hole(self, token: Token) -> str:
        return f"{token.content}\n" if token.meta["statement"] else f"{token.content}\n\n"

    def _open_quote(self, _: Token) -> str:
        self._levels.append(_Level(first="> ", rest="> "))
        return ""

    def _open_list(self, token: Token) -> str:
        start = token.attrGet("start") if token.type == "ordered_list_open" else None
        self._counters.append(int(start or 1) if token.type == "ordered_list_open" else None)
        return ""

    def _close_list(self, _: Token) -> str:
        self._counters.pop()
        return "\n"

    def _open_item(self, _: Token) -> str:
        counter = self._counters[-1]
        mark = "- "
        if counter is not None:
            mark = f"{counter}. "
            self._counters[-1] = counter + 1
        self._levels.append(_Level(first=mark, rest=" " * len(mark)))
        self._item_begins = True
        return ""

    def _close_level(self, _: Token) -> str:
        self._levels.pop()
        self._item_begins = False
        return ""

    def _open_practice(self, token: Token) -> str:
        title, time = self._literal(token.meta["title"]), self._literal(token.meta["time"])
        head = f"{_RULE}\n{self._filtered(title, '', '')}\n"
        return f"{head}{self._filtered(time, '', '')}\n\n" if time else f"{head}\n"

    def _indent(self) -> str:
        return "".join(level.rest for level in self._levels)

    def _block(self, inline: Token) -> str:
        first = rest = self._indent()
        if self._item_begins:
            first = "".join(level.rest for level in self._levels[:-1]) + self._levels[-1].first
            self._item_begins = False
        words, links = self._inline(inline.children or [])
        heading = self._opening is not None and self._opening.type == "heading_open"
        block = self._underlined(words) if heading else self._filtered(words, first, rest)
        if len(links) == 1 and links[0][0] != links[0][1]:
            block += f"\n{rest}{links[0][1]}"
        elif len(links) > 1:
            block += "".join(f"\n{rest}{label.rstrip('.,;:')}:\n{rest}{url}" for label, url in links)
        # A tight list has no empty lines between its items; markdown-it hides their paragraphs.
        return block + ("\n" if self._opening is not None and self._opening.hidden else "\n\n")

    def _inline(self, children: Sequence[Token]) -> tuple[str, list[tuple[str, str]]]:
        """The words of a paragraph, and its links as (words, URL)."""
        words: list[str] = []
        links: list[tuple[str, str]] = []
        start, target = 0, ""
        for child in children:
            match child.type:
                case "text" | "code_inline":
                    words.append(self._literal(child.content))
                case "em_open" | "em_close" | "strong_open" | "strong_close":
                    # The usual sign in plain text: without one, words that are only mentioned read as a mistake.
                    words.append("*")
                case "softbreak":
                    words.append(" ")
                case "hardbreak":
                    words.append("\n")
                case "link_open":
                    start, target = len(words), str(child.attrGet("href"))
                case "link_close":
                    links.append(("".join(words[start:]).strip(), self._literal(target)))
        return "".join(words), links

    def _filtered(self, words: str, first: str, rest: str) -> str:
        if not self._has_hole(words):
            return wrapped(words, first, rest)
        return f'{{% filter wrapped("{first}", "{rest}") %}}{words}{{% endfilter +%}}'

    def _underlined(self, words: str) -> str:
        if not self._has_hole(words):
            return underlined(words)
        return f"{{% filter underlined %}}{words}{{% endfilter +%}}"
