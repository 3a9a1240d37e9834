"""Bad input over HTTP against the running program: the right status, a page that helps, nothing written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from newsletter.tokens import Purpose, TokenSigner
from tests.journeys.books import Books
from tests.journeys.conftest import MONDAY, OpenBooks, OpenProgram, SeededDatabase
from tests.journeys.content import SERIES
from tests.journeys.reading import link, read
from tests.support.program import FORM, SECRET_KEY, Program, Site
from tests.support.smtp_server import SmtpServer

CANARY = "canary-7f3a"
GOOD = {"email": f"{CANARY}@example.org", "sequence": SERIES, "timezone": "UTC", "weekday": "thu", "time": "08:00"}


@dataclass(frozen=True)
class Bad:
    """A request that must be refused, and the status that it must get."""

    status: int
    what: str
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": FORM})


def form(**changes: str) -> bytes:
    """The form with some fields changed."""
    return urlencode({**GOOD, **changes}).encode()


def bad_forms() -> Iterator[Bad]:
    """What a form may hold that it must not."""
    for what, address in {
        "no address": "",
        "no at": "somebody",
        "CR LF": "a@example.org\r\nBcc: b@example.org",
        "LF": "a@example.org\nb@example.org",
        "two addresses": "a@example.org, b@example.org",
        "quoted tricks": '"a@evil.example"@example.org',
        "a control character": "a\x07b@example.org",
        "an address literal": "a@[127.0.0.1]",
        "a long local part": "a" * 65 + "@example.org",
        "a long address": "a@" + ".".join(["b" * 60] * 5) + ".org",
    }.items():
        yield Bad(422, f"address: {what}", "POST", "/subscribe", form(email=address))
    for name, value in {
        "timezone": "Mars/Base",
        "weekday": "someday",
        "time": "25:00",
        "country": "XX",
        "discreet": "perhaps",
    }.items():
        yield Bad(422, name, "POST", "/subscribe", form(**{name: value}))
    yield Bad(404, "unknown sequence", "POST", "/subscribe", form(sequence="nothing"))
    yield Bad(400, "a field twice", "POST", "/subscribe", form() + b"&email=b%40example.org")
    yield Bad(400, "NUL", "POST", "/subscribe", form(country="\0"))
    yield Bad(400, "no UTF-8", "POST", "/subscribe", b"email=\xff\xfe")
    yield Bad(400, "too many fields", "POST", "/subscribe", "&".join(f"f{n}=1" for n in range(50)).encode())
    yield Bad(400, "a field too long", "POST", "/subscribe", form(country="x" * 3000))
    yield Bad(413, "a body too long", "POST", "/subscribe", form(country="x" * 70_000))
    chunks = b"".join(b"2000\r\n%s\r\n" % (b"x" * 8192) for _ in range(16)) + b"0\r\n\r\n"
    unannounced = {"Content-Type": FORM, "Transfer-Encoding": "chunked"}
    yield Bad(413, "a body too long that says no length", "POST", "/subscribe", chunks, unannounced)
    for kind in ("application/json", "text/plain", "application/xml"):
        yield Bad(415, kind, "POST", "/subscribe", b'{"email": "a@example.org"}', {"Content-Type": kind})
    broken = {"Content-Type": "multipart/form-data"}
    yield Bad(400, "multipart without a boundary", "POST", "/subscribe", b"--x\r\n", broken)


def bad_methods() -> Iterator[Bad]:
    """What no page is there for."""
    for method, path in (
        ("GET", "/subscribe"),
        ("PUT", "/subscribe"),
        ("DELETE", "/"),
        ("POST", "/"),
        ("POST", "/healthz"),
        ("PATCH", "/confirm/anything"),
        ("DELETE", "/unsubscribe/anything"),
    ):
        yield Bad(405, f"{method} {path}", method, path, form() if method != "GET" else None)
    for path in ("/nothing", "/subscribe/", "/static/../pyproject.toml", "/operator/", "/static/%2e%2e/x"):
        yield Bad(404, path, "GET", path)


def bad_links(program: Program, books: Books) -> Iterator[Bad]:
    """Tokens that are not ours, or not for this."""
    signer = TokenSigner([SECRET_KEY])
    stranger = TokenSigner(["somebody else's key, of a good length too"])
    reader = next(iter(books.addresses()))
    subscription = books.deliveries(kind="confirmation")[0].subscription_id
    own = {
        "confirm": signer.sign(Purpose.CONFIRM, books.deliveries(kind="confirmation")[0].id),
        "preferences": signer.sign(Purpose.PREFERENCES, reader, generation=1),
        "unsubscribe": signer.sign(Purpose.UNSUBSCRIBE, subscription),
    }
    for page in own:
        for method in ("GET", "POST"):
            body = b"" if method == "GET" else b"start=slot&action=pause&weeks=1"
            for what, token in {
                "nonsense": "nonsense",
                "cut": own[page][:-2],
                "tampered with": own[page][:-9] + ("A" if own[page][-9] != "A" else "B") + own[page][-8:],
                "endless": "x" * 5000,
                "of another key": stranger.sign(Purpose(page), uuid4()),
                **{f"meant for {other}": token for other, token in own.items() if other != page},
            }.items():
                yield Bad(404, f"{method} {page}: {what}", method, f"/{page}/{token}", body or None)


@pytest.fixture
def asked(
    seeded_database: SeededDatabase, open_program: OpenProgram, smtp_server: SmtpServer
) -> tuple[Program, Site, str]:
    """A running site on which somebody has asked for letters, and the path of the link in their mail."""
    program = open_program(seeded_database(3))
    program.set_clock(MONDAY)
    site, running = program.serve()
    assert site.post("/subscribe", **GOOD).status == 200
    smtp_server.wait_for(lambda server: server.ledger, seconds=20)
    running.wait_for(lambda: "emails_accepted" in running.log)
    return program, site, link(read(smtp_server.ledger[0]), "/confirm/")


def test_bad_requests_get_their_status_and_write_nothing(asked: tuple[Program, Site, str], open_books: OpenBooks):
    """Forged 404, oversized 413, wrong method 405, wrong type 415, CR and LF 422, unknown 404: and nothing else."""
    program, site, _path = asked
    books = open_books(program)
    before = books.everything()
    requests = [*bad_forms(), *bad_methods(), *bad_links(program, books)]
    wrong = {}
    for bad in requests:
        answer = site.request(bad.method, bad.path, body=bad.body, headers=bad.headers)
        if answer.status != bad.status or "Traceback" in answer.text or answer.headers.get("set-cookie"):
            wrong[bad.what] = (answer.status, bad.status)
    assert wrong == {}
    for bad in requests[:: len(requests) // 10]:
        # The same refusal for whoever asks for JSON. Source: RFC 9457.
        headers = {**bad.headers, "Accept": "application/json"}
        answer = site.request(bad.method, bad.path, body=bad.body, headers=headers)
        assert answer.headers["content-type"].startswith("application/problem+json"), bad.what
        assert json.loads(answer.text)["status"] == bad.status == answer.status, bad.what
    assert books.everything() == before
    # Nothing that a visitor sent stands in any log, and nothing went wrong unforeseen.
    log = "\n".join(program.log_lines())
    assert "Traceback" not in log
    assert "page_failed" not in log
    assert CANARY not in log
    assert "/confirm/" not in log


def test_a_confirmation_link_is_good_for_seven_days_and_for_one_use(
    asked: tuple[Program, Site, str], open_books: OpenBooks, smtp_server: SmtpServer
):
    """Too old: 410, looked at or pressed, and nothing is written. Pressed in time: once, and again the same answer."""
    program, site, path = asked
    books = open_books(program)
    smtp_server.wait_for(lambda _server: books.count("sent") == 1)
    program.set_clock(MONDAY + timedelta(days=7, minutes=1))
    before = books.everything()
    assert site.get(path).status == 410
    assert site.post(path, start="slot").status == 410
    assert books.everything() == before

    program.set_clock(MONDAY + timedelta(days=6, hours=23))
    first = site.post(path, start="slot")
    confirmed = books.everything()
    again = site.post(path, start="slot")
    assert (first.status, again.status) == (303, 303)
    assert first.headers["location"] == again.headers["location"]
    assert books.everything() == confirmed
