"""Everything an operator can set. The only module that reads the environment.

`.env` in the working directory is read by python-dotenv; the environment wins. Every fault is named at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from email.headerregistry import Address as HeaderAddress
from email.headerregistry import HeaderRegistry
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from newsletter.domain.addresses import parse_address
from newsletter.domain.cadence import Slot, known_timezone
from newsletter.domain.rates import Rates, WarmUp
from newsletter.errors import AddressError, SettingsError
from newsletter.mail.base import parse_mail_url
from newsletter.tokens import DEVELOPMENT_KEY

PREFIX = "NEWSLETTER_"
_SHORTEST_KEY = 32
_DNS_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_LONGEST_DNS_NAME = 253
_NEVER_EMPTY = "NEWSLETTER_MAIL_URL"
"""An empty variable means the default; here that would be a folder, in which a whole list's letters count as sent."""
_MAKE_A_KEY = "set it to the output of: openssl rand -hex 32"


class Late(StrEnum):
    """What becomes of a letter more than two hours behind its slot."""

    SEND = "send"  # it leaves in the reader's waking hours
    SKIP = "skip"  # that week passes; the step is kept


class OnUncertain(StrEnum):
    """What becomes of a letter that was handed over and got no answer."""

    RESEND = "resend"  # once, with the same Message-ID
    HOLD = "hold"  # never by itself


class Replies(StrEnum):
    """Whether somebody reads what readers answer."""

    READ = "read"
    UNREAD = "unread"


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


