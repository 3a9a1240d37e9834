"""The site as people meet it: in Chromium, served by uvicorn."""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from newsletter.web.app import create_app
from newsletter.web.server import SiteThread
from tests.web.journey import FORM, confirm_token, leave_token, preferences_token, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from newsletter.bootstrap import App

WIDTHS = (320, 390, 1280)

# Every text against the ground that is painted behind it. Source: WCAG 2.2, 1.4.3.
FAINT_TEXT = """
() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${element.textContent.trim().slice(0, 40)}`);
  }
  return faint;
}
"""

# Whatever is pressed with a thumb, but for links within a sentence. Source: WCAG 2.2, 2.5.5.
SMALL_TARGETS = """
() => [...document.querySelectorAll("button, .button, summary, select, input:not([type=hidden]), .exit")]
  .filter((element) => element.checkVisibility())
  .map((element) => {
    const labelled = ["checkbox", "radio"].includes(element.type);
    return [labelled ? element.labels[0] : element, element];
  })
  .filter(([target]) => target.getBoundingClientRect().height < 44)
  .map(([, element]) => `${element.tagName} ${element.textContent.trim().slice(0, 40)}`)
"""


@pytest.fixture
def address(app: App) -> Iterator[str]:
    """Where the real site is served; nothing that anybody logs meanwhile may name a reader or hold a link."""
    site = SiteThread(create_app(app), host="127.0.0.1", port=0)
    with overheard() as lines:
        site.start()
        yield f"http://127.0.0.1:{site.port}"
        site.stop()
    logged = "\n".join(lines)
    assert "maria" not in logged
    assert app.signer.key_id not in logged


@contextmanager
def overheard() -> Iterator[list[str]]:
    """What the process logs, with a listener at every logger that uvicorn has."""
    lines: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in (None, "uvicorn", "uvicorn.access", "uvicorn.error")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(listener)
        logger.setLevel(logging.DEBUG)
    yield lines
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(listener)
        logger.setLevel(level)


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    """Opens pages, and sees to it that none asks anybody else for anything."""
    opened = Opened(browser, address)
    yield opened
    opened.close()


class Opened:
    """Browser contexts whose every request is watched."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser = browser
        self.address = address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._contexts = []

    def page(self, **options: object) -> Page:
        context = self._browser.new_context(base_url=self.address, **options)  # type: ignore[arg-type]
        self._contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        return page

    def close(self) -> None:
        cookies = [cookie for context in self._contexts for cookie in context.cookies()]
        for context in self._contexts:
            context.close()
        assert [url for url in self.requests if not url.startswith(self.address)] == []
        assert [text for text in self.complaints if "status of 4" not in text] == []
        assert cookies == []


def press(page: Page, name: str) -> None:
    """Press a button, and wait for the page behind it."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def visit_every_page(page: Page, app: App) -> Iterator[str]:
    """Go through every state that a reader can see; yields its name while the page shows it."""
    page.goto("/")
    yield "subscribe"
    page.get_by_text("Day, hour and privacy").click()
    yield "unfolded"
    page.get_by_label("Your e-mail address").fill("maria")
    press(page, "Ask for the letters")
    yield "explained"
    page.get_by_label("Your e-mail address").fill(FORM["email"])
    press(page, "Ask for the letters")
    page.get_by_text("Not right? Change it.").click()
    yield "sent"
    confirm = f"/confirm/{confirm_token(app)}"
    page.goto(confirm)
    yield "confirm"
    press(page, "Wait for Thursday 08:00")
    yield "preferences"
    page.goto(confirm)
    yield "settled"
    page.goto(f"/preferences/{preferences_token(app)}")
    press(page, "2 weeks")
    yield "paused"
    page.goto(f"/unsubscribe/{leave_token(app)}")
    yield "leave"
    press(page, "Leave")
    yield "gone"
    for path in ("/too-much", "/nothing", "/confirm/forged"):
        page.goto(path)
        yield path
    page.goto("/too-much")
    for summary in page.locator("summary").all():
        summary.click()
    yield "help lines"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_every_screen_and_can_be_read_and_pressed(opened: Opened, app: App, scheme: str) -> None:
    """No sideways scrolling from 320 px on, contrast of 4.5 at least, targets of 44 px, one heading."""
    page = opened.page(color_scheme=scheme)
    faults = []
    seen = 0
    for name in visit_every_page(page, app):
        seen += 1
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            if page.evaluate("document.documentElement.scrollWidth") > width:
                faults.append(f"{name} scrolls sideways at {width}")
        faults += [f"{name}: {text}" for text in page.evaluate(FAINT_TEXT)]
        faults += [f"{name}: small {text}" for text in page.evaluate(SMALL_TARGETS)]
        if page.locator("h1").count() != 1:
            faults.append(f"{name} has not one h1")
        if page.get_by_role("link", name="Leave this page now").count() != 1:
            faults.append(f"{name} has no way out")
    assert faults == []
    assert seen == 14


