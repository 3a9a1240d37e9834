"""An operator's text, Markdown with Jinja holes, as the sources of two Jinja templates: HTML and plain text.

The holes are taken out first, and inert words stand in their place while Markdown does its work. So Markdown
never sees Jinja, and what a hole prints for one reader can never be Markdown or HTML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from mdit_py_plugins.container import container_plugin

from newsletter.rendering.sandbox import Fault
from newsletter.rendering.text import TextWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markdown_it.rules_block import StateBlock
    from markdown_it.token import Token

BLOCK_VARIABLES = MappingProxyType({"help_lines": "help_lines", "affirmation": "affirmation_figure"})
"""Variables that are a block of their own when they stand alone in a line, and what prints that block."""

SHORT_LINE = 30
"""A line shorter than this ends where its author ended it, as in a sign-off; wrapped text runs on."""

_HOLE = re.compile(
    r"""\{\{(?:[^'"}]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\}(?!\}))*\}\}"""
    r"""|\{%(?:[^'"%]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|%(?!\}))*%\}"""
    r"""|\{\#.*?\#\}""",
    re.DOTALL,
)
_RAW = re.compile(r"\{%[-+]?\s*raw\b")
_VARIABLE = re.compile(r"\{\{[-+]?\s*([\w.]+)\s*[-+]?\}\}")
_ADDRESS_VARIABLE = re.compile(r"links\.\w+|site\.url")
_SCHEMES = frozenset({"https", "http", "mailto", "tel", "sms"})
_BOX = re.compile(r" {0,3}:{3,}")


@dataclass(frozen=True)
class _Hole:
    """What stood in the text, and where.

    Attributes:
        variable: what it prints, where that is a variable and nothing else.
    """

    source: str
    line: int
    variable: str | None = None

    @property
    def is_statement(self) -> bool:
        """Whether it prints nothing itself."""
        return not self.source.startswith("{{")


@dataclass(frozen=True, kw_only=True)
class TemplateSource:
    """A Jinja template made from an operator's text.

    Attributes:
        lines: which line of that text each line of the template with a hole came from.
    """

    source: str
    lines: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Body:
    """An operator's text in both forms, with all that is wrong in it."""

    html: TemplateSource
    text: TemplateSource
    faults: tuple[Fault, ...] = ()


@dataclass
class _Holes:
    """The holes of one text, and the inert words that stand for them."""

    prefix: str
    found: list[_Hole] = field(default_factory=list)

    @classmethod
    def for_text(cls, text: str) -> _Holes:
        """Holes whose inert words occur nowhere in `text`."""
        prefixes = (f"qz{number}n" for number in count())
        return cls(next(prefix for prefix in prefixes if prefix not in text.lower()))

    def put(self, hole: _Hole) -> str:
        """An inert word for `hole`: lower-case letters and digits, which Markdown leaves alone."""
        self.found.append(hole)
        return f"{self.prefix}{len(self.found) - 1:04d}x"

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches an inert word; its group is the hole's index."""
        return re.compile(rf"{self.prefix}(\d{{4,}})x")

    def within(self, text: str) -> list[_Hole]:
        """The holes for which inert words stand in `text`."""
        return [self.found[int(index)] for index in self.pattern.findall(text)]

    def restored(self, text: str) -> TemplateSource:
        """`text` with its holes back, each on a line of its own: an error's line then tells which it was."""
        parts: list[str] = []
        lines: dict[int, int] = {}
        position, line = 0, 1
        for match in self.pattern.finditer(text):
            hole = self.found[int(match.group(1))]
            before = text[position : match.start()]
            # Space is free inside a hole: its delimiter stays in this line, its name begins the next.
            inside = f"{hole.source[:2]}\n{hole.source[2:]}"
            if hole.source[2] in "-+":
                inside = f"{hole.source[:3]}\n{hole.source[3:]}"
            line += before.count("\n")
            for offset in range(inside.count("\n") + 1):
                lines[line + offset] = hole.line + max(offset - 1, 0)
            line += inside.count("\n")
            parts += [before, inside]
            position = match.end()
        parts.append(text[position:])
        return TemplateSource(source="".join(parts), lines=lines)


def read_body(source: str, *, site_url: str, frame: Callable[..., tuple[str, str]]) -> Body:
    """Both templates of an operator's text.

    Args:
        source: Markdown with Jinja holes that `sandbox.refuse_in_content` found nothing wrong with.
        site_url: what addresses like /a-post are below.
        frame: `Templates.frame` of the macros that say what each block looks like.
    """
    holes = _Holes.for_text(source)
    protected, lines, faults = _protect(source.replace("\r\n", "\n").replace("\r", "\n"), holes)
    tokens = _parser(holes).parse(protected)
    inspector = _Inspector(holes, lines=lines, rows=protected.split("\n"), site_url=site_url)
    inspector.inspect(tokens)

    def literal(words: str) -> str:
        # A brace that was escaped in Markdown opens no hole: a hole prints it, in HTML an entity does.
        return words.replace("{", holes.put(_Hole('{{ "{" }}', 1))) if "{" in words else words

    text = TextWriter(has_hole=lambda words: holes.pattern.search(words) is not None, literal=literal)
    html = _HtmlWriter(frame)
    return Body(
        html=holes.restored(html.write(tokens).replace("{", "&#123;")),
        text=holes.restored(text.write(tokens)),
        faults=tuple(sorted(faults + inspector.faults, key=lambda fault: fault.line)),
    )


def _protect(source: str, holes: _Holes) -> tuple[str, list[int], list[Fault]]:
    """`source` with inert words for its holes, and the line of `source` for each line of that."""
    parts: list[str] = []
    faults: list[Fault] = []
    lines, line, position = [1], 1, 0
    for match in _HOLE.finditer(source):
        before, text = source[position : match.start()], match.group()
        for _ in range(before.count("\n")):
            line += 1
            lines.append(line)
        if _RAW.match(text):
            faults.append(Fault(line=line, message="{% raw %} is not available; write \\{ for a brace."))
        variable = _VARIABLE.fullmatch(text)
        hole = _Hole(text, line, variable.group(1) if variable else None)
        parts += [before, holes.put(hole)]
        line += text.count("\n")
        position = match.end()
    for _ in range(source.count("\n", position)):
        line += 1
        lines.append(line)
    return "".join((*parts, source[position:])), lines, faults


def _parser(holes: _Holes) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "typographer": False})
    # A letter holds no program text, and four spaces before a paragraph are a slip.
    parser.disable(["code", "fence"])
    parser.use(container_plugin, "practice").use(container_plugin, "source")
    only_holes = re.compile(rf"(?:\s*{holes.pattern.pattern})+\s*")

    def hole_rule(state: StateBlock, start: int, _end: int, silent: bool) -> bool:  # noqa: FBT001 (markdown-it calls it)
        """A line of nothing but {% %}, or of one variable that is a block, belongs into no paragraph."""
        line = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
        if not only_holes.fullmatch(line):
            return False
        within = holes.within(line)
        if not all(hole.is_statement or hole.variable in BLOCK_VARIABLES for hole in within):
            return False
        if not silent:
            token = state.push("hole", "", 0)
            token.map = [start, start + 1]
            token.meta = {"statement": all(hole.is_statement for hole in within)}
            token.content = holes.pattern.sub(lambda match: _as_block(holes, int(match.group(1))), line.strip())
            state.line = start + 1
        return True

    parser.block.ruler.before("paragraph", "hole", hole_rule, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    return parser


def _as_block(holes: _Holes, index: int) -> str:
    hole = holes.found[index]
    if hole.is_statement:
        return f"{holes.prefix}{index:04d}x"
    return holes.put(_Hole(f"{{{{ {BLOCK_VARIABLES[hole.variable or '']} }}}}", hole.line))


class _Inspector:
    """Finds what Markdown allows and a letter does not; completes addresses and boxes on its way."""

    def __init__(self, holes: _Holes, *, lines: list[int], rows: list[str], site_url: str) -> None:
        self._holes = holes
        self._lines = lines
        self._rows = rows
        self._site_url = site_url.rstrip("/")
        self._level = 1
        self._line = 1
        self.faults: list[Fault] = []

    def inspect(self, tokens: Sequence[Token]) -> None:
        """Look at every token of a text."""
        for token in tokens:
            if token.map is not None:
                self._line = self._lines[min(token.map[0], len(self._lines) - 1)]
            match token.type:
                case "heading_open":
                    self._look_at_heading(int(token.tag[1:]))
                case "container_practice_open" | "container_source_open":
                    self._look_at_box(token)
                case "inline":
                    self._look_at_words(token)

    def _refuse(self, message: str) -> None:
        self.faults.append(Fault(line=self._line, message=message))

    def _look_at_heading(self, level: int) -> None:
        if level == 1:
            self._refuse("a letter has one heading already (heading, or the subject); begin this one with ##.")
        elif level > min(self._level + 1, 3):
            self._refuse(f"this heading skips a level; begin it with {'#' * min(self._level + 1, 3)}.")
        self._level = max(level, 2)

    def _look_at_box(self, token: Token) -> None:
        kind, _, rest = token.info.strip().partition(" ")
        title, _, time = rest.partition("|")
        token.meta = {"title": title.strip(), "time": time.strip()}
        if kind == "practice":
            self._level = 2
            if not title.strip():
                self._refuse("a practice needs a title; write ::: practice Find your floor | two minutes.")
        if token.map is not None and (
            token.map[1] >= len(self._rows) or not _BOX.match(self._rows[token.map[1]].lstrip("> "))
        ):
            self._refuse(f"the box {kind!r} has no end; put a line of ::: below it.")

    def _look_at_words(self, inline: Token) -> None:
        if _BOX.match(inline.content):
            self._refuse("there is no such box; there are ::: practice Title | time and ::: source.")
        for hole in self._holes.within(inline.content):
            if hole.variable == "help_lines":
                self._refuse("{{ help_lines }} is a block; give it a line of its own.")
        _keep_short_lines(inline.children or [])
        words: list[str] = []
        for child in inline.children or []:
            match child.type:
                case "image":
                    self._refuse("letters have no pictures; say it in words, or link to a page that has it.")
                case "link_open":
                    words = []
                    child.attrSet("href", self._address(str(child.attrGet("href") or "")))
                case "link_close":
                    self._look_at_link("".join(words).strip())
                case _:
                    words.append(child.content)

    def _look_at_link(self, words: str) -> None:
        if words.casefold().rstrip(".") in {"", "here", "click here", "link", "this", "this link"}:
            self._refuse("a link has to say where it leads; put those words between the brackets.")

    def _address(self, address: str) -> str:
        within = self._holes.within(address)
        if any(not _ADDRESS_VARIABLE.fullmatch(hole.variable or "") for hole in within):
            self._refuse("an address may hold {{ links.… }} and {{ site.url }} and no other hole.")
        if within and self._holes.pattern.match(address):
            if len(within) > 1 or (within[0].variable != "site.url" and not self._holes.pattern.fullmatch(address)):
                self._refuse("{{ links.… }} is a complete address; nothing may stand before or behind it.")
            return address
        if within:
            self._refuse("{{ links.… }} and {{ site.url }} begin an address; nothing may stand before them.")
        if address.startswith("/") and not address.startswith("//"):
            return self._site_url + address
        if urlsplit(address).scheme.lower() not in _SCHEMES:
            self._refuse(f"{address!r} leads nowhere from an email; write https://… or /a-path-of-the-site.")
        return address


def _keep_short_lines(children: Sequence[Token]) -> None:
    width = 0
    for child in children:
        if child.type == "softbreak" and width < SHORT_LINE:
            child.type = "hardbreak"
        width = 0 if child.type in {"softbreak", "hardbreak"} else width + len(child.content)


_FRAMES = MappingProxyType(
    {
        "paragraph_open": "paragraph",
        "blockquote_open": "quote",
        "bullet_list_open": "bullets",
        "list_item_open": "item",
        "container_source_open": "source",
        "strong_open": "strong",
        "em_open": "emphasis",
    }
)
"""Tokens whose macro needs no more than its content."""

_LEAVES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "text": escape,
        "code_inline": escape,
        "softbreak": lambda _: "\n",
        "hardbreak": lambda _: "<br>\n",
        "hole": lambda content: f"{content}\n",
    }
)
"""What a token without anything inside becomes."""


