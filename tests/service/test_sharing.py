"""The fleet has no more connections than its mail server allows."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING

from newsletter.store import workers
from tests.support.building import House

if TYPE_CHECKING:
    from collections.abc import Callable


def held(house: House) -> dict[str, int]:
    """What each worker has, or may open."""
    return {row["id"]: row["connections"] for row in house.rows("worker")}


def test_without_a_cap_each_worker_has_what_it_wants(house: House):
    assert house.app.sharing.renew("nobody", in_use=0) == 5
    assert house.rows("worker") == []


def test_workers_that_ask_at_once_are_not_both_given_the_rest(open_house: Callable[..., House]):
    house = open_house(fleet_connections=5)
    for name in ("first", "second"):
        house.app.rescuing.enrol(name, host="here")
    second = Thread(target=house.app.sharing.renew, args=("second",), kwargs={"in_use": 0})
    with house.app.database.write() as connection:
        assert workers.share_connections(connection, "first", most=5, wanted=5, in_use=0) == 3
        second.start()
        second.join(timeout=0.3)  # long enough to see it go wrong; where it waits, it waits for the commit
    second.join()
    assert held(house) == {"first": 3, "second": 2}


def test_what_a_worker_has_not_closed_is_given_to_nobody(open_house: Callable[..., House]):
    house = open_house(fleet_connections=5)
    for name in ("first", "second"):
        house.app.rescuing.enrol(name, host="here")
        if name == "first":
            assert house.app.sharing.renew("first", in_use=0) == 5
    assert house.app.sharing.renew("second", in_use=0) == 0
    assert house.app.sharing.renew("first", in_use=5) == 3
    assert held(house) == {"first": 5, "second": 0}
    assert house.app.sharing.renew("second", in_use=0) == 0
    assert house.app.sharing.renew("first", in_use=3) == 3
    assert house.app.sharing.renew("second", in_use=0) == 2


def test_what_a_lost_or_ended_worker_had_is_free(open_house: Callable[..., House]):
    house = open_house(fleet_connections=5)
    with house.app.database.write() as connection:
        workers.enrol_worker(connection, "lost", host="here", lease=timedelta(seconds=60))
    assert house.app.sharing.renew("lost", in_use=0) == 5
    with house.app.database.write() as connection:
        workers.renew_lease(connection, "lost", lease=timedelta(seconds=-1))
    house.app.rescuing.enrol("second", host="here")
    assert house.app.sharing.renew("second", in_use=0) == 5
    assert house.app.rescuing.retire("second")
    assert house.app.sharing.renew("second", in_use=5) == 0
    house.app.rescuing.enrol("third", host="here")
    assert house.app.sharing.renew("third", in_use=0) == 5
