"""What holds for every path: headers, methods, refusals, and what is said when things break."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from newsletter.errors import DatabaseUnavailable
from newsletter.web.app import create_app
from newsletter.web.security import HEADERS
from tests.web.journey import FORM, confirm_token, everything, leave_token, preferences_token, subscribe

if TYPE_CHECKING:
    from pathlib import Path

    from newsletter.bootstrap import App

GET = "GET, HEAD, OPTIONS"
POST = "POST, OPTIONS"
BOTH = "GET, HEAD, POST, OPTIONS"
URLENCODED = "application/x-www-form-urlencoded"


@pytest.fixture
def paths(client: TestClient, app: App) -> dict[str, tuple[str, str]]:
    """Every path, and what its Allow header says."""
    subscribe(client, app)
    return {
        "subscribe page": ("/", GET),
        "subscribe": ("/subscribe", POST),
        "confirm": (f"/confirm/{confirm_token(app)}", BOTH),
        "preferences": (f"/preferences/{preferences_token(app)}", BOTH),
        "unsubscribe": (f"/unsubscribe/{leave_token(app)}", BOTH),
        "too much": ("/too-much", GET),
        "css": ("/static/site.css", GET),
        "robots": ("/robots.txt", GET),
        "health": ("/healthz", GET),
    }


def test_every_page_keeps_to_itself(client: TestClient, paths: dict[str, tuple[str, str]]) -> None:
    """No cookie, no cache, no referrer, no frame, nothing from elsewhere: answers and refusals alike."""
    for path in [path for path, _ in paths.values()] + ["/nothing", "/confirm/forged"]:
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "POST"):
            answer = client.request(method, path, follow_redirects=False)
            expected = dict(HEADERS)
            if path == "/static/site.css" and answer.status_code == 200:
                expected["Cache-Control"] = "public, max-age=86400"
            assert {name: answer.headers.get(name) for name in HEADERS} == expected, (method, path)
            assert "set-cookie" not in answer.headers


def test_pages_draw_on_nothing_but_this_site(client: TestClient, paths: dict[str, tuple[str, str]]) -> None:
    for path, _ in paths.values():
        html = client.get(path).text
        drawn = re.findall(r'(?:src|action|<link[^>]* href)="([^"]*)"', html)
        assert all(address.startswith("/") and not address.startswith("//") for address in drawn), path
        assert "<style" not in html
        assert " style=" not in html
        assert not re.search(r"\son\w+=", html)


def test_pages_have_a_way_out_and_titles_that_tell_nothing(
    client: TestClient, app: App, paths: dict[str, tuple[str, str]]
) -> None:
    for name in ("subscribe page", "confirm", "preferences", "unsubscribe", "too much"):
        html = client.get(paths[name][0]).text
        assert f'href="{app.site.leave_url}" rel="noreferrer">Leave this page now</a>' in html
        title = re.search(r"<title>(.*)</title>", html)
        assert title is not None
        assert not re.search(r"trust|heal|encourage|trauma|newsletter|exampleton", title[1], re.IGNORECASE)


def test_head_answers_as_get_does_without_a_body(client: TestClient, paths: dict[str, tuple[str, str]]) -> None:
    for path, allow in paths.values():
        if "GET" in allow:
            get, head = client.get(path), client.head(path)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "FOO", "POST", "GET", "HEAD"])
def test_a_wrong_method_is_refused_and_told_which_are_right(
    client: TestClient, app: App, paths: dict[str, tuple[str, str]], method: str
) -> None:
    before = everything(app)
    for path, allow in paths.values():
        if method in allow.split(", "):
            continue
        answer = client.request(method, path, content=b"")
        assert (answer.status_code, answer.headers["allow"]) == (405, allow), path
    assert everything(app) == before


def test_options_only_tells_the_methods(client: TestClient, paths: dict[str, tuple[str, str]]) -> None:
    for path, allow in paths.values():
        answer = client.options(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b"")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ((b"{}", "application/json"), 415),
        ((b"<x/>", "text/xml"), 415),
        ((b"email=a%00", URLENCODED), 400),
        ((b"email=%ff", URLENCODED), 400),
        ((b"email=a&email=b", URLENCODED), 400),
        ((b"&".join(b"a%d=1" % number for number in range(4_000)), URLENCODED), 400),
        ((b"email=" + b"a" * 10_000, URLENCODED), 400),
        ((b"email=" + b"a" * 70_000, URLENCODED), 413),
        ((b"nonsense", "multipart/form-data; boundary=b"), 400),
    ],
    ids=["json", "xml", "nul", "utf8", "twice", "thousands", "overlong", "oversized", "multipart"],
)
def test_what_no_form_of_ours_sends_is_refused_whole(
    client: TestClient, app: App, paths: dict[str, tuple[str, str]], sent: tuple[bytes, str], status: int
) -> None:
    body, kind = sent
    before = everything(app)
    for name in ("subscribe", "confirm", "preferences", "unsubscribe"):
        answer = client.post(paths[name][0], content=body, headers={"content-type": kind})
        assert answer.status_code == status, name
        assert "Nothing was changed" in answer.text
        headers = {"content-type": kind, "accept": "application/json"}
        as_json = client.post(paths[name][0], content=body, headers=headers)
        assert as_json.headers["content-type"] == "application/problem+json"
        assert as_json.json()["status"] == status
    assert everything(app) == before


def test_an_unknown_path_has_a_page(client: TestClient) -> None:
    answer = client.get("/wp-login.php")
    assert answer.status_code == 404
    assert "There is nothing at this address" in answer.text
    assert client.get("/docs").status_code == 404
    assert client.get("/openapi.json").status_code == 404


def test_search_engines_are_asked_to_stay_away(client: TestClient) -> None:
    assert client.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"


def test_static_files_may_be_kept_and_are_asked_for_by_content(client: TestClient) -> None:
    first = client.get("/static/site.css")
    assert first.headers["content-type"].startswith("text/css")
    again = client.get("/static/site.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for missing in ("nothing.css", "..%2fpages%2fbase.html", "site.css.bak"):
        assert client.get(f"/static/{missing}").status_code == 404


def test_healthy_means_that_the_database_answers(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_without_its_database_the_site_says_so_and_promises_nothing(
    client: TestClient, app: App, paths: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    """Never a false "you are subscribed", never a false "you are off the list"."""
    app.database.close()
    for file in tmp_path.glob("newsletter.db*"):
        file.unlink()
    (tmp_path / "newsletter.db").mkdir()
    for name in ("subscribe", "confirm", "preferences", "unsubscribe"):
        answer = client.post(paths[name][0], data=FORM | {"action": "resume"})
        assert answer.status_code == 503, name
        assert "was not done" in answer.text
        assert answer.headers["retry-after"]
    health = client.get("/healthz")
    assert (health.status_code, health.json()) == (503, {"status": "unavailable"})


def test_a_failure_nobody_foresaw_names_nobody(client: TestClient, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(FORM["email"])

    monkeypatch.setattr(app.subscribing, "request", fail)
    with capture_logs() as logged:
        answer = client.post("/subscribe", data=FORM)
    assert answer.status_code == 500
    assert "Something went wrong on our side" in answer.text
    assert "maria" not in answer.text
    assert "maria" not in str(logged)
    assert logged[0]["route"] == "/subscribe"


def test_a_database_that_fails_in_the_middle_is_unavailable(
    client: TestClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("The database cannot be used: disk full.")

    monkeypatch.setattr(app.subscribing, "request", fail)
    answer = client.post("/subscribe", data=FORM, headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert "maria" not in answer.text


def test_an_operators_templates_are_found(app: App, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    (folder / "pages").mkdir(parents=True)
    (folder / "pages/too-much.html").write_text("Breathe, says {{ site.name }}.")
    changed = app.settings.model_copy(update={"templates_dir": folder})
    from dataclasses import replace

    with TestClient(create_app(replace(app, settings=changed))) as client:
        assert client.get("/too-much").text == f"Breathe, says {app.site.name}."
