"""A mail server that is slow at every stage, and counts; and chance, which chooses the moment."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from tests.support.program import Running
from tests.support.smtp_server import Session, SmtpServer

STAGES = ("banner", "ehlo", "mail", "rcpt", "data", "body", "dot")
PAUSES = (0.0, 0.005, 0.02, 0.06)


@dataclass(frozen=True)
class Scene:
    """How many conversations have come to each stage, and the chance that rules."""

    chance: random.Random
    passed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dawdle:
    """Notes that a conversation has come to a stage, and takes its time: none, little or some."""

    scene: Scene
    stage: str
    speaks: ClassVar[bool] = False

    def take(self, session: Session) -> None:
        self.scene.passed[self.stage] += 1
        session.sleep(self.scene.chance.choice(PAUSES))


def dawdle(server: SmtpServer, chance: random.Random) -> Scene:
    """Let a mail server dawdle at every stage from now on."""
    scene = Scene(chance)
    for stage in STAGES:
        server.script(stage, Dawdle(scene, stage))
    return scene


def wait_for_the_moment(worker: Running, scene: Scene) -> None:
    """Wait, at random: for any moment of a start, or until conversations have come to a stage some times more."""
    chance = scene.chance
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0.02, 0.5))
        return
    stage = chance.choice(STAGES[2:])
    times = scene.passed[stage] + chance.randint(1, 25)
    until = time.monotonic() + 20
    while scene.passed[stage] < times and worker.code is None and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(chance.choice((0.0, 0.002, 0.01, 0.03)))


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it did not in time.
    """
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            message = f"Nothing of the kind within {seconds} s."
            raise TimeoutError(message)
        time.sleep(0.01)


def kill_when(worker: Running, server: SmtpServer, condition: Callable[[SmtpServer], object]) -> None:
    """Kill a worker as soon as something holds at the mail server."""
    worker.wait_for(lambda: condition(server))
    worker.kill()


def readers(count: int) -> list[str]:
    """The addresses of so many seeded readers, in their order as text."""
    return sorted(f"reader-{number:03}@example.org" for number in range(count))
