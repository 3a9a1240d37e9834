"""The first page, the form, and the page that says "check your mail"."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from newsletter.store import suppressions
from tests.web.journey import ADDRESS, FORM, everything, leave_token, only_id, states, subscribe, text_of

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from newsletter.bootstrap import App
    from newsletter.clock import FixedClock


def test_the_first_page_says_what_will_come_and_offers_it(client: TestClient) -> None:
    page = client.get("/")
    words = text_of(page.text)
    assert page.status_code == 200
    assert "What a letter looks like" in words
    assert "What will happen" in words
    assert "Nine letters on trust, one a week, then a short weekly note until you stop" in words
    assert "Only the weekly note" in words
    assert "Plain sender and subjects: good if someone else sees your screen" in words
    assert 'value="trust" checked' in page.text
    assert "Thursday 08:00, unless you change it" in words


def test_the_form_comes_with_the_sites_own_slot_and_its_country(client: TestClient) -> None:
    page = client.get("/").text
    assert '<option value="thu" selected>' in page
    assert 'type="time" value="08:00"' in page
    assert '<option value="Europe/London" data-country="GB" selected>' in page
    assert '<option value="GB" selected>' in page


def test_asking_plans_one_confirmation_and_shows_the_address(client: TestClient, app: App) -> None:
    page = client.post("/subscribe", data=FORM)
    assert page.status_code == 200
    assert "We wrote to maria@example.org ." in text_of(page.text)
    assert "Not right? Change it." in page.text
    assert states(app) == {"trust": "pending"}
    assert only_id(app, "delivery", kind="confirmation", state="planned") is not None


def test_changing_the_address_keeps_the_other_choices(client: TestClient) -> None:
    page = client.post("/subscribe", data=FORM | {"discreet": "yes"}).text
    for name in ("sequence", "weekday", "time", "timezone", "country"):
        assert f'<input type="hidden" name="{name}" value="{FORM[name]}">' in page
    assert '<input type="hidden" name="discreet" value="yes">' in page


def test_the_address_is_enough(client: TestClient, app: App) -> None:
    """Every other field has a value of its own: the site's."""
    assert client.post("/subscribe", data={"email": ADDRESS}).status_code == 200
    assert states(app) == {"trust": "pending"}


def test_both_kinds_of_form_are_taken(client: TestClient, app: App) -> None:
    files = {name: (None, value) for name, value in FORM.items()}
    assert client.post("/subscribe", files=files).status_code == 200
    assert states(app) == {"trust": "pending"}


def test_the_answer_is_the_same_whatever_was_known(client: TestClient, app: App) -> None:
    """New, pending, confirmed, gone and suppressed: not a byte tells them apart."""
    answers = [client.post("/subscribe", data=FORM) for _ in ("new", "pending")]
    subscribe(client, app)
    answers.append(client.post("/subscribe", data=FORM))
    client.post(f"/unsubscribe/{leave_token(app)}")
    answers.append(client.post("/subscribe", data=FORM))
    with app.database.write() as connection:
        address_hash = app.signer.hash_address(ADDRESS)
        suppressions.suppress(connection, address_hash=address_hash, reason="bounced", now=app.clock.now())
    answers.append(client.post("/subscribe", data=FORM))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({tuple(answer.headers.items()) for answer in answers}) == 1


@pytest.mark.parametrize(
    "email",
    [
        "",
        "maria",
        "maria@",
        "@example.org",
        "maria@example",
        "maria@@example.org",
        "maria@example.org, jo@example.org",
        "maria@example.org\r\nBcc: jo@example.org",
        "maria@example.org\n",
        "\x1bmaria@example.org",
        "mari\u202ea@example.org",
        "maria@[127.0.0.1]",
        "m" * 70 + "@example.org",
        "maria@" + "e" * 300 + ".org",
        '"maria maria"@example.org',
        "<script>alert(1)</script>@example.org",
    ],
)
def test_an_address_we_cannot_write_to_is_explained_beside_the_field(client: TestClient, app: App, email: str) -> None:
    before = everything(app)
    page = client.post("/subscribe", data=FORM | {"email": email})
    assert page.status_code == 422
    assert 'aria-describedby="email-problem"' in page.text
    assert 'id="email-problem"' in page.text
    assert "<script>alert" not in page.text
    assert everything(app) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weekday", "someday"),
        ("time", "25:00"),
        ("time", "noon"),
        ("timezone", "Mars/Olympus"),
        ("timezone", "../../etc/passwd"),
        ("country", "XX"),
        ("country", "Germany"),
        ("discreet", "perhaps"),
    ],
)
def test_a_choice_that_cannot_be_is_explained_and_everything_typed_is_kept(
    client: TestClient, app: App, field: str, value: str
) -> None:
    before = everything(app)
    page = client.post("/subscribe", data=FORM | {field: value})
    assert page.status_code == 422
    assert f'id="{field}-problem"' in page.text
    assert 'class="fold" open' in page.text
    assert f'value="{ADDRESS}"' in page.text
    kept = {name: text for name, text in FORM.items() if name != field}
    assert ('<option value="tue" selected>' in page.text) == ("weekday" in kept)
    assert ('value="19:30"' in page.text) == ("time" in kept)
    assert ('data-country="DE" selected>' in page.text) == ("timezone" in kept)
    assert ('<option value="GB" selected>' in page.text) == ("country" in kept)
    assert "data-guess" not in page.text
    assert everything(app) == before


def test_an_unknown_series_is_not_found_and_the_page_lists_the_others(client: TestClient, app: App) -> None:
    before = everything(app)
    page = client.post("/subscribe", data=FORM | {"sequence": "secret-list"})
    assert page.status_code == 404
    assert "Nine letters on trust" in page.text
    assert "Weekly encouragement" in page.text
    assert "secret-list" not in page.text
    assert everything(app) == before


def test_a_client_that_asks_for_json_gets_its_errors_as_json(client: TestClient) -> None:
    headers = {"accept": "application/json"}
    wrong = client.post("/subscribe", data=FORM | {"email": "maria"}, headers=headers)
    assert wrong.status_code == 422
    assert wrong.headers["content-type"] == "application/problem+json"
    assert wrong.json()["status"] == 422
    assert [error["field"] for error in wrong.json()["errors"]] == ["email"]
    missing = client.post("/subscribe", data=FORM | {"sequence": "nothing"}, headers=headers)
    assert (missing.status_code, missing.json()["title"]) == (404, "Those letters are not offered here")


def test_nothing_published_is_a_page_of_its_own(empty_client: TestClient) -> None:
    assert "There are no letters here yet" in empty_client.get("/").text
    answer = empty_client.post("/subscribe", data=FORM | {"country": ""})
    assert answer.status_code == 404
    assert "There are no letters here yet" in answer.text


def test_steady_ground_has_the_published_help_lines(client: TestClient) -> None:
    page = client.get("/too-much")
    words = text_of(page.text)
    assert "If this is too much today" in words
    assert "Samaritans" in words
    assert 'href="tel:116123"' in page.text
    countries = re.findall(r"<summary>(.*)</summary>", page.text)
    assert countries == [*sorted(countries[:-1]), "Anywhere else"]
    assert {"Australia", "United Kingdom", "United States"} < set(countries)


def test_a_pending_person_is_told_nothing_else_until_they_confirm(
    client: TestClient, app: App, clock: FixedClock
) -> None:
    """Opening the page again and again sends nothing more that day."""
    client.post("/subscribe", data=FORM)
    before = everything(app)["delivery"]
    client.post("/subscribe", data=FORM)
    assert everything(app)["delivery"] == before
