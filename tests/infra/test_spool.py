import pytest

from infra.spool import Spool
from tests.infra.full_disk import files_of_at_most

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


def test_what_a_full_disk_refuses_waits_in_memory_and_is_written_once_there_is_room(tmp_path):
    with Spool(tmp_path / "s", ABOUT) as spool:
        put(spool, 1)
        before = (tmp_path / "s").read_bytes()
        with files_of_at_most(len(before) + 10):
            for number in (2, 3):
                with pytest.raises(OSError, match="too large"):
                    put(spool, number)
            assert (numbers(spool), spool.in_memory_only) == ([1, 2, 3], 2)
            spool.delivered(1)
        assert (tmp_path / "s").read_bytes() == before, "no half line is left"
        put(spool, 4)
        assert (numbers(spool), spool.in_memory_only) == ([2, 3, 4], 0)
    with Spool(tmp_path / "s") as spool:
        assert numbers(spool) == [2, 3, 4]


def test_a_spool_on_a_full_disk_is_closed_without_an_error_and_says_what_is_lost(tmp_path):
    spool = Spool(tmp_path / "s", ABOUT)
    put(spool, 1)
    with files_of_at_most((tmp_path / "s").stat().st_size):
        with pytest.raises(OSError, match="too large"):
            put(spool, 2)
        spool.close()
    assert (len(spool), spool.in_memory_only) == (2, 1)
    with Spool(tmp_path / "s") as spool:
        assert numbers(spool) == [1]


def test_what_was_delivered_from_memory_alone_marks_nothing_of_the_file(tmp_path):
    spool = Spool(tmp_path / "s", ABOUT)
    put(spool, 1)
    with files_of_at_most((tmp_path / "s").stat().st_size):
        with pytest.raises(OSError, match="too large"):
            put(spool, 2)
        spool.delivered(2)
    spool._file.close()  # as kill -9 does
    with Spool(tmp_path / "s") as spool:
        put(spool, 3)
    with Spool(tmp_path / "s") as spool:
        assert numbers(spool) == [3]
