"""Whether a way out can work at all: asked once, before anything is sent on it."""

from __future__ import annotations

from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from newsletter.errors import RelayUnavailable
from newsletter.mail.wire import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from newsletter.mail.base import Mailer

PATIENCE = timedelta(seconds=3)
"""A mail server that takes longer than this is no reason to start later."""

_HURRIED = Timeouts(connect=PATIENCE, command=PATIENCE)


def ask(open_mailer: Callable[..., Mailer]) -> RelayUnavailable | None:
    """Begin one conversation, with greeting, TLS and login, and end it. No letter is spoken of.

    The resolver cannot be told to hurry, so the question has a thread of its own, which is left to itself where it
    takes longer than `PATIENCE`.

    Args:
        open_mailer: as `newsletter.mail.open_mailer`, for a route.

    Returns:
        Why none could begin; None where one could.

    Raises:
        SettingsError: the route cannot be used.
    """
    mailer = open_mailer(timeouts=_HURRIED)
    faults: list[RelayUnavailable] = []
    known = Event()

    def converse() -> None:
        try:
            mailer.open()
            # Before anybody else connects: some servers count.
            mailer.close()
        except RelayUnavailable as error:
            faults.append(error)
        finally:
            known.set()

    Thread(target=converse, name="asking", daemon=True).start()
    if not known.wait(PATIENCE.total_seconds()):
        return RelayUnavailable(f"The mail server has not answered within {PATIENCE.total_seconds():.0f} seconds.")
    return next(iter(faults), None)