def _split(value: Any) -> Any:  # noqa: ANN401  (whatever the environment holds)
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """The settings, checked as a whole."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=None, extra="ignore", frozen=True,
                                      hide_input_in_errors=True)  # fmt: skip

    database_url: str = Field(
        "sqlite:///newsletter.db", description="the database: sqlite:///file or postgresql://user:password@host/name"
    )
    mail_url: SecretStr = Field(
        SecretStr("maildir:./mail"),
        description="where mail goes: smtp://user:password@host:587, smtps://… or maildir:./folder",
    )
    base_url: str = Field(
        "http://127.0.0.1:8000", description="where readers reach the site; every link begins with it"
    )
    site_url: str = Field("https://www.example.org", description="your own site; related posts hang below it")
    secret_key: Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)] = Field(
        [SecretStr(DEVELOPMENT_KEY)],
        description="signs links; a comma-separated list: the first signs, all verify; 32 characters at least",
    )
    from_: str = Field(
        "Weekly letters <letters@example.org>",
        alias="NEWSLETTER_FROM",
        description="the sender: Name <address>",
    )
    reply_to: str | None = Field(None, description="where answers go; the sender's address when empty")
    postal_address: str = Field("", description="stands in every footer; needed before anything goes to a real server")
    content_dir: Path | None = Field(None, description="the folder with sequences/; the shipped content when empty")
    templates_dir: Path | None = Field(
        None, description="a folder whose templates replace the shipped ones of the same path"
    )
    timezone: str = Field("UTC", description="the site's own IANA time zone")
    slot: str = Field("thu 08:00", description="the site's own weekday and local time")
    sequence: str = Field("trust", description="the sequence that the form offers first")
    countries: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        ["US", "GB", "IE", "CA", "AU", "NZ"],
        description="countries whose help lines must be complete, comma-separated",
    )
    smtp_connections: int = Field(
        4, ge=1, le=500, description="connections on which letters leave; one more serves people who wait"
    )
    fleet_connections: int | None = Field(
        None, ge=2, le=10_000, description="connections of all workers together; as many as each wants when empty"
    )
    send_rate: str = Field(
        "", description="letters of the whole fleet, and to one domain: 20/second,gmail.com=5/second,*=600/hour"
    )
    warm_up: str = Field("", description="letters on each of a new sender's first days, growing: 50,100,500,1000,5000")
    dkim_selector: str | None = Field(
        None, description="the name of the signing key in the DNS; letters go unsigned when empty"
    )
    dkim_key_file: Path | None = Field(
        None, validate_default=True, description="the PEM file of an RSA key of at least 2048 bits, the selector's own"
    )
    dkim_ed25519_selector: str | None = Field(
        None, description="the name of an Ed25519 key for a second signature; none when empty"
    )
    dkim_ed25519_key_file: Path | None = Field(
        None, validate_default=True, description="the PEM file of that Ed25519 key"
    )
    dkim_domain: str | None = Field(None, description="whose keys they are; the domain of the sender when empty")
    late: Late = Field(Late.SEND, description="send: a late letter leaves in waking hours; skip: that week passes")
    on_uncertain: OnUncertain = Field(
        OnUncertain.RESEND, description="resend: repeat once; hold: prefer a gap to a double"
    )
    replies: Replies = Field(Replies.UNREAD, description="read or unread: what the footer says about replying")
    leave_url: str = Field("https://www.wikipedia.org/", description="where 'Leave this page now' goes")
    log_format: LogFormat = Field(LogFormat.TEXT, description="text or json")
    clock: Path | None = Field(None, description="for rehearsals: business time is the ISO instant in this file")
    forgotten_keys: Annotated[list[str], NoDecode, BeforeValidator(_split)] = Field(
        [], description="ids of secret keys that are lost for good; links they signed stop working"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it reads `.env` and the environment itself, once."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("mail_url")
    @classmethod
    def _check_mail_url(cls, value: SecretStr) -> SecretStr:
        try:
            parse_mail_url(value.get_secret_value())
        except SettingsError as error:
            # Its words quote nothing of the URL, which may hold a password; as a cause they would.
            raise ValueError(str(error)) from None
        return value

    @field_validator("base_url", "site_url", "leave_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            message = "write an address such as https://letters.example.org"
            raise ValueError(message)
        return value.rstrip("/")

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        if not known_timezone(value):
            message = f"{value!r} is no time zone; write an IANA name such as Europe/Berlin"
            raise ValueError(message)
        return value

    @field_validator("slot")
    @classmethod
    def _check_slot(cls, value: str) -> str:
        Slot.parse(value, timezone="UTC")
        return value

    @field_validator("send_rate")
    @classmethod
    def _check_send_rate(cls, value: str) -> str:
        Rates.parse(value)
        return value

    @field_validator("warm_up")
    @classmethod
    def _check_warm_up(cls, value: str) -> str:
        WarmUp.parse(value)
        return value

    @field_validator("from_")
    @classmethod
    def _check_from(cls, value: str) -> str:
        _parse_mailbox(value)
        return value

    @field_validator("reply_to")
    @classmethod
    def _check_reply_to(cls, value: str | None) -> str | None:
        if not value:
            return None
        _parse_mailbox(value)
        return value

    @field_validator("dkim_selector", "dkim_ed25519_selector", "dkim_domain")
    @classmethod
    def _check_dns_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value:
            return None
        if len(value) > _LONGEST_DNS_NAME or not _DNS_NAME.fullmatch(value):
            message = f"{value!r} is no name in the DNS; write letters, digits, hyphens and dots only"
            raise ValueError(message)
        value = value.lower()
        if info.field_name == "dkim_ed25519_selector" and value == info.data.get("dkim_selector"):
            message = "each key has a name of its own in the DNS; write another one than in NEWSLETTER_DKIM_SELECTOR"
            raise ValueError(message)
        if info.field_name == "dkim_domain" and not _signs(info.data):
            message = "nothing is signed without a key; set NEWSLETTER_DKIM_SELECTOR and NEWSLETTER_DKIM_KEY_FILE too"
            raise ValueError(message)
        return value

    @field_validator("dkim_key_file", "dkim_ed25519_key_file")
    @classmethod
    def _check_dkim_pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        selector = f"{info.field_name}".replace("key_file", "selector")
        # A selector that is missing from the data was refused, and says so itself.
        if selector in info.data and (value is None) != (info.data[selector] is None):
            message = f"a key and its selector belong together; set {setting_name(selector)} too, or neither"
            if value is None:
                message = f"it is empty, and {setting_name(selector)} is not; set both, or neither"
            raise ValueError(message)
        return value

    @field_validator("countries")
    @classmethod
    def _check_countries(cls, value: list[str]) -> list[str]:
        wrong = [country for country in value if not re.fullmatch(r"[A-Za-z]{2}", country)]
        if wrong:
            message = f"{wrong[0]!r} is no country; write two-letter ISO codes such as US,GB"
            raise ValueError(message)
        return [country.upper() for country in value]

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, value: list[SecretStr]) -> list[SecretStr]:
        if not value:
            message = "write at least one key, for instance the output of: openssl rand -hex 32"
            raise ValueError(message)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if len({key.get_secret_value() for key in self.secret_key}) != len(self.secret_key):
            message = "SECRET_KEY holds the same key twice; write each once"
            raise ValueError(message)
        return self

    @property
    def sender(self) -> HeaderAddress:
        """The From mailbox."""
        return _parse_mailbox(self.from_)

    @property
    def reply_to_address(self) -> str | None:
        """The Reply-To address, or None where the sender's own is meant."""
        return None if self.reply_to is None else _parse_mailbox(self.reply_to).addr_spec

    @property
    def default_slot(self) -> Slot:
        """The site's own slot."""
        return Slot.parse(self.slot, timezone=self.timezone)

    @property
    def rates(self) -> Rates:
        """How fast letters may leave."""
        return Rates.parse(self.send_rate)

    @property
    def warm_up_plan(self) -> WarmUp | None:
        """How many letters may leave on each of the first days; None where there is no such plan."""
        return WarmUp.parse(self.warm_up)

    @property
    def secret_keys(self) -> list[str]:
        """The keys, the signing one first."""
        return [key.get_secret_value() for key in self.secret_key]

    @property
    def has_weak_key(self) -> bool:
        """Whether a key could be guessed: all of them verify, so the weakest one counts."""
        return any(key == DEVELOPMENT_KEY or len(key) < _SHORTEST_KEY for key in self.secret_keys)

    def faults_when_serving(self, host: str) -> list[str]:
        """What forbids serving the site on `host`, a sentence each."""
        public = not is_loopback(host) or not is_loopback(urlsplit(self.base_url).hostname or "")
        if public and self.has_weak_key:
            message = "NEWSLETTER_SECRET_KEY is the default or too short for a public address; " + _MAKE_A_KEY
            return [message]
        return []

    def faults_when_sending(self, *, local: bool) -> list[str]:
        """What forbids sending, a sentence each; `local`: the mail stays on this machine."""
        if local:
            return []
        faults = []
        if not self.postal_address.strip():
            faults.append(
                "NEWSLETTER_POSTAL_ADDRESS is empty; mail to real people needs a postal address in its footer"
            )
        if self.has_weak_key:
            faults.append("NEWSLETTER_SECRET_KEY is the default or too short; " + _MAKE_A_KEY)
        if not self.base_url.startswith("https://"):
            faults.append("NEWSLETTER_BASE_URL is not https; links in letters are for their readers' eyes alone")
        if self.sender.domain.endswith(("example.org", "example.com", "example.net")):
            faults.append("NEWSLETTER_FROM is an example; write the name and address of whoever writes the letters")
        if self.clock is not None:
            faults.append(
                "NEWSLETTER_CLOCK is for rehearsals; unset it, or send to a maildir or a server on this machine"
            )
        return faults


