"""Confirm, preferences and leaving: what a reader's own links open, and what they never do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from newsletter.store import erasing
from newsletter.tokens import Purpose
from tests.web.journey import (
    FORM,
    confirm_token,
    everything,
    leave_token,
    only_id,
    preferences_token,
    states,
    subscribe,
    text_of,
)

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from newsletter.bootstrap import App
    from newsletter.clock import FixedClock

ONE_CLICK = b"List-Unsubscribe=One-Click"
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--b--\r\n',
    "multipart/form-data; boundary=b",
)


@pytest.fixture
def asked(client: TestClient, app: App) -> str:
    """Somebody asked; the path of their confirm page."""
    client.post("/subscribe", data=FORM)
    return f"/confirm/{confirm_token(app)}"


@pytest.fixture
def own_page(client: TestClient, app: App) -> str:
    """Somebody confirmed; the path of their preferences page."""
    return subscribe(client, app)


# --- confirming ---


def test_the_confirm_page_offers_both_beginnings_with_the_exact_time(client: TestClient, asked: str) -> None:
    words = text_of(client.get(asked).text)
    assert "Nine letters on trust, one a week" in words
    assert "m***@e***" in words
    assert "Send the first letter now" in words
    assert "Wait for Tuesday 19:30" in words
    assert "Tuesday 24 November 2026, 19:30 , Berlin time" in words


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ({"start": "slot"}, "comes Tuesday 24 November 2026 19:30 , Berlin time"),
        ({}, "comes Tuesday 24 November 2026 19:30 , Berlin time"),
        ({"start": "now"}, "is on its way to you now."),
    ],
)
def test_confirming_leads_to_the_page_with_the_exact_time(
    client: TestClient, app: App, asked: str, start: dict[str, str], first: str
) -> None:
    answer = client.post(asked, data=start, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/preferences/{preferences_token(app)}")
    words = text_of(client.get(answer.headers["location"]).text)
    assert f"Letter 1 of 9 {first}" in words
    assert states(app) == {"trust": "active"}


def test_an_empty_post_confirms(client: TestClient, app: App, asked: str) -> None:
    assert client.post(asked, follow_redirects=False).status_code == 303
    assert states(app) == {"trust": "active"}


def test_confirming_twice_changes_nothing_more_and_the_page_says_so(client: TestClient, app: App, asked: str) -> None:
    client.post(asked, data={"start": "slot"})
    before = everything(app)
    again = client.post(asked, data={"start": "now"}, follow_redirects=False)
    assert again.headers["location"] == f"/preferences/{preferences_token(app)}"
    assert everything(app) == before
    page = client.get(asked).text
    assert "This is settled already" in page
    assert f"/preferences/{preferences_token(app)}" in page


def test_a_beginning_that_cannot_be_is_refused(client: TestClient, app: App, asked: str) -> None:
    before = everything(app)
    answer = client.post(asked, data={"start": "yesterday"})
    assert (answer.status_code, everything(app)) == (422, before)


def test_a_confirmation_link_ends_after_seven_days(client: TestClient, app: App, clock: FixedClock, asked: str) -> None:
    clock.set(clock.now() + timedelta(days=7))
    before = everything(app)
    for answer in (client.get(asked), client.post(asked)):
        assert answer.status_code == 410
        assert "Ask again" in answer.text
        assert 'href="/"' in answer.text
    assert everything(app) == before


# --- preferences ---


def test_saving_another_slot_shows_the_new_exact_time(client: TestClient, app: App, own_page: str) -> None:
    change = {"weekday": "sat", "time": "07:15", "timezone": "America/New_York", "country": "US"}
    answer = client.post(own_page, data={"action": "save", **change}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, own_page)
    page = client.get(own_page).text
    assert "Saturday 28 November 2026 07:15 , New York time" in text_of(page)
    assert '<option value="sat" selected>' in page
    assert '<option value="US" selected>' in page


def test_plain_mode_hides_the_title_and_can_be_switched_off_again(client: TestClient, own_page: str) -> None:
    """A box that is not ticked is not sent, and means no."""
    save = {"action": "save", "weekday": "tue", "time": "19:30", "timezone": "Europe/Berlin", "country": ""}
    assert "Nine letters on trust" in client.get(own_page).text
    client.post(own_page, data=save | {"discreet": "yes"})
    page = client.get(own_page).text
    assert "trust" not in page
    assert 'value="yes" checked' in page
    client.post(own_page, data=save)
    assert 'value="yes" checked' not in client.get(own_page).text


@pytest.mark.parametrize(
    ("pause", "until"),
    [
        ({"weeks": "1"}, "Monday 30 November 2026"),
        ({"weeks": "2"}, "Monday 7 December 2026"),
        ({"weeks": "4"}, "Monday 21 December 2026"),
        ({"until": "2027-01-03"}, "Sunday 3 January 2027"),
    ],
)
def test_a_pause_says_until_when_and_can_be_ended(
    client: TestClient, app: App, own_page: str, pause: dict[str, str], until: str
) -> None:
    answer = client.post(own_page, data={"action": "pause", **pause}, follow_redirects=False)
    assert answer.status_code == 303
    assert f"Paused until {until}" in text_of(client.get(own_page).text)
    assert states(app) == {"trust": "paused"}
    client.post(own_page, data={"action": "resume"})
    assert "Letter 1 of 9 comes Tuesday 24 November 2026" in text_of(client.get(own_page).text)


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"action": "pause", "weeks": "3"}, "weeks"),
        ({"action": "pause", "weeks": "-1"}, "weeks"),
        ({"action": "pause"}, "until"),
        ({"action": "pause", "until": "soon"}, "until"),
        ({"action": "pause", "until": "2026-02-30"}, "until"),
        ({"action": "pause", "until": "2026-11-23"}, "until"),
        ({"action": "pause", "until": "2028-01-01"}, "until"),
        ({"action": "pause", "until": "2026-12-24", "weeks": "1"}, "until"),
        ({"action": "save", "weekday": "tue", "time": "7", "timezone": "Europe/Berlin"}, "time"),
        ({"action": "save", "weekday": "x", "time": "07:00", "timezone": "Europe/Berlin"}, "weekday"),
        ({"action": "save", "weekday": "tue", "time": "07:00", "timezone": "Nowhere"}, "timezone"),
        ({"action": "save", "country": "XX"}, "country"),
        ({"action": "save", "discreet": "perhaps"}, "discreet"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_is_explained_beside_its_field(
    client: TestClient, app: App, own_page: str, form: dict[str, str], field: str
) -> None:
    before = everything(app)
    page = client.post(own_page, data=form)
    assert page.status_code == 422
    assert f'id="{field}-problem"' in page.text
    as_json = client.post(own_page, data=form, headers={"accept": "application/json"})
    assert [error["field"] for error in as_json.json()["errors"]] == [field]
    assert everything(app) == before


@pytest.mark.parametrize("form", [{}, {"action": ""}, {"action": "erase"}, {"action": "SAVE"}])
def test_an_unknown_wish_changes_nothing(client: TestClient, app: App, own_page: str, form: dict[str, str]) -> None:
    before = everything(app)
    page = client.post(own_page, data=form)
    assert page.status_code == 422
    assert "Choose what to do" in page.text
    assert everything(app) == before


def test_the_page_never_shows_the_address(client: TestClient, app: App, own_page: str) -> None:
    for path in (own_page, f"/unsubscribe/{leave_token(app)}", f"/confirm/{confirm_token(app)}"):
        assert "maria" not in client.get(path).text


def test_after_leaving_the_page_says_so_and_offers_no_pause(client: TestClient, app: App, own_page: str) -> None:
    client.post(f"/unsubscribe/{leave_token(app)}")
    words = text_of(client.get(own_page).text)
    assert "You are off the list" in words
    assert "Pause" not in words
    refused = client.post(own_page, data={"action": "pause", "weeks": "1"})
    assert refused.status_code == 409
    assert "nothing to pause" in refused.text


# --- leaving ---


def test_the_leave_page_asks_nothing_and_offers_the_pause_once_before(
    client: TestClient, app: App, own_page: str
) -> None:
    page = client.get(f"/unsubscribe/{leave_token(app)}").text
    assert page.count("<button") == 1
    assert page.index("pause instead") < page.index('<button type="submit">Leave</button>')
    assert f"{own_page}#pause" in page
    assert "sorry" not in page.lower()
    assert states(app) == {"trust": "active"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (ONE_CLICK, URLENCODED),
        (ONE_CLICK, f"{URLENCODED}; charset=UTF-8"),
        (ONE_CLICK, URLENCODED.upper()),
        (ONE_CLICK, None),
        MULTIPART,
        (b"", URLENCODED),
        (b"", "multipart/form-data"),
        (b"", "text/plain"),
        (b"", "application/json"),
        (b"", None),
        (b"anything=else", URLENCODED),
        (b"scope=all", URLENCODED),
        (b"scope=", URLENCODED),
    ],
    ids=str,
)
def test_one_click_leaves_at_once(client: TestClient, app: App, own_page: str, body: bytes, kind: str | None) -> None:
    """RFC 8058: 200, no redirect, no cookie; the second time as well."""
    headers = {} if kind is None else {"content-type": kind}
    link = f"/unsubscribe/{leave_token(app)}"
    for _ in range(2):
        answer = client.post(link, content=body, headers=headers, follow_redirects=False)
        assert answer.status_code == 200
        assert "You are off the list" in answer.text
        assert "Nothing more will come." in answer.text
        assert "set-cookie" not in answer.headers
        assert states(app) == {"trust": "left"}


def test_leaving_works_without_a_referer_from_anywhere_with_any_cookie(
    client: TestClient, app: App, own_page: str
) -> None:
    headers = {"origin": "https://mail.example.net", "cookie": "session=1", "accept": "*/*"}
    assert client.post(f"/unsubscribe/{leave_token(app)}", headers=headers).status_code == 200
    assert states(app) == {"trust": "left"}


def test_leaving_works_after_everything_was_erased(client: TestClient, app: App, own_page: str) -> None:
    link = f"/unsubscribe/{leave_token(app)}"
    with app.database.write() as connection:
        erasing.erase_subscriber(connection, only_id(app, "subscriber"))
    before = everything(app)
    assert "You are off the list" in client.get(link).text
    answer = client.post(link, content=ONE_CLICK, headers={"content-type": URLENCODED})
    assert (answer.status_code, everything(app)) == (200, before)


def test_leaving_works_years_later(client: TestClient, app: App, clock: FixedClock, own_page: str) -> None:
    clock.set(clock.now() + timedelta(days=4_000))
    assert client.post(f"/unsubscribe/{leave_token(app)}").status_code == 200


def test_one_of_several_can_be_left_alone(client: TestClient, app: App, clock: FixedClock, own_page: str) -> None:
    clock.set(clock.now() + timedelta(days=2))
    client.post("/subscribe", data=FORM | {"sequence": "weekly-encouragement"})
    sequence = only_id(app, "subscription", sequence_key="weekly-encouragement")
    notice = only_id(app, "delivery", subscription_id=sequence)
    client.post(f"/confirm/{app.signer.sign(Purpose.CONFIRM, notice)}")
    link = f"/unsubscribe/{leave_token(app)}"
    page = client.get(link).text
    assert "Leave only this one: Nine letters on trust" in page
    answer = client.post(link, data={"scope": "sequence"})
    assert "the others go on as before" in text_of(answer.text)
    assert states(app) == {"trust": "left", "weekly-encouragement": "active"}
    client.post(link)
    assert states(app) == {"trust": "left", "weekly-encouragement": "left"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ((b"scope=some", URLENCODED), 422),
        ((b"scope=sequence&scope=all", URLENCODED), 400),
        ((b"a=%FF", URLENCODED), 400),
        ((b"a=\0", URLENCODED), 400),
        ((b"{}", "application/json"), 415),
        ((ONE_CLICK, "text/plain"), 415),
        ((b"a" * 65_537, URLENCODED), 413),
    ],
)
def test_a_malformed_leaving_is_refused_and_nothing_is_written(
    client: TestClient, app: App, own_page: str, sent: tuple[bytes, str], status: int
) -> None:
    body, kind = sent
    before = everything(app)
    answer = client.post(f"/unsubscribe/{leave_token(app)}", content=body, headers={"content-type": kind})
    assert (answer.status_code, everything(app)) == (status, before)


# --- links ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_opening_links_changes_nothing_however_often(client: TestClient, app: App, own_page: str, method: str) -> None:
    """Scanners open every link of every mail, in any way they like."""
    client.post("/subscribe", data=FORM | {"email": "jo@example.org"})
    leaving = app.signer.sign(Purpose.UNSUBSCRIBE, only_id(app, "subscription", state="active"))
    pending = only_id(app, "subscription", state="pending")
    confirming = app.signer.sign(Purpose.CONFIRM, only_id(app, "delivery", subscription_id=pending))
    links = ["/", "/subscribe", "/too-much", own_page, f"/unsubscribe/{leaving}", f"/confirm/{confirming}"]
    before = everything(app)
    for link in links * 20:
        answer = client.request(method, link, params={"start": "now", "scope": "sequence", "action": "resume"})
        assert answer.status_code in {200, 204, 405}
    assert everything(app) == before


@pytest.mark.parametrize("page", ["confirm", "preferences", "unsubscribe"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_forged_link_opens_nothing_and_helps(
    client: TestClient, app: App, own_page: str, page: str, method: str
) -> None:
    real = {
        "confirm": confirm_token(app),
        "preferences": preferences_token(app),
        "unsubscribe": leave_token(app),
    }
    foreign = [token for name, token in real.items() if name != page]
    cut, tampered = real[page][:-1], real[page][:-2] + ("AA" if real[page][-2:] != "AA" else "BB")
    before = everything(app)
    for token in [*foreign, cut, tampered, "x", "%00", "é", "..%2f", "-", "a" * 5_000, str(uuid4())]:
        answer = client.request(method, f"/{page}/{token}", follow_redirects=False)
        assert answer.status_code == 404, token
    assert "This link does not open anything" in client.request(method, f"/{page}/{cut}").text
    assert everything(app) == before


def test_links_that_were_called_off_are_gone_and_leaving_is_not(client: TestClient, app: App, own_page: str) -> None:
    older = app.signer.sign(Purpose.PREFERENCES, only_id(app, "subscriber"), generation=0)
    assert client.get(f"/preferences/{older}").status_code == 410
    assert client.get(f"/unsubscribe/{leave_token(app)}").status_code == 200