def test_the_journey_works_without_javascript(opened: Opened, app: App) -> None:
    page = opened.page(java_script_enabled=False)
    for _ in visit_every_page(page, app):
        pass
    assert states(app) == {"trust": "left"}


def test_the_journey_works_with_the_keyboard_alone(opened: Opened, app: App) -> None:
    """Every focus can be seen on the way."""
    page = opened.page()

    def walk_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
            if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"the keyboard does not reach {selector}")

    def strike(key: str) -> None:
        with page.expect_navigation():
            page.keyboard.press(key)

    page.goto("/")
    walk_to("#email")
    page.keyboard.type(FORM["email"])
    strike("Enter")
    page.goto(f"/confirm/{confirm_token(app)}")
    walk_to("button[value=now]")
    strike("Enter")
    assert page.url.endswith(f"/preferences/{preferences_token(app)}")
    walk_to("button[value='4']")
    strike("Space")
    assert "Paused until" in page.inner_text("main")
    walk_to("button[value=resume]")
    strike("Enter")
    walk_to("#leave a")
    strike("Enter")
    walk_to("button")
    strike("Enter")
    assert page.inner_text("h1") == "You are off the list"
    assert states(app) == {"trust": "left"}


@pytest.mark.parametrize(
    ("guessed", "zone", "country"),
    [
        ("America/New_York", "America/New_York", "US"),
        ("Asia/Calcutta", "Asia/Kolkata", "GB"),  # no help lines for it here: the site's own country stays
        ("Pacific/Auckland", "Pacific/Auckland", "NZ"),
        ("Etc/UTC", "Europe/London", "GB"),  # what a browser says that would rather not tell
    ],
)
def test_the_zone_is_guessed_and_the_country_with_it(opened: Opened, guessed: str, zone: str, country: str) -> None:
    page = opened.page(timezone_id=guessed)
    page.goto("/")
    assert page.input_value("#timezone") == zone
    assert page.input_value("#country") == country


def test_a_zone_that_was_chosen_is_never_guessed_over(opened: Opened) -> None:
    page = opened.page(timezone_id="America/New_York")
    page.goto("/")
    page.get_by_text("Day, hour and privacy").click()
    page.select_option("#timezone", "Europe/Paris")
    press(page, "Ask for the letters")
    assert "aria-invalid" in page.content()
    assert page.input_value("#timezone") == "Europe/Paris"


def test_leaving_the_page_needs_no_script_and_sends_no_referrer(opened: Opened) -> None:
    page = opened.page(java_script_enabled=False)
    seen: list[dict[str, str]] = []

    def answer(route: object) -> None:
        seen.append(route.request.all_headers())  # type: ignore[attr-defined]
        route.fulfill(body="weather")  # type: ignore[attr-defined]

    page.goto("/too-much")
    page.route("https://www.wikipedia.org/**", answer)
    page.get_by_role("link", name="Leave this page now").click()
    assert page.inner_text("body") == "weather"
    assert [headers.get("referer") for headers in seen] == [None]
    opened.requests.clear()  # this one request to elsewhere is the point of the link


def test_a_body_without_end_is_cut_off(address: str) -> None:
    """Chunk after chunk without a Content-Length: the server answers 413 long before they end."""
    host, port = address.removeprefix("http://").split(":")
    chunk = b"1000\r\n" + b"a" * 0x1000 + b"\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = "POST /subscribe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        sent = 0
        while sent < 200:
            try:
                connection.sendall(chunk)
            except OSError:
                break
            sent += 1
            connection.settimeout(0.02)
            try:
                answer = connection.recv(100)
                break
            except TimeoutError:
                connection.settimeout(10)
        else:
            pytest.fail("it was all taken")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 40
