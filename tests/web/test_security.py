"""What stands around every answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import Request
from fastapi.responses import HTMLResponse
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from newsletter.web.security import HEADERS, Shield

if TYPE_CHECKING:
    from fastapi import Response
    from starlette.types import Message, Receive, Scope, Send

SECRET = "maria@example.org"


def sorry(_request: Request, _error: Exception) -> Response:
    return HTMLResponse("sorry", status_code=500)


def broken_page(_request: Request, _error: Exception) -> Response:
    raise ValueError(SECRET)


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await HTMLResponse("body", headers={"Cache-Control": "public"})(scope, receive, send)


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError(SECRET)


async def fails_half_way(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError(SECRET)


def test_every_answer_carries_the_headers_unless_it_says_otherwise() -> None:
    answer = TestClient(Shield(answers, on_failure=sorry)).get("/")
    assert {name: answer.headers[name] for name in HEADERS} == {**HEADERS, "Cache-Control": "public"}


def test_head_is_get_without_a_body() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "HEAD", "headers": []}
    with start_blocking_portal() as portal:
        portal.call(Shield(answers, on_failure=sorry), scope, None, send)
    assert dict(sent[0]["headers"])[b"content-length"] == b"4"
    assert [message["body"] for message in sent[1:]] == [b""]


def test_a_failure_is_answered_with_headers_and_logged_without_its_words() -> None:
    """An exception's text may quote an address, so the log has its kind and its place only."""
    with capture_logs() as logged:
        answer = TestClient(Shield(fails, on_failure=sorry)).get(f"/unsubscribe/{SECRET}")
    assert (answer.status_code, answer.text) == (500, "sorry")
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    assert [(line["event"], line["error"]) for line in logged] == [("page_failed", "RuntimeError")]
    assert "test_security.py" in logged[0]["where"]
    assert SECRET not in str(logged)


def test_a_broken_error_page_still_leaves_words() -> None:
    with capture_logs() as logged:
        answer = TestClient(Shield(fails, on_failure=broken_page)).get("/")
    assert answer.status_code == 500
    assert "try again" in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert SECRET not in str(logged)


def test_a_failure_in_the_middle_of_an_answer_breaks_it_off_without_its_words() -> None:
    """The server then closes the connection; what it may log names nobody."""
    with pytest.raises(ConnectionError) as broken:
        TestClient(Shield(fails_half_way, on_failure=sorry)).get("/")
    assert SECRET not in str(broken.value)
    assert broken.value.__suppress_context__


def test_whoever_hangs_up_is_no_failure() -> None:
    sent: list[object] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    scope = {"type": "http", "method": "POST", "headers": []}
    with start_blocking_portal() as portal, capture_logs() as logged:
        portal.call(Shield(reads, on_failure=sorry), scope, receive, send)
    assert (sent, logged) == ([], [])


def test_what_is_no_request_passes_through() -> None:
    """The server's own start and stop messages are not ours to answer."""
    with TestClient(Shield(_lifespan, on_failure=sorry)):
        pass


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "lifespan"
    assert (await receive())["type"] == "lifespan.startup"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    await send({"type": "lifespan.shutdown.complete"})
