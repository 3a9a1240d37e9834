"""Settings in, a wired program out: the only place where objects are put together."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from newsletter.clock import Clock, FileClock, SystemClock
from newsletter.errors import SettingsError
from newsletter.mail import open_mailer
from newsletter.mail.asking import ask
from newsletter.mail.base import Mailer, parse_mail_url
from newsletter.rendering.facts import Site
from newsletter.resources import content_dir, templates_dir
from newsletter.service.choices import Choices
from newsletter.service.composing import Composer
from newsletter.service.editions import Editions
from newsletter.service.housekeeping import Housekeeping
from newsletter.service.leaving import Leaving
from newsletter.service.office import Office
from newsletter.service.overseeing import Overseeing
from newsletter.service.pacing import Pacing
from newsletter.service.planning import Planning
from newsletter.service.previewing import Previewing
from newsletter.service.publishing import Orders, Publishing
from newsletter.service.recording import Recorder
from newsletter.service.rescuing import Rescuing
from newsletter.service.returning import Returning
from newsletter.service.sharing import Sharing
from newsletter.service.staying import Staying
from newsletter.service.subscribing import Subscribing
from newsletter.service.waking import Waking
from newsletter.settings import Late, OnUncertain, Replies, Settings
from newsletter.store import revisions
from newsletter.store.database import Database
from newsletter.tokens import DEVELOPMENT_KEY_ID, TokenSigner

if TYPE_CHECKING:
    from newsletter.mail.dkim import DkimSigner

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class App:
    """The program, wired. One for a process."""

    settings: Settings
    clock: Clock
    database: Database
    editions: Editions
    signer: TokenSigner
    site: Site
    choices: Choices
    subscribing: Subscribing
    staying: Staying
    leaving: Leaving
    publishing: Publishing
    planning: Planning
    office: Office
    pacing: Pacing
    sharing: Sharing
    rescuing: Rescuing
    waking: Waking
    housekeeping: Housekeeping
    overseeing: Overseeing
    previewing: Previewing
    open_mailer: Callable[..., Mailer]

    @property
    def content_dir(self) -> Path:
        """The operator's content folder, or the shipped one."""
        return self.settings.content_dir or content_dir()

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()


def open_app(settings: Settings, *, clock: Clock | None = None) -> App:
    """Wire the program. Nothing is opened yet but files that settings name.

    Args:
        clock: instead of the one that the settings ask for; the demo and the tests have their own.

    Raises:
        SettingsError: the settings cannot work together.
    """
    route = parse_mail_url(settings.mail_url.get_secret_value())
    if route.leaves_this_machine and settings.clock is not None:
        message = "NEWSLETTER_CLOCK is for rehearsals: unset it, or send to a maildir or a server on this machine."
        raise SettingsError(message)
    if clock is None:
        clock = FileClock(settings.clock) if settings.clock else SystemClock()
    if settings.clock is not None:
        clock.now()  # a clock that cannot be read is named at the start
    sender = settings.sender
    site = Site(
        name=sender.display_name or sender.domain,
        site_url=settings.site_url,
        base_url=settings.base_url,
        from_name=sender.display_name,
        from_address=sender.addr_spec,
        reply_to=settings.reply_to_address,
        postal_address=settings.postal_address,
        replies_read=settings.replies is Replies.READ,
        leave_url=settings.leave_url,
    )
    database = Database(settings.database_url, pool_size=12)
    signer = TokenSigner(settings.secret_keys)
    editions = Editions(site=site, shipped_templates=templates_dir())
    composer = Composer(site=site, signer=signer, editions=editions, dkim=_dkim_signers(settings))
    resend = settings.on_uncertain is OnUncertain.RESEND
    recorder = Recorder(editions=editions, signer=signer, resend_uncertain=resend)
    pacing = Pacing(database=database, rates=settings.rates, warm_up=settings.warm_up_plan, timezone=settings.timezone)
    returning = Returning(
        database=database,
        editions=editions,
        pacing=pacing,
        skip_late=settings.late is Late.SKIP,
    )
    publishing = Publishing(
        database=database, editions=editions, countries=settings.countries, templates=settings.templates_dir
    )
    choices = Choices(
        database=database,
        editions=editions,
        default_slot=settings.default_slot,
        default_sequence=settings.sequence,
    )
    return App(
        settings=settings,
        clock=clock,
        database=database,
        editions=editions,
        signer=signer,
        site=site,
        choices=choices,
        subscribing=Subscribing(database=database, signer=signer, choices=choices),
        staying=Staying(database=database, editions=editions, signer=signer, choices=choices),
        leaving=Leaving(database=database, editions=editions, signer=signer),
        publishing=publishing,
        planning=Planning(database=database, editions=editions, skip_late=settings.late is Late.SKIP),
        office=Office(
            database=database,
            editions=editions,
            composer=composer,
            recorder=recorder,
            returning=returning,
            pacing=pacing,
            skip_late=settings.late is Late.SKIP,
        ),
        pacing=pacing,
        sharing=Sharing(
            database=database,
            most=settings.fleet_connections,
            wanted=settings.smtp_connections + 1,
        ),
        rescuing=Rescuing(database=database, recorder=recorder),
        waking=Waking(database=database),
        housekeeping=Housekeeping(database=database, publishing=publishing, signer=signer),
        overseeing=Overseeing(database=database, editions=editions, signer=signer),
        previewing=Previewing(editions=editions, composer=composer, slot=settings.default_slot),
        open_mailer=partial(open_mailer, route),
    )


