import asyncio
import base64
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openai
import pytest
from PIL import Image

from serving import client
from serving.client import AsyncVisage, Visage
from serving.errors import Refusal
from serving.keys import Keys
from tests.serving.doors import PlainImages, data, door, faces, he, plain, serving, she

EXAMPLES = Path(__file__).parent / "examples"
ROOT = Path(__file__).parents[2]
GREY = data(np.full((64, 64, 3), 120, dtype=np.uint8), "PNG")


@pytest.fixture(scope="module")
def served():
    app, images = door()
    with serving(app) as url:
        yield url, images


def decoded(blob):
    with Image.open(BytesIO(blob)) as image:
        return np.array(image)


def test_it_draws_edits_and_compares(served):
    url, images = served
    with Visage(url) as visage:
        drawn = visage.generate("a", identity=[she()], n=2, seed=9, adapter=None)
        assert np.array_equal(decoded(drawn.pictures[1]), plain(images.asks[-1], 10))
        assert (drawn.seeds, drawn.model) == ((9, 10), "someone/3")
        assert images.asks[-1].reference is not None
        visage.edit(GREY, mask=None, prompt="b", strength=0.5)
        assert images.asks[-1].edit.strength == 0.5
        assert len(visage.detect(she())["faces"]) == 1
        assert len(visage.embed(she())["faces"][0]["embedding"]) == 128
        assert visage.verify(she(), he())["same_person"] is False
        assert visage.models() == ["someone@champion", "smile"]


def test_it_does_the_same_without_waiting(served):
    url, images = served

    async def talk():
        async with AsyncVisage(url) as visage:
            drawn, found = await asyncio.gather(visage.generate(seed=3), visage.detect(she()))
            await visage.edit(GREY, identity=[she()])
            assert (await visage.verify(she(), she()))["same_person"]
            assert len((await visage.embed(she()))["faces"]) == len(found["faces"]) == 1
            assert await visage.models() == ["someone@champion", "smile"]
            with pytest.raises(Refusal):
                await visage.generate(n=99)
            return drawn

    assert asyncio.run(talk()).seeds == (3,)
    assert images.asks[-1].reference is not None


def test_a_refusal_arrives_as_it_was_meant(served):
    with Visage(served[0]) as visage, pytest.raises(Refusal) as refusal:
        visage.generate(promt="x")
    assert refusal.value.code == "unknown_field"
    assert "Did you mean 'prompt'?" in str(refusal.value)


def test_it_waits_as_told_and_gives_up_in_the_end(monkeypatch):
    images = PlainImages(error=Refusal("overloaded", "Later.", retry_after_s=2))
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            images.error = None

    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=wait))
    with serving(door(images)[0]) as url, Visage(url) as visage:
        assert visage.generate(seed=1).seeds == (1,)
        assert waits == [2.0, 2.0]
        images.error = Refusal("model_unavailable", "Later.", retry_after_s=1)
        with pytest.raises(Refusal, match="model_unavailable"):
            visage.generate(seed=1)
        assert waits[2:] == [1.0] * client.RETRIES
        images.error = Refusal("overloaded", "Much later.", retry_after_s=999)
        with pytest.raises(Refusal, match="Much later"):
            visage.generate(seed=1)
        assert len(waits) == 2 + client.RETRIES


def test_openais_client_draws_edits_and_streams(served):
    url, images = served
    photo = base64.b64encode(she()).decode()
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as them:
        answer = them.images.generate(
            prompt="a", n=2, size="64x64", quality="high", response_format="b64_json", user="u",
            model="smile", extra_body={"identity": [photo], "seed": 5, "identity_scale": 0.7},
        )  # fmt: skip
        ask = images.asks[-1]
        assert (ask.adapter, ask.identity_scale, ask.seed) == ("smile", 0.7, 5)
        assert ask.reference.embedder == faces().embedder
        second = base64.b64decode(answer.data[1].b64_json)
        assert np.array_equal(decoded(second), plain(ask, 6))

        hole = np.zeros((64, 64, 4), dtype=np.uint8)
        edited = them.images.edit(
            image=("a.png", GREY), mask=("m.png", data(hole, "PNG")), prompt="b",
            extra_body={"identity": [photo, photo], "strength": 0.6},
        )  # fmt: skip
        assert edited.size == "64x64"
        assert images.asks[-1].edit.mask.all()
        assert len(images.asks[-1].reference.faces) == 2
        them.images.edit(image=[("a.png", GREY)], prompt="b")

        stream = them.images.generate(prompt="a", stream=True, partial_images=2)
        told = [type(event).__name__ for event in stream]
        assert told == ["ImageGenPartialImageEvent"] * 2 + ["ImageGenCompletedEvent"]
        stream = them.images.edit(image=GREY, prompt="a", stream=True)
        assert [event.type for event in stream] == ["image_edit.completed"]

        assert [model.id for model in them.models.list()] == ["someone@champion", "smile"]
        assert them.models.retrieve("smile").id == "smile"


def test_openais_client_understands_refusals(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="any", max_retries=3) as them:
        with pytest.raises(openai.BadRequestError, match="ask for b64_json") as error:
            them.images.generate(prompt="a", response_format="url")
        assert error.value.code == "invalid_value"
        with pytest.raises(openai.NotFoundError, match="gpt-image-1"):
            them.images.generate(prompt="a", model="gpt-image-1")


@pytest.mark.parametrize("name", ["curl.sh", "visage_client.py", "openai_client.py"])
def test_the_examples_run_as_they_are(tmp_path, name):
    keys = Keys(tmp_path / "keys.db", make=True)
    (tmp_path / "me.jpg").write_bytes(she())
    app, images = door(keys=keys)
    with serving(app) as url:
        code = (EXAMPLES / name).read_text()
        assert "http://127.0.0.1:8000" in code
        (tmp_path / name).write_text(code.replace("http://127.0.0.1:8000", url))
        told = subprocess.run(
            ["bash" if name.endswith(".sh") else sys.executable, name], cwd=tmp_path, timeout=60,
            capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT),
                 "VISAGE_KEY": keys.add("me", ["images", "faces", "models"])},
        )  # fmt: skip
    assert told.returncode == 0, told.stderr
    drawn = next(tmp_path.glob("drawn.*"))
    assert decoded(drawn.read_bytes()).shape == (64, 64, 3)
    assert images.asks[0].seed == 7
    assert all(ask.reference is not None for ask in images.asks)
    keys.close()
