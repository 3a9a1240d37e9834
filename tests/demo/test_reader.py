"""The reader of the demo answers forms as a browser does, and says plainly what is missing on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from newsletter.demo.forms import PageError, read_forms
from newsletter.demo.mailbox import Mail, Mailbox
from newsletter.demo.reader import Page, Reader

if TYPE_CHECKING:
    from pathlib import Path

POST = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
PAGE = """
<form method="post" action="/go">
  <input type="hidden" name="token" value="t&amp;t">
  <input name="email" type="email">
  <input type="radio" name="what" value="a"><input type="radio" name="what" value="b" checked>
  <input type="checkbox" name="plain" value="yes"><input type="checkbox" name="loud" checked>
  <select name="day"><option value="mon">Monday</option><option value="tue" selected>Tuesday</option></select>
  <select name="first"><option value="one">1</option><option value="two">2</option></select>
  <button type="submit" name="start" value="now">Send it <b>now</b></button>
  <button type="submit">Ask</button>
</form>
<form action="/other"><button>Other</button></form><button name="stray">Stray</button>
"""


def page(html: str = PAGE) -> Page:
    return Page(url="http://127.0.0.1/", status=200, headers={}, html=html)


def test_a_form_is_sent_with_what_stands_in_it_already() -> None:
    form = page().form(field="email")
    assert (form.method, form.action) == ("post", "/go")
    assert form.filled({"email": "a@b"}, button="Ask") == {
        "token": "t&t",
        "email": "a@b",
        "what": "b",
        "loud": "on",
        "day": "tue",
        "first": "one",
    }


def test_a_button_is_pressed_by_its_label_or_its_value() -> None:
    for button in ("Send it now", "now"):
        assert page().form(button=button).filled({}, button=button)["start"] == "now"


def test_only_buttons_inside_a_form_belong_to_one() -> None:
    assert [len(form.buttons) for form in read_forms(PAGE)] == [2, 1]


@pytest.mark.parametrize("missing", [{"field": "phone"}, {"button": "Stray"}])
def test_a_form_that_is_not_there_is_named(missing: dict[str, str]) -> None:
    with pytest.raises(PageError, match="no form with"):
        page().form(**missing)


def test_a_field_or_button_that_is_not_there_is_named() -> None:
    form = page().form(field="email")
    with pytest.raises(PageError, match="no field 'phone'"):
        form.filled({"phone": "1"})
    with pytest.raises(PageError, match="no button 'Leave'"):
        form.filled({}, button="Leave")


def test_a_site_that_is_not_there_is_a_clear_line() -> None:
    with pytest.raises(PageError, match="The site does not answer"):
        Reader("http://127.0.0.1:9").open("/")


class TestMail:
    """One mail, as a mail program reads it."""

    SOURCE = (
        "From: Ann <a@example.org>\r\nTo: b@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
        "Date: Thu, 03 Dec 2026 09:00:00 +0100\r\nMessage-ID: <1@example.org>\r\n{headers}"
        "Content-Type: text/plain; charset=utf-8\r\n\r\n{text}"
    )

    def mail(self, tmp_path: Path, *, headers: str = "", text: str = "") -> Mail:
        new = tmp_path / "new"
        new.mkdir(exist_ok=True)
        (new / "1.mail").write_bytes(self.SOURCE.format(headers=headers, text=text).encode())
        [mail] = Mailbox(new.parent).mails()
        return mail

    def test_its_subject_is_decoded_and_its_date_is_an_instant(self, tmp_path: Path) -> None:
        mail = self.mail(tmp_path)
        assert mail.subject == "Grüße"
        assert mail.at.isoformat() == "2026-12-03T08:00:00+00:00"
        assert mail.html() == ""

    def test_a_link_is_found_by_its_path(self, tmp_path: Path) -> None:
        text = "See\r\nhttp://127.0.0.1:1/preferences/abc#pause\r\nhttp://127.0.0.1:1/confirm/x-y.z\r\n"
        mail = self.mail(tmp_path, text=text)
        assert mail.link("/confirm/") == "http://127.0.0.1:1/confirm/x-y.z"
        assert mail.link("/preferences/") == "http://127.0.0.1:1/preferences/abc"
        assert mail.link("/unsubscribe/") is None

    def test_its_place_in_the_series_is_read(self, tmp_path: Path) -> None:
        assert self.mail(tmp_path, text="Letter 3 of 9\r\n").position() == (3, 9)
        assert self.mail(tmp_path, text="Letter of 9\r\n").position() is None

    @pytest.mark.parametrize(
        ("headers", "link"),
        [
            (f"List-Unsubscribe: <https://e.org/u/1>\r\n{POST}", "https://e.org/u/1"),
            (f"List-Unsubscribe: <mailto:u@e.org>, <https://e.org/u/1>\r\n{POST}", "https://e.org/u/1"),
            ("List-Unsubscribe: <https://e.org/u/1>\r\n", None),
            (f"List-Unsubscribe: <mailto:u@e.org>\r\n{POST}", None),
            (POST, None),
        ],
    )
    def test_one_click_needs_both_headers(self, tmp_path: Path, headers: str, link: str | None) -> None:
        assert self.mail(tmp_path, headers=headers).unsubscribe_link() == link