class _HtmlWriter:
    """Writes markdown-it tokens as HTML; how a block looks is said by the macros."""

    def __init__(self, frame: Callable[..., tuple[str, str]]) -> None:
        self._frame = frame
        self._ends: list[str] = []

    def write(self, tokens: Sequence[Token]) -> str:
        """The HTML, with the inert words still in it."""
        return "".join(self._written(token) for token in tokens)

    def _written(self, token: Token) -> str:
        if token.nesting == 1:
            before, behind = ("", "") if token.hidden else self._framed(token)
            self._ends.append(f"{behind}\n" if token.block and not token.hidden else behind)
            return before
        if token.nesting == -1:
            return self._ends.pop()
        if token.type == "inline":
            return self.write(token.children or [])
        if token.type == "hr":
            return "".join((*self._frame("divider"), "\n"))
        return _LEAVES[token.type](token.content) if token.type in _LEAVES else ""

    def _framed(self, token: Token) -> tuple[str, str]:
        match token.type:
            case "heading_open":
                return self._frame("heading", level=int(token.tag[1:]))
            case "ordered_list_open":
                return self._frame("numbers", start=int(token.attrGet("start") or 1))
            case "container_practice_open":
                return self._frame("practice", title=token.meta["title"], time=token.meta["time"])
            case "link_open":
                return self._frame("link", url=str(token.attrGet("href")))
        return self._frame(_FRAMES[token.type])
