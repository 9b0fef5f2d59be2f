import asyncio
import time
from itertools import pairwise

import pytest

from stages.web.pace import MISSES, MISSING_PAUSE_S, MISSING_S, Pace
from stages.web.refusal import Refused


def pace(**changes):
    settings = {"concurrency": 64, "per_host": 8, "interval_s": 0.0, "patience_s": 60.0}
    return Pace(**settings | changes)


async def visit(pace, host, held_s=0.0, delay_s=0.0, log=None):
    async with pace.turn(host, delay_s):
        if log is not None:
            log.append(time.monotonic())
        await asyncio.sleep(held_s)


async def most_at_once(pace, hosts):
    busy = most = 0

    async def one(host):
        nonlocal busy, most
        async with pace.turn(host):
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.005)
            busy -= 1

    await asyncio.gather(*map(one, hosts))
    return most


def test_one_host_and_all_hosts_have_their_bounds():
    async def go():
        assert await most_at_once(pace(per_host=3), ["a"] * 20) == 3
        assert await most_at_once(pace(per_host=3), ["a"] * 20 + ["b"] * 20) == 6
        assert await most_at_once(pace(concurrency=4), list("abcdefghij")) == 4

    asyncio.run(go())


def test_requests_to_one_host_begin_evenly_and_others_do_not_wait():
    async def go():
        slow, log, other = pace(interval_s=0.05), [], []
        rows = [visit(slow, "a", log=log) for _ in range(4)]
        await asyncio.gather(*rows, visit(slow, "b", log=other))
        gaps = [b - a for a, b in pairwise(log)]
        assert min(gaps) >= 0.045
        assert max(gaps) < 0.5
        assert other[0] < log[1]

    asyncio.run(go())


def test_a_delay_that_the_host_wants_counts_if_it_is_longer():
    async def go():
        log = []
        paced = pace(interval_s=0.01)
        await asyncio.gather(*(visit(paced, "a", delay_s=0.06, log=log) for _ in range(3)))
        assert log[2] - log[0] >= 0.11

    asyncio.run(go())


def test_a_short_rest_is_waited_for_and_a_long_one_is_not():
    async def go():
        paced, log = pace(patience_s=10.0), []
        began = time.monotonic()
        paced.rest("a", 0.08, "wants it")
        await visit(paced, "a", log=log)
        assert log[0] - began >= 0.075
        paced.rest("a", 3600.0, "wants 3600 s of rest")
        with pytest.raises(Refused) as caught:
            await visit(paced, "a")
        assert caught.value.error == "host_paused"
        assert "wants 3600 s of rest" in caught.value.detail
        await visit(paced, "b")

    asyncio.run(go())


def test_a_host_that_cannot_be_reached_again_and_again_is_left_alone_for_a_while():
    async def go():
        now = [0.0]
        paced = pace(clock=lambda: now[0])
        for _ in range(MISSES - 1):
            paced.missed("a")
        paced.reached("a")
        paced.missed("a")
        await visit(paced, "a")
        for _ in range(MISSES):
            paced.missed("a")
        await visit(paced, "a")  # it may be just restarting
        now[0] += MISSING_S
        paced.missed("a")
        with pytest.raises(Refused, match="could not be reached"):
            await visit(paced, "a")
        now[0] += MISSING_PAUSE_S + 1
        await visit(paced, "a")

    asyncio.run(go())


def test_a_turn_is_given_back_whatever_happens_in_it():
    async def go():
        paced = pace(per_host=1, concurrency=1)
        for _ in range(3):
            with pytest.raises(OSError, match="mine"):
                async with paced.turn("a"):
                    raise OSError("mine")
        await asyncio.wait_for(visit(paced, "a"), 1)

    asyncio.run(go())


def test_hosts_of_which_nothing_is_to_be_remembered_are_forgotten(monkeypatch):
    async def go():
        paced = pace()
        paced.rest("resting", 50.0, "wants it")
        for n in range(50):
            await visit(paced, f"h{n}")
        assert len(paced._hosts) <= 11
        assert "resting" in paced._hosts

    monkeypatch.setattr("stages.web.pace._KEPT_HOSTS", 10)
    asyncio.run(go())
