"""Settings: one reading of `.env` and the environment, every fault at once, and no file that drifts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from newsletter.errors import SettingsError
from newsletter.settings import Settings, is_loopback, load_settings, setting_name, unknown_settings
from newsletter.tokens import DEVELOPMENT_KEY

ROOT = Path(__file__).parent.parent
GOOD_KEY = "k" * 40


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("NEWSLETTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_example_names_every_setting_and_nothing_else() -> None:
    """`.env.example` lists exactly the settings that the program reads."""
    listed = re.findall(r"^(NEWSLETTER_\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == {setting_name(field) for field in Settings.model_fields}


def test_example_holds_the_defaults() -> None:
    """Copying `.env.example` to `.env` changes nothing."""
    assert load_settings(env_file=ROOT / ".env.example") == load_settings()


def test_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable of the environment outweighs the same one in `.env`."""
    (tmp_path / ".env").write_text("NEWSLETTER_SLOT=mon 07:00\nNEWSLETTER_LATE=skip\nOTHER=thing\n")
    monkeypatch.setenv("NEWSLETTER_SLOT", "tue 09:30")
    settings = load_settings()
    assert str(settings.default_slot) == "tue 09:30 UTC"
    assert settings.late == "skip"


def test_every_fault_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several wrong settings make one error with a line for each, by the names that the operator wrote."""
    for name, value in {
        "TIMEZONE": "Mars/Olympus", "SLOT": "sometimes", "SMTP_CONNECTIONS": "0", "FROM": "nobody",
        "BASE_URL": "ftp://x", "COUNTRIES": "USA", "LATE": "maybe", "MAIL_URL": "carrier-pigeon://roof",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"NEWSLETTER_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert sorted(line.split()[0].rstrip(":") for line in lines) == sorted(
        f"NEWSLETTER_{name}"
        for name in ("TIMEZONE", "SLOT", "SMTP_CONNECTIONS", "FROM", "BASE_URL", "COUNTRIES", "LATE", "MAIL_URL")
    )


@pytest.mark.parametrize(
    "value", ["Someone", "a@b.example.org, c@d.example.org", "X <x@example.org>\r\nBcc: y@example.org", "<>", "x@y@z"]
)
def test_a_sender_is_one_mailbox(value: str) -> None:
    """FROM is one name and address; anything that could add a header or a second sender is refused."""
    with pytest.raises(SettingsError, match="NEWSLETTER_FROM"):
        load_settings(NEWSLETTER_FROM=value)


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings' own text nor an error about them holds a key or a password."""
    monkeypatch.setenv("NEWSLETTER_SECRET_KEY", GOOD_KEY)
    monkeypatch.setenv("NEWSLETTER_MAIL_URL", "smtp://user:hunter2@mail.example.org")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert GOOD_KEY not in repr(settings)
    monkeypatch.setenv("NEWSLETTER_SECRET_KEY", f"{GOOD_KEY},{GOOD_KEY}")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert GOOD_KEY not in str(caught.value)
    assert "same key twice" in str(caught.value)


def test_a_public_address_needs_a_strong_key() -> None:
    """The default key or a short one serves this machine only."""
    assert load_settings().faults_when_serving("127.0.0.1") == []
    assert load_settings().faults_when_serving("0.0.0.0")
    public = {"base_url": "https://letters.example.org"}
    assert load_settings(**public, secret_key=DEVELOPMENT_KEY).faults_when_serving("127.0.0.1")
    assert load_settings(**public, secret_key="short").faults_when_serving("127.0.0.1")
    assert load_settings(**public, secret_key=GOOD_KEY).faults_when_serving("0.0.0.0") == []


def test_real_mail_needs_an_address_a_key_and_the_true_time(tmp_path: Path) -> None:
    """Mail that leaves this machine needs a postal address, a strong key, https, a real sender and the true time."""
    loose = load_settings(clock=tmp_path / "clock")
    assert loose.faults_when_sending(local=True) == []
    assert len(loose.faults_when_sending(local=False)) == 5
    strict = load_settings(
        secret_key=GOOD_KEY,
        postal_address="1 Road, Town",
        base_url="https://letters.example.org",
        NEWSLETTER_FROM="Ann <ann@letters.test-site.com>",
    )
    assert strict.faults_when_sending(local=False) == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("example.org", False), ("10.0.0.1", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_what_counts_as_this_machine(host: str, expected: bool) -> None:
    """Only loopback addresses and names count as this machine."""
    assert is_loopback(host) is expected


def test_a_misspelt_setting_is_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with our prefix that nothing reads is named, with the one that was probably meant."""
    monkeypatch.setenv("NEWSLETTER_TIMEZON", "UTC")
    (warning,) = unknown_settings()
    assert "NEWSLETTER_TIMEZON " in warning
    assert "NEWSLETTER_TIMEZONE" in warning


def test_an_empty_mail_url_is_not_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable that came out empty would have real letters put into a folder; other settings take their default."""
    (tmp_path / ".env").write_text("NEWSLETTER_MAIL_URL=smtp://mail.example.org:587\n")
    monkeypatch.setenv("NEWSLETTER_MAIL_URL", "")
    monkeypatch.setenv("NEWSLETTER_SLOT", "")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    [line] = str(caught.value).splitlines()
    assert line.startswith("NEWSLETTER_MAIL_URL is empty")
    assert "unset it for maildir:./mail" in line
