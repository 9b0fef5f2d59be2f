import threading

import faiss
import pytest

from stages.spread import InThreads, Spread


def doubled(shard, offset):
    return 2 * shard + offset


def test_answers_come_in_the_order_of_the_shards_whoever_is_ready_first():
    last_is_done = threading.Event()

    def work(shard):
        if shard == 3:
            last_is_done.set()
        assert shard or last_is_done.wait(20)
        return shard

    assert list(InThreads(2)(work, range(4))) == [0, 1, 2, 3]


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_shared_reaches_every_call(threads):
    assert list(InThreads(threads)(doubled, [5, 7], 1)) == [11, 15]
    assert list(InThreads(threads)(doubled, [], 1)) == []
    assert isinstance(InThreads(threads), Spread)


def test_what_a_shard_raises_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(InThreads(2)(lambda shard: 1 / shard, [1, 0, 2]))


def test_faiss_takes_one_thread_in_each_of_ours_and_as_many_as_before_in_the_caller():
    before = faiss.omp_get_max_threads()
    inside = list(InThreads(2)(lambda _: faiss.omp_get_max_threads(), range(4)))
    assert inside == [1] * 4
    assert faiss.omp_get_max_threads() == before
