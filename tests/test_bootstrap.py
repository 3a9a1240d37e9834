"""Settings in, a wired program out, and what it refuses to start with."""

from __future__ import annotations

import json as jsonlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from newsletter.bootstrap import App, configure_logging, open_app, prepare_to_send, publish_first
from newsletter.clock import FileClock, FixedClock, SystemClock
from newsletter.errors import ContentErrors, DatabaseRefused, SettingsError
from newsletter.resources import content_dir
from newsletter.settings import Settings
from newsletter.tokens import DEVELOPMENT_KEY, key_id
from tests.support.building import ContentFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
OLD, NEW = "o" * 40, "n" * 40
REAL = "smtp://mail.kindwords.eu:587"
READY = {
    "mail_url": REAL,
    "secret_key": OLD,
    "postal_address": "1 Harbour Street, Dublin",
    "base_url": "https://letters.kindwords.eu",
    "NEWSLETTER_FROM": "Letters <letters@kindwords.eu>",
}


@pytest.fixture
def start(migrated_url: str, tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Wires the program on this test's database; any setting may be given."""
    opened: list[App] = []

    def start_it(instead: FixedClock | None = None, **settings: Any) -> App:
        values = {"database_url": migrated_url, "mail_url": f"maildir:{tmp_path / 'mail'}", **settings}
        opened.append(open_app(Settings.model_validate(values), clock=instead))
        return opened[-1]

    yield start_it
    for app in opened:
        app.close()


class TestKeys:
    """No link stops working by accident."""

    def at(self, days: int = 0) -> FixedClock:
        """A clock so many days on."""
        return FixedClock(NOW + timedelta(days=days))

    def test_a_missing_key_that_signed_links_is_named(self, start: Callable[..., App]):
        """A start without a key that signed links is refused, with its id, its last day and both ways out."""
        prepare_to_send(start(self.at(), secret_key=OLD))
        with pytest.raises(SettingsError) as refused:
            prepare_to_send(start(self.at(5), secret_key=NEW))
        assert key_id(OLD) in str(refused.value)
        assert "2026-11-23" in str(refused.value)
        assert f"NEWSLETTER_FORGOTTEN_KEYS={key_id(OLD)}" in str(refused.value)
        assert OLD not in str(refused.value)

    def test_a_refused_start_leaves_no_trace(self, start: Callable[..., App]):
        """The key of a refused start is not remembered, so that going back to the old one is enough."""
        prepare_to_send(start(self.at(), secret_key=OLD))
        with pytest.raises(SettingsError):
            prepare_to_send(start(self.at(), secret_key=NEW))
        prepare_to_send(start(self.at(), secret_key=OLD))

    def test_a_rotation_keeps_both(self, start: Callable[..., App]):
        """With the old key at the end of the list the new one signs, and from then on both are needed."""
        prepare_to_send(start(self.at(), secret_key=OLD))
        prepare_to_send(start(self.at(), secret_key=f"{NEW},{OLD}"))
        for short in (OLD, NEW):
            with pytest.raises(SettingsError):
                prepare_to_send(start(self.at(), secret_key=short))

    def test_a_key_that_is_lost_for_good_may_be_given_up(self, start: Callable[..., App]):
        """FORGOTTEN_KEYS lets the program start without them."""
        prepare_to_send(start(self.at(), secret_key=OLD))
        prepare_to_send(start(self.at(), secret_key=NEW, forgotten_keys=f"{key_id('x')},{key_id(OLD)}"))

    def test_the_development_key_is_never_missed(self, start: Callable[..., App]):
        """Who tried things out with the default key may set a real one without a word."""
        prepare_to_send(start(self.at(), secret_key=DEVELOPMENT_KEY))
        prepare_to_send(start(self.at(), secret_key=NEW))


class TestSending:
    def test_every_fault_is_named_at_once(self, start: Callable[..., App]):
        """Real mail with the defaults is refused in one go: postal address, key, https and sender."""
        with pytest.raises(SettingsError) as refused:
            prepare_to_send(start(mail_url=REAL))
        faults = str(refused.value).splitlines()
        assert [fault.split(" ")[0] for fault in faults] == [
            "NEWSLETTER_POSTAL_ADDRESS",
            "NEWSLETTER_SECRET_KEY",
            "NEWSLETTER_BASE_URL",
            "NEWSLETTER_FROM",
        ]

    def test_what_is_complete_may_send(self, start: Callable[..., App]):
        """With everything in place real mail may leave."""
        prepare_to_send(start(**READY))

    @pytest.mark.parametrize(
        "missing",
        [
            {"postal_address": "  "},
            {"secret_key": "short"},
            {"secret_key": f"{OLD},{DEVELOPMENT_KEY}"},
            {"base_url": "http://letters.kindwords.eu"},
            {"NEWSLETTER_FROM": "Letters <letters@example.org>"},
        ],
    )
    def test_each_is_needed(self, start: Callable[..., App], missing: dict[str, str]):
        """Each single fault is enough to refuse, and nothing else is named then."""
        with pytest.raises(SettingsError) as refused:
            prepare_to_send(start(**{**READY, **missing}))
        assert len(str(refused.value).splitlines()) == 1

    def test_mail_that_stays_here_needs_none_of_it(self, start: Callable[..., App]):
        """A maildir or a server on this machine may be used with the defaults."""
        for mail_url in ("maildir:./mail", "smtp://127.0.0.1:2525", "smtp://localhost:25"):
            prepare_to_send(start(mail_url=mail_url))


def test_a_database_without_the_schema_is_refused(database_url: str):
    """An empty database is refused with what to do."""
    app = open_app(Settings.model_validate({"database_url": database_url}))
    try:
        with pytest.raises(DatabaseRefused, match="newsletter db upgrade"):
            prepare_to_send(app)
    finally:
        app.close()


class TestClock:
    """Business time from a file is for rehearsals."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A file with an instant."""
        file = tmp_path / "clock"
        file.write_text(NOW.isoformat())
        return file

    def test_it_is_refused_with_a_real_mail_server(self, start: Callable[..., App], file: Path):
        """The program does not start where made-up time would send real mail, whichever clock it is given."""
        for clock in (None, FixedClock(NOW)):
            with pytest.raises(SettingsError, match="NEWSLETTER_CLOCK"):
                start(clock, **READY, clock=file)

    def test_it_rules_where_mail_stays_here(self, start: Callable[..., App], file: Path):
        """With a maildir the file says what time it is."""
        app = start(clock=file)
        assert isinstance(app.clock, FileClock)
        assert app.clock.now() == NOW

    def test_a_clock_that_cannot_be_read_is_named_at_the_start(self, start: Callable[..., App], file: Path):
        """A missing or strange file refuses the start."""
        file.write_text("noon")
        with pytest.raises(SettingsError, match="noon"):
            start(clock=file)
        with pytest.raises(SettingsError, match="cannot be read"):
            start(clock=file.with_name("nothing"))

    def test_without_one_it_is_the_machines(self, start: Callable[..., App]):
        """Where no clock is set the machine's own time counts."""
        assert isinstance(start().clock, SystemClock)


class TestFirstPublication:
    def test_the_folder_is_published_where_nothing_is(self, start: Callable[..., App], tmp_path: Path):
        """A first start publishes the operator's folder, a second one publishes nothing."""
        content = ContentFolder(tmp_path / "content")
        content.sequence("trust", "one")
        app = start(FixedClock(NOW), content_dir=content.root)
        assert publish_first(app) == 1
        content.sequence("trust", "one", "two")
        assert publish_first(app) is None
        (head,) = app.publishing.history()
        assert (head.number, head.note, head.published_at) == (1, "first start", NOW)

    def test_faulty_content_publishes_nothing(self, start: Callable[..., App], tmp_path: Path):
        """A faulty folder refuses the first publication."""
        content = ContentFolder(tmp_path / "content")
        content.write("sequences/trust/sequence.yaml", "title: [")
        app = start(content_dir=content.root)
        with pytest.raises(ContentErrors):
            publish_first(app)
        assert app.publishing.live() is None

    def test_without_a_folder_the_shipped_content_is_meant(self, start: Callable[..., App]):
        """Where CONTENT_DIR is empty the content that comes with the program is used."""
        assert start().content_dir == content_dir()


class TestWiring:
    def test_the_site_is_what_the_settings_say(self, start: Callable[..., App]):
        """Sender, addresses and the word on replies come from the settings; without a name the domain stands in."""
        app = start(**READY, reply_to="Ann <ann@kindwords.eu>", replies="read")
        site = app.site
        assert (site.name, site.from_name, site.from_address) == ("Letters", "Letters", "letters@kindwords.eu")
        assert (site.reply_to, site.replies_read) == ("ann@kindwords.eu", True)
        assert site.base_url == "https://letters.kindwords.eu"
        nameless = start(NEWSLETTER_FROM="letters@kindwords.eu").site
        assert nameless.name == "kindwords.eu"


class TestLogging:
    @pytest.fixture(autouse=True)
    def usual_logging(self) -> Iterator[None]:
        """Whatever a test sets up is taken back."""
        before = structlog.get_config()
        yield
        structlog.configure(**before)

    def test_json_lines_go_to_standard_error(self, capsys: pytest.CaptureFixture[str]):
        """Each log line is one JSON object with an event name, a level and an instant."""
        configure_logging(json=True)
        structlog.get_logger().info("something_happened", number=3)
        out, err = capsys.readouterr()
        line = jsonlib.loads(err)
        assert out == ""
        assert (line["event"], line["level"], line["number"]) == ("something_happened", "info", 3)
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta()

    def test_a_quiet_command_logs_warnings_only(self, capsys: pytest.CaptureFixture[str]):
        """With `log_all=False` what is no warning is left out."""
        configure_logging(json=False, log_all=False)
        structlog.get_logger().info("something_happened")
        structlog.get_logger().warning("look_here", number=3)
        err = capsys.readouterr().err
        assert "something_happened" not in err
        assert "look_here" in err
        assert "\x1b" not in err
