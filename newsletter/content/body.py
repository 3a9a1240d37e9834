"""Looking at operator-written Jinja and Markdown without running any of it.

A letter may print its variables, compare them and loop over lists: no calls, no assignments, no other files.
What is allowed here is what `rendering.sandbox` allows; a test holds the two together. Jinja's own
`meta.find_undeclared_variables` will not do: it folds constants on the way (it computes `9**9**9`), and tells
no lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from jinja2 import Environment, TemplateSyntaxError, nodes

from newsletter.content.faults import Page, shown, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NAMES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "reader": frozenset({"country"}),
        "letter": frozenset({"number", "total"}),
        "site": frozenset({"name", "url"}),
        "links": frozenset({"unsubscribe", "preferences", "pause", "too_much"}),
        "help_lines": frozenset(),
        "affirmation": frozenset(),
    }
)
"""What a letter may name, and the attributes of each; without attributes it is written by itself."""

HEAD_NAMES = frozenset({"reader", "letter", "site"})
"""What a subject, preheader or heading may name: nothing that is a link or a block."""

ONLY_PRINTED = frozenset({"links"})
"""Names whose attributes can be printed, and neither compared nor changed."""

FILTERS = frozenset(
    {
        *(
            "abs",
            "capitalize",
            "count",
            "d",
            "default",
            "e",
            "escape",
            "first",
            "int",
            "last",
            "length",
            "lower",
        ),
        *("title", "trim", "upper"),
    }
)
TESTS = frozenset(
    {
        *(
            "defined",
            "divisibleby",
            "eq",
            "equalto",
            "even",
            "false",
            "ge",
            "gt",
            "in",
            "le",
            "lt",
            "mapping",
        ),
        *("ne", "none", "number", "odd", "sequence", "string", "true", "undefined"),
        *("==", "!=", "<", "<=", ">", ">="),
    }
)
LARGEST_NUMBER = 10**12
LONGEST_TEXT = 200_000  # characters
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
    *(nodes.Filter, nodes.Test, nodes.Tuple, nodes.List, nodes.Add, nodes.Sub, nodes.Neg, nodes.Pos),
)
_INSTEAD: Mapping[type[nodes.Node], str] = MappingProxyType(
    {
        nodes.Call: "nothing can be called in a letter; print a value such as {{ letter.number }}.",
        nodes.Getitem: "square brackets do not work in a letter; write a dot, as in {{ letter.number }}.",
        nodes.Concat: "~ does not work in a letter; write the words beside the {{ }}.",
        nodes.BinExpr: "only + and - can be calculated in a letter; write the result.",
        nodes.Assign: "{% set %} does not work in a letter; write the text itself.",
        nodes.AssignBlock: "{% set %} does not work in a letter; write the text itself.",
        nodes.Include: "a letter cannot draw in other files; write the text itself.",
        nodes.Import: "a letter cannot draw in other files; write the text itself.",
        nodes.FromImport: "a letter cannot draw in other files; write the text itself.",
        nodes.Extends: "a letter cannot extend another file; its layout comes by itself.",
    }
)

CONTAINERS = frozenset({"practice", "source"})
_COLONS = re.compile(r" {0,3}(:{3,})[ ]*(.*?)[ ]*")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(autoescape=True)


def parse_template(source: str, page: Page) -> nodes.Template | None:
    """The tree of a Jinja text that begins on the page's first line; None, and a fault, when it is none."""
    if len(source) > LONGEST_TEXT:
        page.fault(f"this text has more than {LONGEST_TEXT} characters; shorten it.", line=page.first_line)
        return None
    try:
        return _environment().parse(source)
    except TemplateSyntaxError as error:
        line = page.first_line + max(error.lineno, 1) - 1
        advice = "write {{ name }} for a value and {% if name %} … {% endif %} for a choice"
        page.fault(f"this is not Jinja ({(error.message or 'unreadable').rstrip('.')}): {advice}.", line=line)
    except (ValueError, OverflowError, RecursionError):
        page.fault("this Jinja is too long or too deeply nested; write it more simply.", line=page.first_line)
    return None


def check_letter_text(source: str, page: Page, *, head: bool = False) -> None:
    """Note everything in a letter's text that could not be rendered: syntax, unknown names, other files.

    Args:
        source: text with Jinja.
        page: its file, starting at the line of the text.
        head: it is a subject, preheader or heading: one line, however YAML folded it, and no links or blocks.
    """
    tree = parse_template(source, page)
    if tree is None:
        return
    try:
        # What a loop runs over is named by the loop itself.
        loops = frozenset(name.name for name in tree.find_all(nodes.Name) if name.ctx == "store")
        judge = _Judge({name: NAMES[name] for name in HEAD_NAMES} if head else NAMES, loops)
        objections = list(judge.object_to(tree))
    except RecursionError:
        page.fault("this Jinja is too deeply nested; write it more simply.", line=page.first_line)
        return
    for line, message in objections:
        page.fault(message, line=page.first_line if head else page.first_line + line - 1)