def prepare_to_send(app: App, *, is_child: bool = False) -> None:
    """Make sure that this process may send.

    Args:
        is_child: its parent has examined the database.

    Raises:
        SettingsError: something that real mail needs is missing; every fault at once.
        DatabaseRefused: the schema does not fit, or the file is damaged.
    """
    route = parse_mail_url(app.settings.mail_url.get_secret_value())
    faults = app.settings.faults_when_sending(local=not route.leaves_this_machine)
    if faults:
        raise SettingsError("\n".join(faults))
    app.database.check()
    if not is_child:
        app.database.examine()
    _check_keys(app)


def ask_mail_route(app: App) -> None:
    """Find out whether letters can leave at all. Takes a moment; once on a machine is enough.

    A mail server that is away, or slow, may be back before the first letter is due: the worker goes on without it.

    Raises:
        RelayUnavailable: the mail route will not work until somebody changes something.
        SettingsError: the mail route cannot be used.
    """
    fault = ask(app.open_mailer)
    if fault is None:
        return
    if fault.lasts:
        raise fault
    log.warning("relay_not_ready", reason=str(fault))


def publish_first(app: App) -> int | None:
    """Publish the content folder on a database that has no revision yet, so that a first start works.

    Returns:
        The number of the revision, or None where something is published already.

    Raises:
        ContentErrors: the content is faulty.
    """
    if app.publishing.live() is not None:
        return None
    publication = app.publishing.publish(app.content_dir, orders=Orders(note="first start"), now=app.clock.now())
    return publication.number


def configure_logging(*, json: bool, log_all: bool = True) -> None:
    """Log lines to standard error: an event name plus fields."""
    renderer = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if log_all else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # A tick that finds the one before it still at work is no news.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # A database that is away fills pages here; `cluster` says it in one line.
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _dkim_signers(settings: Settings) -> tuple[DkimSigner, ...]:
    """The signers in the order in which they sign. The last one's signature stands on top: RSA, which all can read."""
    if settings.dkim_key_file is None and settings.dkim_ed25519_key_file is None:
        return ()
    # Only who signs pays for loading `cryptography`.
    from newsletter.mail.dkim import DkimSigner, load_key  # noqa: PLC0415  (see above)

    domain = settings.dkim_domain or settings.sender.domain
    signers = []
    if settings.dkim_ed25519_selector is not None and settings.dkim_ed25519_key_file is not None:
        setting = "NEWSLETTER_DKIM_ED25519_KEY_FILE"
        key = load_key(settings.dkim_ed25519_key_file, kind="ed25519", setting=setting)
        signers.append(DkimSigner(domain, settings.dkim_ed25519_selector, key))
    if settings.dkim_selector is not None and settings.dkim_key_file is not None:
        key = load_key(settings.dkim_key_file, kind="rsa", setting="NEWSLETTER_DKIM_KEY_FILE")
        signers.append(DkimSigner(domain, settings.dkim_selector, key))
    return tuple(signers)


def _check_keys(app: App) -> None:
    """Refuse to run while a key that signed links is missing; remember the one that signs now."""
    forgotten = set(app.settings.forgotten_keys) | {DEVELOPMENT_KEY_ID}
    with app.database.write() as connection:
        known = revisions.signing_keys(connection)
        missing = sorted(set(known) - app.signer.key_ids - forgotten)
        if missing:
            last = known[missing[0]].date()
            message = (
                f"NEWSLETTER_SECRET_KEY no longer holds the key {missing[0]}, which signed links until {last}."
                " Add it at the end of the list; or, if it is lost for good and those links may stop working,"
                f" set NEWSLETTER_FORGOTTEN_KEYS={','.join(missing)}"
            )
            raise SettingsError(message)
        revisions.note_signing_key(connection, app.signer.key_id, now=app.clock.now())
