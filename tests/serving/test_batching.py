import asyncio
import threading
import time

import pytest

from serving.batching import Batcher
from serving.errors import Refusal


class Device:
    """Doubles numbers, a step of 5 ms at a time, and remembers which were together."""

    def __init__(self, steps=2, poison=None):
        self.steps, self.poison, self.batches, self.step = steps, poison, [], 0
        self.threads, self.hold = set(), threading.Event()
        self.hold.set()

    def __call__(self, items, gone):
        self.batches.append(list(items))
        self.threads.add(threading.current_thread())
        self.hold.wait(10)
        for step in range(self.steps):
            self.step = step
            if gone():
                raise InterruptedError
            time.sleep(0.005)
        if self.poison in items:
            raise ArithmeticError(f"{self.poison} is poison")
        return [2 * item for item in items]


def serve(work, device, *, batch=4, wait_s=0.05, queue=64, slowdown=0.0):
    """Run an asynchronous test with a batcher, and see that it closes."""

    async def run():
        batcher = Batcher(device, batch=batch, wait_s=wait_s, queue=queue, slowdown=slowdown)
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            device.hold.set()
            await batcher.close()
            assert (batcher.waiting, batcher.running) == (0, 0)

    return asyncio.run(run())


def asks(batcher, items, key="a", size=1):
    return [asyncio.ensure_future(batcher.submit(key, item, size)) for item in items]


async def busy(batcher, device, item=0, key="first"):
    """Keep the device busy with one request until ``device.hold`` is set."""
    device.hold.clear()
    first = asyncio.ensure_future(batcher.submit(key, item))
    while not device.batches:
        await asyncio.sleep(0.001)
    return first


def test_requests_that_wait_together_run_together_and_each_gets_its_own_answer():
    device = Device()

    async def work(batcher):
        first = await busy(batcher, device)
        rest = asks(batcher, [1, 2, 3, 4, 5])
        await asyncio.sleep(0.01)
        device.hold.set()
        await first
        return await asyncio.gather(*rest)

    done = serve(work, device)
    assert [answer.result for answer in done] == [2, 4, 6, 8, 10]
    assert device.batches == [[0], [1, 2, 3, 4], [5]]
    assert [answer.batch for answer in done] == [4, 4, 4, 4, 1]
    assert len(device.threads) == 1


def test_unlike_requests_stay_apart_and_the_oldest_goes_first():
    device = Device()

    async def work(batcher):
        first = await busy(batcher, device)
        rest = [
            asks(batcher, [item], key)[0] for item, key in zip([1, 2, 3, 4], "abab", strict=True)
        ]
        await asyncio.sleep(0.01)
        device.hold.set()
        await asyncio.gather(first, *rest)

    serve(work, device, wait_s=0)
    assert device.batches == [[0], [1, 3], [2, 4]]


def test_a_batch_counts_pictures_and_a_larger_request_runs_alone():
    device = Device()

    async def work(batcher):
        first = await busy(batcher, device)
        rest = [*asks(batcher, [1], size=3), *asks(batcher, [2], size=2), *asks(batcher, [3])]
        rest += asks(batcher, [4], size=9)
        await asyncio.sleep(0.01)
        device.hold.set()
        await asyncio.gather(first, *rest)

    serve(work, device, wait_s=0)
    assert device.batches == [[0], [1, 3], [2], [4]]


def test_a_single_client_never_waits_for_company():
    async def work(batcher):
        return [await batcher.submit("a", item) for item in range(5)]

    done = serve(work, Device(), wait_s=5.0)
    assert max(answer.queued_s for answer in done) < 1.0


def test_clients_that_come_back_together_are_waited_for():
    device = Device()

    async def client(batcher, number):
        for turn in range(4):
            await batcher.submit("a", number)
            await asyncio.sleep(0.002 * number + 0.001 * turn)

    async def work(batcher):
        await asyncio.gather(*(client(batcher, number) for number in range(4)))

    serve(work, device, wait_s=0.5)
    assert len(device.batches) <= 6, device.batches


def test_a_full_queue_refuses_and_says_when_to_come_back():
    device = Device()

    async def work(batcher):
        await asyncio.gather(*asks(batcher, [1, 2, 3]))  # so that a rate is known
        device.batches.clear()
        first = await busy(batcher, device)
        waiting = asks(batcher, [1, 2, 3])
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal, match="4 pictures are ahead") as refused:
            await batcher.submit("a", 4)
        device.hold.set()
        await asyncio.gather(first, *waiting)
        return refused.value

    refusal = serve(work, device, queue=3)
    assert (refusal.code, refusal.status, refusal.retry_after_s) == ("overloaded", 429, 1)