@dataclass(frozen=True)
class _Judge:
    """Looks at the nodes of one text, which may use `names` and the names of its own `loops`."""

    names: Mapping[str, frozenset[str]]
    loops: frozenset[str]

    def object_to(self, node: nodes.Node, *, printed: bool = False) -> Iterator[tuple[int, str]]:
        """The lines of the outermost nodes that a letter cannot hold, each with what to write instead."""
        match node:
            case nodes.Name(ctx="load"):
                message = self._object_to_name(node.name)
            case nodes.Getattr():
                message = self._object_to_attribute(node, printed=printed)
            case _:
                message = _object_to_kind(node)
                if message is None:
                    for child in node.iter_child_nodes():
                        yield from self.object_to(child, printed=isinstance(node, nodes.Output))
        if message is not None:
            yield _line_in(node), message

    def _object_to_name(self, name: str) -> str | None:
        if name in self.loops:
            return None
        if name not in self.names:
            where = "here" if name in NAMES else "in a letter"
            return f"{{{{ {shown(name)[1:-1]} }}}} is not known {where}; {suggestion(name, self.names)}"
        if self.names[name]:
            spelt_out = " or ".join(f"{{{{ {name}.{attribute} }}}}" for attribute in sorted(self.names[name]))
            return f"{{{{ {name} }}}} says nothing by itself; write {spelt_out}."
        return None

    def _object_to_attribute(self, node: nodes.Getattr, *, printed: bool) -> str | None:
        attribute = shown(node.attr)[1:-1]
        if not isinstance(node.node, nodes.Name) or node.node.name in self.loops:
            return f".{attribute} is not known in a letter; remove it."
        name = node.node.name
        known = self.names.get(name)
        if known is None:
            return self._object_to_name(name)
        if node.attr not in known:
            near = suggestion(node.attr, known) if known else f"write {{{{ {name} }}}}."
            return f"{name}.{attribute} is not known in a letter; {near}"
        if name in ONLY_PRINTED and not printed:
            return f"{name}.{attribute} can only be printed; write {{{{ {name}.{attribute} }}}}."
        return None


def _line_in(node: nodes.Node) -> int:
    """The line of the text on which `node` stands; where Jinja tells none, that of something within it."""
    lines: Iterator[int | None] = (each.lineno for each in (node, *node.find_all(nodes.Node)))
    return next((line for line in lines if line), 1)


def _object_to_kind(node: nodes.Node) -> str | None:
    """What is wrong with a node by what it is, or None."""
    match node:
        case nodes.Filter() if node.name not in FILTERS:
            return f"the filter {shown(node.name)} is not known; {suggestion(node.name, FILTERS)}"
        case nodes.Test() if node.name not in TESTS:
            return f"the test {shown(node.name)} is not known; {suggestion(node.name, TESTS)}"
        case nodes.For(recursive=True):
            return "a loop cannot be recursive in a letter; write the text itself."
        case nodes.Const(value=int(value)) if abs(value) > LARGEST_NUMBER:
            return "this number is too large for a letter; write it as text."
    if isinstance(node, _ALLOWED):
        return None
    otherwise = f"{type(node).__name__.lower()} does not work in a letter; write the text itself."
    return next((instead for kind, instead in _INSTEAD.items() if isinstance(node, kind)), otherwise)


def check_containers(body: str, page: Page) -> None:
    """Note every ::: line of a letter that opens something unknown, is never closed, or closes nothing."""
    opened: tuple[str, int] | None = None
    for number, text in enumerate(body.split("\n"), start=page.first_line):
        colons = _COLONS.fullmatch(text)
        if colons is None:
            continue
        name, _, rest = colons[2].partition(" ")
        if not name:
            if opened is None:
                page.fault("::: closes nothing here; begin a box with ::: practice Title | time.", line=number)
            opened = None
        elif opened is not None:
            page.fault(f"the box of line {opened[1]} is still open; write ::: above this line.", line=number)
            opened = (name, number)
        else:
            opened = (name, number)
            _check_opening(name, rest, page, number)
    if opened is not None:
        page.fault(f"the box {shown(opened[0])} is never closed; write ::: below it.", line=opened[1])


def _check_opening(name: str, rest: str, page: Page, line: int) -> None:
    if name not in CONTAINERS:
        page.fault(f"::: {shown(name)[1:-1]} is not known; {suggestion(name, CONTAINERS)}", line=line)
    elif name == "practice" and not rest.partition("|")[0].strip():
        page.fault("a practice needs a title; write ::: practice Find your floor | two minutes.", line=line)
