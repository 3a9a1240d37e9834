"""Refusals come in the form that the client prefers."""

from __future__ import annotations

import pytest
from fastapi import Request

from newsletter.web.problems import prefers_json

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        (CHROME, False),
        ("text/html", False),
        ("application/json", True),
        ("application/problem+json", True),
        ("APPLICATION/JSON", True),
        ("application/json, text/html", False),
        ("application/json, text/html;q=0.9", True),
        ("application/json;q=0.5, text/html", False),
        ("application/*", True),
        ("application/json, */*", False),
        ("application/json, */*;q=0.1", True),
        ("application/json;q=0", False),
        ("application/json;q=nonsense", False),
        (";;;,,,q=", False),
    ],
)
def test_json_goes_to_whoever_prefers_it_to_a_page(accept: str | None, json: bool) -> None:
    headers = [] if accept is None else [(b"accept", accept.encode())]
    assert prefers_json(Request({"type": "http", "headers": headers})) is json
