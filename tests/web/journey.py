"""What the tests of the site do again and again: look into the database, and find a reader's links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import select

from newsletter.store import tables
from newsletter.tokens import Purpose

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from starlette.testclient import TestClient

    from newsletter.bootstrap import App

ADDRESS = "maria@example.org"
FORM = {
    "email": ADDRESS,
    "sequence": "trust",
    "weekday": "tue",
    "time": "19:30",
    "timezone": "Europe/Berlin",
    "country": "GB",
}


def everything(app: App) -> dict[str, list[str]]:
    """All that is written anywhere, to be compared."""
    with app.database.read() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(select(table)))
            for table in tables.metadata.sorted_tables
        }


def states(app: App) -> dict[str, str]:
    """The state of each subscription, by sequence."""
    with app.database.read() as connection:
        columns = tables.subscription.c
        rows = connection.execute(select(columns.sequence_key, columns.state))
        return {sequence: str(state) for sequence, state in rows}


def only_id(app: App, table_name: str, **wanted: object) -> UUID:
    """The id of the only row of a table with these values."""
    table = tables.metadata.tables[table_name]
    with app.database.read() as connection:
        query = select(table.c.id).filter_by(**wanted)
        identifier: UUID = connection.scalars(query).one()
        return identifier


def confirm_token(app: App, *, expires_at: datetime | None = None) -> str:
    """The token in the only confirmation mail."""
    return app.signer.sign(Purpose.CONFIRM, only_id(app, "delivery", kind="confirmation"), expires_at=expires_at)


def preferences_token(app: App) -> str:
    """The token of the only reader's own page."""
    return app.signer.sign(Purpose.PREFERENCES, only_id(app, "subscriber"), generation=1)


def leave_token(app: App, sequence: str = "trust") -> str:
    """The token in the foot of a letter of `sequence`."""
    return app.signer.sign(Purpose.UNSUBSCRIBE, only_id(app, "subscription", sequence_key=sequence))


def subscribe(client: TestClient, app: App, *, start: str = "slot", **choices: str) -> str:
    """Go the whole way from the form to the first page of one's own; its path."""
    assert client.post("/subscribe", data=FORM | choices).status_code == 200
    answer = client.post(f"/confirm/{confirm_token(app)}", data={"start": start}, follow_redirects=False)
    assert answer.status_code == 303
    return str(answer.headers["location"])


def text_of(html: str) -> str:
    """The words of a page, as a reader sees them."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("&#39;", "'").strip()
