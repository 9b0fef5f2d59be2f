import pytest

from infra.spool import Spool

ABOUT = {"run": "r"}


def put(spool, *numbers):
    for number in numbers:
        spool.put({"kind": "n", "n": number})


def numbers(spool):
    return [entry["n"] for entry in spool.first(100)]


def test_what_was_not_delivered_is_there_after_a_restart(tmp_path):
    with Spool(tmp_path / "s", ABOUT) as spool:
        put(spool, 1, 2, 3)
        spool.delivered(2)
    with Spool(tmp_path / "s") as spool:
        assert (numbers(spool), spool.about) == ([3], ABOUT)
        put(spool, 4)
        assert numbers(spool) == [3, 4]


def test_a_line_that_a_crash_cut_short_is_left_out_and_written_over(tmp_path):
    with Spool(tmp_path / "s", ABOUT) as spool:
        put(spool, 1)
    with (tmp_path / "s").open("a") as file:
        file.write('{"kind": "n", "n"')
    with Spool(tmp_path / "s", ABOUT) as spool:
        put(spool, 2)
    with Spool(tmp_path / "s") as spool:
        assert numbers(spool) == [1, 2]


def test_the_file_goes_when_everything_was_delivered(tmp_path):
    with Spool(tmp_path / "s", ABOUT) as spool:
        put(spool, 1)
        spool.delivered(1)
        assert (tmp_path / "s").exists(), "a run that is at work keeps its file"
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_send_the_same(tmp_path):
    with Spool(tmp_path / "s"), pytest.raises(BlockingIOError):
        Spool(tmp_path / "s")


def test_without_a_file_it_is_a_queue_in_memory():
    with Spool() as spool:
        put(spool, 1, 2)
        spool.delivered(1)
        assert (numbers(spool), len(spool)) == ([2], 1)
