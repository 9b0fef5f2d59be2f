import asyncio
from dataclasses import replace

import numpy as np
import pytest

from serving.errors import Refusal
from serving.images import LocalImages
from serving.recipes import ImageSettings, ServeRecipe
from serving.types import Draw, Drawn, Edit, Images, Preview, Reference
from tests.serving.conftest import DIM, EMBEDDER, tiny_base, tiny_export


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("images")
    return tiny_export(home / "one"), tiny_base(home / "base")


def ask(**changes):
    vector = np.random.default_rng(0).normal(size=DIM).astype(np.float32)
    plain = Draw(
        request_id="r", prompt="a face", width_px=32, height_px=32, seed=3, steps=4, guidance=3.0,
        reference=Reference(vector=vector, embedder=EMBEDDER),
    )  # fmt: skip
    return replace(plain, **changes)


def serve(folders, work, **settings):
    """Run an asynchronous test with images, and close them."""
    images = LocalImages(
        ServeRecipe(
            name="test",
            model=f"file:{folders[0]}",
            adapters=tuple(f"file:{folder}" for folder in folders[1:]),
            images=ImageSettings(threads=1, **settings),
        )
    )

    async def run():
        try:
            return await asyncio.wait_for(work(images), 60)
        finally:
            await images.close()

    return asyncio.run(run())


def test_it_says_what_it_serves(folders):
    async def work(images):
        assert isinstance(images, Images)
        assert await images.healthy()
        return await images.info(), await images.info(f"file:{folders[1]}")

    adapter, base = serve(folders, work)
    assert adapter.model == f"file:{folders[0]}"
    assert (adapter.kind, adapter.takes_text, adapter.fixed_size) == (
        "ip_adapter_faceid", True, False,
    )  # fmt: skip
    assert (base.kind, base.takes_text, base.fixed_size) == ("base", False, True)
    assert (adapter.sides_px, adapter.multiple_px, adapter.embedder) == ((32, 32), 8, EMBEDDER)


def test_requests_at_once_are_drawn_together_and_get_their_own_pictures(folders):
    async def work(images):
        asks = [ask(seed=seed, pictures=1 + seed % 2) for seed in range(5)]
        together = await asyncio.gather(*(images.draw(each) for each in asks))
        return together, [await images.draw(each) for each in asks]

    together, alone = serve(folders, work)
    assert max(drawn.batch for drawn in together) > 2
    for here, there in zip(together, alone, strict=True):
        assert here.seeds == there.seeds
        for one, other in zip(here.pictures, there.pictures, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


def test_a_request_larger_than_a_batch_is_drawn_in_portions(folders):
    async def work(images):
        return await images.draw(ask(pictures=4)), await images.draw(ask(seed=6))

    four, last = serve(folders, work, batch=3)
    assert four.seeds == (3, 4, 5, 6)
    assert four.batch == 3
    assert np.abs(four.pictures[3].astype(int) - last.pictures[0]).max() <= 1


def test_previews_come_before_the_answer(folders):
    async def work(images):
        return [each async for each in images.stream(ask(previews=2, steps=6))]

    *previews, drawn = serve(folders, work)
    assert [type(each) for each in previews] == [Preview, Preview]
    assert isinstance(drawn, Drawn)


def test_who_leaves_stops_the_drawing_and_the_next_is_served(folders):
    async def work(images):
        async for _ in images.stream(ask(previews=90, steps=100)):
            break
        left = asyncio.ensure_future(images.draw(ask(steps=100)))
        await asyncio.sleep(0.05)
        left.cancel()
        return await asyncio.wait_for(images.draw(ask()), 2)

    assert serve(folders, work).queued_s < 0.5


def test_overload_is_refused_with_a_time_to_come_back(folders):
    async def work(images):
        await images.draw(ask())
        tasks = [asyncio.ensure_future(images.draw(ask(seed=seed))) for seed in range(12)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = serve(folders, work, queue=4, batch=2)
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert 0 < len(refused) < 12
    assert {refusal.code for refusal in refused} == {"overloaded"}
    assert min(refusal.retry_after_s for refusal in refused) >= 1
    assert sum(isinstance(answer, Drawn) for answer in answers) == 12 - len(refused)


def test_what_a_model_cannot_draw_is_refused_with_the_reason(folders):
    base = f"file:{folders[1]}"
    stranger = Reference(vector=np.zeros(4, dtype=np.float32), embedder="other@1")
    square = np.zeros((32, 32, 3), dtype=np.uint8)
    wide = Edit(picture=np.zeros((32, 40, 3), dtype=np.uint8))
    refused = {
        "invalid_value": [
            ask(width_px=36), ask(width_px=4096), ask(steps=1000), ask(pictures=50), ask(seed=-1),
            ask(prompt="a face " * 60), ask(edit=wide), ask(edit=Edit(picture=square, strength=0)),
            ask(adapter=base, prompt="", width_px=64), ask(start_step=5),
        ],
        "prompt_not_supported": [ask(adapter=base)],
        "embedder_mismatch": [ask(reference=stranger)],
        "unknown_model": [ask(adapter="nobody"), ask(adapter="file:/etc")],
    }  # fmt: skip

    async def work(images):
        for code, asks in refused.items():
            for each in asks:
                with pytest.raises(Refusal) as refusal:
                    await images.draw(each)
                assert refusal.value.code == code, each

    serve(folders, work)


def test_a_model_of_nobody_refuses_a_face(tmp_path):
    async def work(images):
        with pytest.raises(Refusal, match="nobody in particular") as refusal:
            await images.draw(ask(prompt=""))
        assert refusal.value.code == "identity_not_supported"
        return await images.draw(ask(prompt="", reference=None))

    drawn = serve([tiny_base(tmp_path / "faces", condition="none")], work)
    assert drawn.pictures[0].shape == (32, 32, 3)


def test_weights_altered_on_disk_are_refused_and_no_path_is_told(folders, tmp_path, caplog):
    altered = tiny_export(tmp_path / "altered", seed=5)

    async def work(images):
        await images.info(f"file:{folders[1]}")
        (altered / "features.json").write_text("{}")
        with pytest.raises(Refusal) as refusal:
            await images.draw(ask(adapter=f"file:{altered}"))
        return refusal.value

    refusal = serve([folders[0], folders[1], altered], work)
    assert refusal.code == "model_unavailable"
    assert "features.json" not in str(refusal)
    assert "features.json" in caplog.text
