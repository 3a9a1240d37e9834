"""A way out is asked once whether it can work: what lasts is told from what may pass, and nobody waits for long."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from newsletter.errors import RelayUnavailable
from newsletter.mail import asking, open_mailer, parse_mail_url
from newsletter.mail.asking import ask
from tests.support.smtp_server import (
    Close,
    Delay,
    Hang,
    Raw,
    Reply,
    Reset,
    Security,
    SmtpServer,
    Step,
    make_certificate,
)

USERS = {"maria": "s3cret"}


def asked(url: str) -> RelayUnavailable | None:
    return ask(partial(open_mailer, parse_mail_url(url), local_hostname="worker.example"))


@pytest.mark.parametrize("security", ["none", "starttls", "implicit"])
def test_a_healthy_server_is_greeted_and_left(security: Security) -> None:
    """One connection, with TLS and login, that speaks of no letter; it has ended when the answer is there."""
    with SmtpServer(security=security, users=USERS) as server:
        assert asked(server.url) is None

        secured = ["STARTTLS", "EHLO"] if security == "starttls" else []
        assert server.commands == ["EHLO", *secured, "AUTH", "QUIT"]
        assert server.connections == 1
        assert [login.accepted for login in server.logins] == [True]


@pytest.mark.parametrize(
    ("stage", "steps", "lasts"),
    [
        # What a server says when it is busy, or about to be replaced.
        ("banner", [Reply(421, "4.3.2 Shutting down")], False),
        ("banner", [Reply(554, "5.7.1 Go away")], False),
        ("banner", [Close()], False),
        ("banner", [Raw(b"SSH-2.0-OpenSSH_9.2\r\n")], False),
        ("ehlo", [Reply(451, "4.3.0 Later")], False),
        ("ehlo", [Reset()], False),
        ("starttls", [Reply(454, "4.7.0 TLS not available")], False),
        ("starttls", [Reply(220, "Go"), Close()], False),
        ("auth", [Reply(454, "4.7.0 Not now")], False),
        ("auth", [Reply(421, "4.7.0 Too many logins")], False),
        ("auth", [Close()], False),
        # What it will say tomorrow, too.
        ("starttls", [Reply(502, "5.5.1 No such command")], True),
        ("starttls", [Reply(220, "Go"), Delay(0.05), Raw(b"554 No TLS after all\r\n")], True),
        ("auth", [Reply(535, "5.7.8 Not you")], True),
        ("auth", [Reply(534, "5.7.9 Another way")], True),
    ],
)
def test_what_lasts_is_told_from_what_may_pass(stage: str, steps: Sequence[Step], lasts: bool) -> None:
    with SmtpServer(security="starttls", users=USERS) as server:
        server.script(stage, *steps)
        fault = asked(server.url)

    assert fault is not None
    assert fault.lasts is lasts
    assert "\n" not in str(fault)
    assert "s3cret" not in str(fault)


def test_a_server_without_tls_does_not_get_it_tomorrow() -> None:
    with SmtpServer() as server:
        without = asked(f"smtp://127.0.0.1:{server.port}?tls=required")
        another = asked(f"smtps://127.0.0.1:{server.port}")

    assert without is not None
    assert another is not None
    assert (without.lasts, another.lasts) == (True, True)
    assert "?tls=never" in str(without)
    assert "smtp:// or for smtps://" in str(another)


def test_a_login_that_is_not_offered_lasts() -> None:
    with SmtpServer() as server:
        fault = asked(f"smtp://maria:s3cret@127.0.0.1:{server.port}")

    assert fault is not None
    assert fault.lasts
    assert "user and a password" in str(fault)


@pytest.mark.parametrize(
    "certificate",
    [pytest.param({"days": -1}, id="out of date"), pytest.param({"names": ["other.example"]}, id="another's")],
)
def test_a_wrong_certificate_lasts(certificate: dict[str, object], tmp_path: Path) -> None:
    with SmtpServer(security="starttls", certificate=make_certificate(tmp_path, **certificate)) as server:  # type: ignore[arg-type]
        fault = asked(server.url)

    assert fault is not None
    assert fault.lasts
    assert "certificate" in str(fault)


def test_a_server_that_is_not_there_may_come() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for host in (f"127.0.0.1:{port}", "no-such-host.invalid:587"):
        fault = asked(f"smtp://{host}?tls=required")
        assert fault is None or not fault.lasts


@pytest.mark.parametrize("stage", ["banner", "ehlo", "auth", "quit"])
def test_nobody_waits_for_a_silent_server(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", timedelta(seconds=0.3))
    with SmtpServer(users=USERS) as server:
        server.script(stage, Hang())
        began = time.monotonic()
        fault = asked(server.url)

        assert time.monotonic() - began < 2
        assert fault is None or not fault.lasts


def test_a_folder_is_made_or_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert asked(f"maildir:{tmp_path}/deep/mail") is None
    assert (tmp_path / "deep" / "mail" / "new").is_dir()
    fault = asked(f"maildir:{tmp_path}/file/mail")
    assert fault is not None
    assert fault.lasts


def test_a_full_disk_may_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fill)
    fault = asked(f"maildir:{tmp_path}/mail")

    assert fault is not None
    assert not fault.lasts