def test_come_back_later_grows_with_what_is_ahead():
    async def work(batcher):
        await asyncio.gather(*asks(batcher, [1, 2, 3, 4], size=1))
        device.steps, per_s = 400, batcher.per_s
        device.batches.clear()
        first = await busy(batcher, device)
        waiting = asks(batcher, [1], size=5000)
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal) as refused:
            await batcher.submit("a", 4)
        for task in [first, *waiting]:
            task.cancel()
        return refused.value.retry_after_s, 5001 / per_s

    device = Device()
    retry_after_s, expected_s = serve(work, device, queue=5)
    assert expected_s <= retry_after_s <= expected_s + 1


def test_a_cancelled_request_is_forgotten_while_it_waits():
    device = Device()

    async def work(batcher):
        first = await busy(batcher, device)
        kept, dropped = asks(batcher, [1, 2])
        await asyncio.sleep(0.01)
        dropped.cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting == 1
        device.hold.set()
        await asyncio.gather(first, kept)

    serve(work, device)
    assert device.batches == [[0], [1]]


def test_a_batch_stops_at_its_next_step_only_when_everybody_has_left():
    device = Device(steps=1000)

    async def work(batcher):
        together = asks(batcher, [1, 2])
        while device.step < 3:
            await asyncio.sleep(0.005)
        together[0].cancel()
        before = device.step
        while device.step < before + 5:
            await asyncio.sleep(0.005)
        together[1].cancel()
        await asyncio.sleep(0.05)
        return device.step, await asyncio.gather(*together, return_exceptions=True)

    stopped_at, answers = serve(work, device, wait_s=0.1)
    assert stopped_at < 900
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)


def test_one_poison_request_fails_alone(caplog):
    device = Device(poison=2)

    async def work(batcher):
        first = await busy(batcher, device)
        rest = asks(batcher, [1, 2, 3])
        await asyncio.sleep(0.01)
        device.hold.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    one, two, three = serve(work, device)
    assert (one.result, three.result) == (2, 6)
    assert isinstance(two, ArithmeticError)
    assert device.batches == [[0], [1, 2, 3], [1], [2], [3]]
    assert "each is run alone" in caplog.text


def test_closing_finishes_what_was_taken_and_takes_nothing_new():
    device = Device()

    async def work(batcher):
        first = await busy(batcher, device)
        rest = asks(batcher, [1, 2], key="a") + asks(batcher, [3], key="b")
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal, match="stopping") as refused:
            await batcher.submit("a", 4)
        device.hold.set()
        await asyncio.gather(first, *rest, closing)
        return refused.value.code, [task.result().result for task in rest]

    assert serve(work, device) == ("shutting_down", [2, 4, 6])


def test_closing_refuses_what_is_left_after_its_time():
    device = Device(steps=100_000)

    async def work(batcher):
        tasks = asks(batcher, [1], key="a") + asks(batcher, [2], key="b")
        await asyncio.sleep(0.03)
        began = time.monotonic()
        await batcher.close(drain_s=0.1)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        return time.monotonic() - began, [answer.code for answer in answers]

    took_s, codes = serve(work, device)
    assert took_s < 2
    assert codes == ["shutting_down", "shutting_down"]


def test_what_would_take_too_long_is_refused_at_once():
    device = Device(steps=20)  # 100 ms, however many together

    async def work(batcher):
        await batcher.submit("a", 0)
        running = asks(batcher, [1])[0]
        await asyncio.sleep(0.02)
        joined = asks(batcher, [2, 3, 4, 5])  # until four were seen together: four times one
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(Refusal) as refused:  # it would be alone behind them
            await batcher.submit("a", 6)
        assert time.monotonic() - began < 0.02
        answers = await asyncio.gather(running, *joined)
        assert (await batcher.submit("a", 7)).result == 14
        return refused.value.code, [answer.queued_s + answer.running_s for answer in answers]

    code, took_s = serve(work, device, slowdown=5.2)
    assert code == "overloaded"
    assert max(took_s) < 5.2 * 0.1
    assert device.batches == [[0], [1], [2, 3, 4, 5], [7]]


def test_a_short_request_may_wait_for_a_long_one():
    device = Device(steps=2)

    async def work(batcher):
        await batcher.submit("short", 0, work=2)
        device.steps = 40
        running = asyncio.ensure_future(batcher.submit("long", 1, work=40))
        await asyncio.sleep(0.02)
        short = await batcher.submit("short", 2, work=2)
        await running
        return short.result

    assert serve(work, device, slowdown=2.0) == 4
