"""One run of the demo: sets the stage, plays the story, shows the table, and stays open for visitors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from newsletter.clock import FixedClock
from newsletter.demo import stage, story
from newsletter.demo.expectations import Ledger
from newsletter.demo.inbox import Scene, create_demo_app
from newsletter.demo.leaper import Leaper, Stance, StandstillError
from newsletter.demo.mailbox import Mailbox
from newsletter.demo.operator import Operator
from newsletter.demo.telling import Chronicle, Kind
from newsletter.errors import NewsletterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_STANCES = {
    Stance.LEAPING: "The clock stands while a letter is on its way, and leaps to whatever is due next.",
    Stance.ASKED: "The clock stands: somebody was asked to confirm.",
    Stance.IDLE: "The clock stands: nothing is due to anybody.",
}


class Show:
    """One run.

    Args:
        weeks: how many local weeks are played before the reader leaves.
        week_seconds: real seconds in which a week passes.
        nap: sleeps so many seconds, and raises KeyboardInterrupt where somebody wishes to end.
    """

    def __init__(
        self, console: Console, *, weeks: int, week_seconds: float, nap: Callable[[float], None] = time.sleep
    ) -> None:
        self._console = console
        self._weeks = weeks
        self._week_seconds = week_seconds
        self._nap = nap
        self._clock = FixedClock(story.BEGINS)
        self._chronicle = Chronicle(clock=self._clock, timezone=story.TIMEZONE, console=console)
        self._ledger = Ledger(
            story.EXPECTATIONS, weeks=weeks, on_failure=lambda text: self._chronicle.tell(Kind.FAULT, text)
        )

    def run(self, port: int | None, *, exit_when_done: bool) -> int:
        """Everything from the temporary folder to its end; the exit code.

        Raises:
            NewsletterError: the port is taken, or the demo cannot be set up.
        """
        with stage.listen(port) as listener, stage.temporary_folder() as folder:
            self._print("Setting up: a database, a maildir, a copy of the letters, the scheduler and the site.")
            site_url = f"http://{stage.HOST}:{listener.getsockname()[1]}"
            with stage.open_stage(folder, self._clock, base_url=site_url) as app:
                leaper = Leaper(
                    app, self._clock, week_seconds=self._week_seconds, nap=self._nap,
                    on_asked=lambda: self._chronicle.tell(Kind.CLOCK, _STANCES[Stance.ASKED]),
                )  # fmt: skip
                mailbox = Mailbox(stage.maildir(folder))
                scene = Scene(
                    mailbox=mailbox, chronicle=self._chronicle, ledger=self._ledger, timezone=story.TIMEZONE,
                    place=story.PLACE, now=self._clock.now, state=lambda: _STANCES[leaper.stance],
                )  # fmt: skip
                with stage.serve(create_demo_app(app, scene), listener):
                    self._welcome(site_url)
                    played = story.Story(
                        chronicle=self._chronicle, ledger=self._ledger, leaper=leaper, mailbox=mailbox,
                        operator=Operator(app, app.content_dir), site_url=site_url, weeks=self._weeks,
                        now=self._clock.now,
                    )  # fmt: skip
                    return self._play(played, leaper, site_url, exit_when_done=exit_when_done)

    def _play(self, played: story.Story, leaper: Leaper, site_url: str, *, exit_when_done: bool) -> int:
        try:
            played.play()
        except NewsletterError as trouble:
            self._chronicle.tell(Kind.FAULT, f"The story cannot go on. {trouble}")
        all_held = self._ledger.complete()
        self._console.print()
        self._console.print(self._ledger.table())
        if not exit_when_done:
            self._stay_open(played, leaper, site_url)
        return 0 if all_held else 1

    def _welcome(self, site_url: str) -> None:
        self._print("Everything happens on this machine, in a temporary folder; no mail leaves it.")
        self._print(f"  The inbox, to watch   {site_url}/inbox")
        self._print(f"  The first page        {site_url}/")
        self._print(f"A week passes in {self._week_seconds:g} seconds. Times are those of {story.PLACE}.")
        self._print("")

    def _stay_open(self, played: story.Story, leaper: Leaper, site_url: str) -> None:
        """Go on for visitors until Ctrl-C."""
        self._print("")
        self._print("The story is told. The letters can still be read, and you can try it yourself:")
        self._print(f"  {site_url}/inbox  has every mail")
        self._print(f"  {site_url}/  takes any address; the confirmation comes to the same inbox")
        self._print("Ctrl-C ends it and removes the temporary folder.")
        stuck = ""
        try:
            while True:
                try:
                    leaper.drift()
                    stuck = ""
                except StandstillError as trouble:
                    if str(trouble) != stuck:
                        stuck = str(trouble)
                        self._chronicle.tell(Kind.FAULT, stuck)
                played.look_for_mail()
        except KeyboardInterrupt:
            self._print("")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
