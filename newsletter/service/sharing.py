"""A worker's share of the connections to the mail server, where the fleet may have so many in all."""

from __future__ import annotations

from newsletter.store import workers
from newsletter.store.database import Database


class Sharing:
    """Shares out connections among the workers whose lease lives.

    Args:
        most: for all workers together; None for as many as each wants.
        wanted: by each worker, the one for people who wait included.
    """

    def __init__(self, *, database: Database, most: int | None, wanted: int) -> None:
        self._database = database
        self._most = most
        self._wanted = wanted

    def renew(self, worker: str, *, in_use: int) -> int:
        """How many connections a worker may have from now on.

        Args:
            in_use: how many it has. Those that it has to give up stay its own until it says that they are closed.
        """
        if self._most is None:
            return self._wanted
        with self._database.write() as connection:
            return workers.share_connections(connection, worker, most=self._most, wanted=self._wanted, in_use=in_use)
