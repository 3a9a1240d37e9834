from tests.support.building import House


def test_smoke(house: House):
    house.sequence("trust", "one", "two", "three")
    house.publish()
    maria = house.sign_up(start_now=True)
    assert maria.due() == house.now
    house.live(weeks=5)
    assert maria.steps() == ["one", "two", "three"]
    print([m.date for m in maria.letters()])
    assert maria.state() == "finished"


import pytest


@pytest.mark.parametrize("n", range(4))
def test_smoke2(house: House, n):
    house.sequence("trust", "one", "two", "three")
    house.publish()
    maria = house.sign_up(start_now=True)
    house.live(weeks=5)
    assert maria.steps() == ["one", "two", "three"]
