"""Looks at a letter that is set, for what no single block can be blamed for."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = frozenset({"br", "hr", "img", "meta", "link", "input", "wbr"})
_SPOKEN_SCHEMES = ("tel:", "sms:", "mailto:")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fault: str | None = None
        self.links: list[tuple[str, str]] = []
        self._words: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "a":
            self._words = []
            self.links.append((dict(attrs).get("href") or "", ""))

    def handle_data(self, data: str) -> None:
        if self._words is not None:
            self._words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.fault = self.fault or tag
        if tag == "a" and self._words is not None:
            self.links[-1] = (self.links[-1][0], " ".join("".join(self._words).split()))
            self._words = None


def proofread(html: str, text: str) -> str | None:
    """What is wrong with a letter as a whole, in words for its author; None where all is well."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    if reader.fault is not None or reader.open:
        return (
            "{% if %} or {% for %} begins inside a paragraph, list or box and ends outside of it; "
            "put it and its end on lines of their own, both inside or both outside."
        )
    targets: dict[str, str] = {}
    for url, words in reader.links:
        if targets.setdefault(words.casefold(), url) != url:
            return f"two links say {words!r} and lead to different places; word one of them otherwise."
        if not url.startswith(_SPOKEN_SCHEMES) and url not in text:
            return f"the link {words!r} is missing from the plain text; keep both templates alike."
    return None
