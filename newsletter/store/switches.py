"""Switches of the whole installation; each is on until somebody turns it off."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, exists, not_, select, update
from sqlalchemy.sql.elements import ColumnElement

from newsletter.store.statements import insert_or_nothing
from newsletter.store.tables import switch

SENDING = "sending"
"""The switch that stops and starts all sending."""


def set_switch(connection: Connection, name: str, *, is_on: bool, now: datetime) -> None:
    """Turn a switch of the whole installation."""
    values = {"name": name, "is_on": is_on, "at": now}
    if not insert_or_nothing(connection, switch, values):
        connection.execute(update(switch).where(switch.c.name == name).values(is_on=is_on, at=now))


def switch_is_on(connection: Connection, name: str) -> bool:
    """Whether a switch is on; every switch is until it is turned off."""
    is_on = connection.scalar(select(switch.c.is_on).where(switch.c.name == name))
    return is_on is None or is_on


def sending_is_stopped() -> ColumnElement[bool]:
    """For a statement that must do nothing while sending is stopped."""
    return exists().where(switch.c.name == SENDING, not_(switch.c.is_on))
