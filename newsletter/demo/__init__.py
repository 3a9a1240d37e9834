"""`newsletter demo`: a subscriber's weeks in a minute, through everything that is real."""

from __future__ import annotations

from rich.console import Console

from newsletter.demo import stage, story
from newsletter.demo.interruption import Interruption
from newsletter.demo.show import Show
from newsletter.errors import InvalidChoice

WEEK_SECONDS = 2.0
"""Real seconds in which a week passes, unless somebody says otherwise."""

_MOST_WEEKS = 520
_MOST_WEEK_SECONDS = 7 * 24 * 3600
_INTERRUPTED = 130


def run_demo(weeks: int | None, week_seconds: float, port: int | None, exit_when_done: bool) -> int:  # noqa: FBT001
    """Play the story; then end, or go on until Ctrl-C for whoever tries it by hand.

    Args:
        weeks: how many local weeks are played before the reader leaves; None for the whole story.
        week_seconds: real seconds in which a week passes.
        port: where the site is served on this machine; None for 8000, or a free one where that is taken.
        exit_when_done: end by itself.

    Returns:
        The exit code: 0 where every expectation held, 1 where one did not, 130 where Ctrl-C broke it off.

    Raises:
        InvalidChoice: an option that cannot be; `field` names it.
        NewsletterError: the port is taken, or the demo cannot be set up.
    """
    _check(weeks, week_seconds, port)
    stage.be_quiet()
    console = Console()
    interruption = Interruption()
    try:
        with interruption.listen():
            show = Show(
                console, weeks=weeks or story.DEFAULT_WEEKS, week_seconds=week_seconds, nap=interruption.nap
            )  # fmt: skip
            return show.run(port, exit_when_done=exit_when_done)
    except KeyboardInterrupt:
        console.print("Stopped half-way. The temporary folder is removed.")
        return _INTERRUPTED


def _check(weeks: int | None, week_seconds: float, port: int | None) -> None:
    if weeks is not None and not 1 <= weeks <= _MOST_WEEKS:
        whole = story.DEFAULT_WEEKS
        message = f"--weeks {weeks}: write a number from 1 to {_MOST_WEEKS}; {whole} is the whole story."
        raise InvalidChoice(message, field="weeks")
    if not 0 <= week_seconds <= _MOST_WEEK_SECONDS:  # no number at all is refused by this, too
        message = f"--week-seconds {week_seconds:g}: write how many a week shall take, such as {WEEK_SECONDS:g}."
        raise InvalidChoice(message, field="week_seconds")
    if port is not None and not 0 <= port <= 65535:  # noqa: PLR2004  (as TCP has it)
        message = f"--port {port}: write a number from 1 to 65535, or leave it away."
        raise InvalidChoice(message, field="port")
