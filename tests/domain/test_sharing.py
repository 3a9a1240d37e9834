"""Workers share the connections that a mail server allows in all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from newsletter.domain.sharing import LEAST, share_of


def test_one_alone_has_what_it_wants_up_to_all():
    assert share_of(10, wanted=5, others=[]) == 5
    assert share_of(10, wanted=50, others=[]) == 10


def test_who_comes_second_gets_half_once_the_first_has_let_go_of_it():
    assert share_of(10, wanted=50, others=[10]) == 0
    assert share_of(10, wanted=50, others=[0]) == 5
    assert share_of(10, wanted=50, others=[5]) == 5


def test_where_there_are_too_few_for_two_workers_the_first_keeps_them_and_the_second_stands_by():
    assert share_of(3, wanted=5, others=[0]) == 3
    assert share_of(3, wanted=5, others=[3]) == share_of(3, wanted=5, others=[2]) == 0


@given(
    most=st.integers(2, 60),
    wanted=st.integers(2, 30),
    asks=st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=80),
)
def test_together_they_never_have_more_than_all_and_in_the_end_each_has_its_part(
    most: int, wanted: int, asks: list[tuple[int, bool]]
):
    """Workers come, ask in any order, and hang up what they have to give up when they ask the next time."""
    held: dict[int, int] = {}
    for number, leaves in [*asks, *[(number, False) for number in range(8)] * 3]:
        if leaves:
            held.pop(number, None)
            continue
        others = [connections for other, connections in held.items() if other != number]
        held[number] = share_of(most, wanted=wanted, others=others)
        assert sum(held.values()) <= most
    assert max(held.values()) >= LEAST
    assert all(connections == 0 or connections >= LEAST for connections in held.values())
    if most // 8 >= LEAST:
        assert min(held.values()) >= min(wanted, most // 8)
