"""Reads an email as a mail program would: its elements, their colours, its words and links."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"br", "hr", "img", "meta", "link", "input", "wbr"})


@dataclass(eq=False)
class Element:
    """An element with its own words; `words` has those of all below it."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element | str] = field(default_factory=list)

    @property
    def words(self) -> str:
        return "".join(
            child if isinstance(child, str) else "\n" if child.tag == "br" else child.words for child in self.children
        )

    @property
    def own_words(self) -> str:
        return "".join(child for child in self.children if isinstance(child, str)).strip()

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def style(self, name: str) -> str | None:
        """The value that the element's own style gives `name`."""
        found = re.search(rf"(?:^|;)\s*{name}\s*:\s*([^;]+)", self.attributes.get("style", ""))
        return found.group(1).strip() if found else None

    def ancestors(self) -> list[Element]:
        """The element, its parent, and so on."""
        line: list[Element] = []
        here: Element | None = self
        while here is not None:
            line.append(here)
            here = here.parent
        return line


class Page(HTMLParser):
    """A parsed email. `faults`: tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.root = Element("#root", {}, None)
        self.all: list[Element] = []
        self.comments: list[str] = []
        self.faults: list[str] = []
        self._here = self.root
        self.feed(html)
        self.close()
        if self._here is not self.root:
            self.faults.append(f"{self._here.tag} stays open")
        self.style = "".join(element.words for element in self.all if element.tag == "style")
        dark = re.search(r"prefers-color-scheme: dark\) \{(.*)\}", self.style, re.DOTALL)
        self.dark = dict(re.findall(r"\.(\w+) \{ ([^}]*) \}", dark.group(1))) if dark else {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self._here)
        self._here.children.append(element)
        self.all.append(element)
        if tag not in VOID:
            self._here = element

    def handle_endtag(self, tag: str) -> None:
        if self._here.tag != tag or self._here.parent is None:
            self.faults.append(f"</{tag}> inside {self._here.tag}")
            return
        self._here = self._here.parent

    def handle_data(self, data: str) -> None:
        self._here.children.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def find(self, tag: str, **attributes: str) -> list[Element]:
        """All elements of that tag with those attributes (`_` for `-`)."""
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.all
            if element.tag == tag and all(element.attributes.get(name) == value for name, value in wanted.items())
        ]

    @property
    def body_words(self) -> str:
        """What a reader sees, without the preheader."""
        hidden = self.preheader
        words = self.find("body")[0].words.replace(hidden.words, "", 1)
        return " ".join(words.split())

    @property
    def preheader(self) -> Element:
        return next(element for element in self.all if element.style("display") == "none")

    @property
    def links(self) -> list[tuple[str, str]]:
        """(words, address) of each link."""
        return [(" ".join(a.words.split()), a.attributes["href"]) for a in self.find("a")]

    def is_shown(self, element: Element) -> bool:
        """Whether it stands in the body and is not hidden."""
        line = element.ancestors()
        return any(e.tag == "body" for e in line) and not any(e.style("display") == "none" for e in line)

    def value(self, element: Element, name: str, *, dark: bool = False, inherited: bool = True) -> str | None:
        """What `name` is for the element: by its classes in the dark, by its own style, or by its ancestors."""
        for here in element.ancestors() if inherited else [element]:
            for kind in here.classes if dark else ():
                found = re.search(rf"(?:^|;)\s*{name}: ([^;!]+)", self.dark.get(kind, ""))
                if found:
                    return found.group(1).strip()
            own = here.style(name)
            if own is not None:
                return own
        return None


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours. Source: WCAG 2.2, 1.4.3."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour.lstrip("#")[at : at + 2], 16) / 255 for at in (0, 2, 4))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