def load_settings(*, env_file: Path | None = None, **overrides: Any) -> Settings:  # noqa: ANN401  (any setting)
    """Read `.env` and the environment.

    Args:
        env_file: instead of `.env` in the working directory.
        overrides: settings by name, which win over both.

    Raises:
        SettingsError: every fault at once, a line each.
    """
    found = {name: value for name, value in dotenv_values(env_file or Path(".env")).items() if value is not None}
    found.update(os.environ)
    values: dict[str, Any] = {}
    for name, value in found.items():
        if name.upper().startswith(PREFIX) and (value != "" or name.upper() == _NEVER_EMPTY):
            field = name.upper().removeprefix(PREFIX).lower()
            values["NEWSLETTER_FROM" if field == "from" else field] = value
    values.update(overrides)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(fault) for fault in error.errors())) from error


def unknown_settings(*, env_file: Path | None = None) -> list[str]:
    """A warning for each variable with our prefix that nothing reads, with the name that was probably meant."""
    known = {setting_name(field) for field in Settings.model_fields}
    found = {*dotenv_values(env_file or Path(".env")), *os.environ}
    unknown = sorted(name for name in found if name.upper().startswith(PREFIX) and name.upper() not in known)
    warnings = []
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        warnings.append(f"{name} is not a setting of this program{hint}")
    return warnings


def setting_name(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + field.rstrip("_").upper()


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _signs(data: Mapping[str, Any]) -> bool:
    """Whether a selector is set, or was refused and says so itself."""
    return any(data.get(field, "refused") for field in ("dkim_selector", "dkim_ed25519_selector"))


def _parse_mailbox(value: str) -> HeaderAddress:
    if any(character in value for character in "\r\n\0"):
        message = "write one line: Name <address>"
        raise ValueError(message)
    header: Any = HeaderRegistry()("From", value)
    if len(header.addresses) != 1 or header.defects:
        message = f"{value!r} is no sender; write: Name <address@example.org>"
        raise ValueError(message)
    address: HeaderAddress = header.addresses[0]
    try:
        parsed = parse_address(address.addr_spec)
    except AddressError as error:
        message = f"{value!r}: {error}"
        raise ValueError(message) from error
    if not parsed.wire.isascii():
        message = f"{value!r}: the sender's address must be plain ASCII"
        raise ValueError(message)
    return HeaderAddress(display_name=address.display_name, addr_spec=parsed.wire)


def _explain(fault: Any) -> str:  # noqa: ANN401  (pydantic's own mapping)
    field = str(fault["loc"][0]) if fault["loc"] else ""
    name = field if field.startswith(PREFIX) else setting_name(field) if field else PREFIX.rstrip("_")
    reason = fault["msg"].removeprefix("Value error, ")
    if reason.startswith(name):
        return f"{reason}"
    return f"{name}: {reason.rstrip(chr(46))}."
