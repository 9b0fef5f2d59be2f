import pytest

from serving.pace import Pace


def test_nothing_is_predicted_before_anything_was_seen():
    assert Pace().seconds(1, 1.0) == 0
    assert Pace().pictures_per_s == 0


def test_a_size_that_was_seen_takes_what_it_took_and_others_in_proportion_to_the_nearest():
    pace = Pace()
    pace.saw(1, 10.0, 1.0)
    pace.saw(4, 10.0, 2.0)
    assert pace.seconds(1, 10.0) == pytest.approx(1.0)
    assert pace.seconds(1, 20.0) == pytest.approx(2.0)
    assert pace.seconds(4, 10.0) == pytest.approx(2.0)
    assert pace.seconds(8, 10.0) == pytest.approx(4.0)
    assert pace.seconds(3, 10.0) == pytest.approx(1.5)


def test_what_was_seen_lately_counts_more():
    pace = Pace()
    pace.saw(2, 1.0, 1.0)
    for _ in range(20):
        pace.saw(2, 1.0, 4.0)
    assert pace.seconds(2, 1.0) == pytest.approx(4.0, rel=0.01)
    assert pace.pictures_per_s == pytest.approx(0.5, rel=0.01)


def test_a_promise_leaves_room_for_what_varies():
    steady, shaky = Pace(), Pace()
    for turn in range(40):
        steady.saw(1, 1.0, 1.0)
        shaky.saw(1, 1.0, 0.5 + turn % 2)
    assert steady.seconds(1, 1.0, surely=True) == pytest.approx(1.0)
    assert shaky.seconds(1, 1.0) == pytest.approx(1.0, abs=0.2)
    assert 1.8 < shaky.seconds(1, 1.0, surely=True) < 2.3
