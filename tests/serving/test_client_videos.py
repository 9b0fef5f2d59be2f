import asyncio

import pytest

from serving.client import AsyncVisage, Visage
from serving.client_videos import AsyncVideos, Videos
from serving.errors import Refusal
from serving.jobs.worker import make_runner
from tests.serving.doors import door, faces, serving, she, videos
from tests.serving.jobs.drawers import Sums


@pytest.fixture
def served(tmp_path):
    app, _ = door(records=str(tmp_path / "serving.db"), videos=videos(tmp_path / "videos"))
    runner = make_runner(app.state.door.recipe, faces(), Sums())
    runner.start()
    with serving(app) as url:
        yield url
    runner.stop(30)


def test_a_video_goes_through_all_of_it(served):
    with Visage(served) as visage:
        mine = Videos(visage)
        asked = mine.ask("a dance", identity=[she()], seconds=0.5, seed=7, once="order-1")
        assert (
            mine.ask("a dance", identity=[she()], seconds=0.5, seed=7, once="order-1")["id"]
            == (asked["id"])
        )
        assert mine.wait(asked["id"], 60)[4:8] == b"ftyp"
        done = mine.get(asked["id"])
        assert [one["id"] for one in mine.all()] == [done["id"]]
        assert mine.delete(done["id"])["status"] == "completed"
        with pytest.raises(Refusal, match="no video"):
            mine.content(done["id"])


def test_a_video_does_so_without_waiting(served):
    async def talk():
        async with AsyncVisage(served) as visage:
            mine = AsyncVideos(visage)
            asked = await mine.ask("a dance", seconds=0.5)
            assert (await mine.wait(asked["id"], 60))[4:8] == b"ftyp"
            assert [one["id"] async for one in mine.all()] == [asked["id"]]
            await mine.ask("a", once="k")
            with pytest.raises(Refusal, match="another key"):
                await mine.ask("b", once="k")
            return (await mine.delete(asked["id"]))["deleted"]

    assert asyncio.run(talk())


def test_a_video_that_nobody_draws_is_not_waited_for_for_ever(tmp_path):
    app, _ = door(records=str(tmp_path / "serving.db"))
    with serving(app) as url, Visage(url) as visage:
        mine = Videos(visage)
        video = mine.ask("a")["id"]
        with pytest.raises(TimeoutError, match=f"{video} is not finished in 0 s"):
            mine.wait(video, 0.0)
        mine.delete(video)
        with pytest.raises(Refusal, match="is cancelled"):
            mine.wait(video)
