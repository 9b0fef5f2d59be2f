import json
import time

import httpx2
import pytest

from serving import events
from serving.errors import Refusal
from tests.serving.doors import PlainImages, door, serving

DRAW = "/v1/images/generations"
STREAM = {"prompt": "x", "seed": 1, "stream": True, "partial_images": 2}


def parse(text):
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            kind, data = block.split("\n")
            yield kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_previews_come_before_the_picture_is_done():
    with serving(door(PlainImages(seconds=0.6))[0]) as url, httpx2.Client(base_url=url) as me:
        began, arrived = time.monotonic(), []
        with me.stream("POST", DRAW, json={**STREAM, "n": 2}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            text = ""
            for part in answer.iter_text():
                text += part
                arrived.append(time.monotonic() - began)
    told = list(parse(text))
    assert [kind for kind, _ in told] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ] * 2
    assert [data["partial_image_index"] for _, data in told[:2]] == [0, 1]
    assert told[-1][1]["visage"]["seeds"] == [1, 2]
    assert arrived[0] < 0.5 < arrived[-1]


def test_silence_is_filled_with_comments(monkeypatch):
    monkeypatch.setattr(events, "PING_S", 0.1)
    with serving(door(PlainImages(seconds=0.8))[0]) as url:
        text = httpx2.post(url + DRAW, json={**STREAM, "partial_images": 0}).text
    assert text.count(": ping") >= 3
    assert [kind for kind, _ in parse(text)] == ["image_generation.completed"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_drawing(stream):
    app, images = door(PlainImages(seconds=30))
    with serving(app) as url:
        ask = STREAM if stream else {"prompt": "x"}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(url + DRAW, json=ask, timeout=0.7)
        assert images.cancelled.wait(5)
        assert httpx2.get(url + "/v1/health/live").status_code == 200
        text = httpx2.get(url + "/metrics").text
    assert f'visage_requests_total{{route="{DRAW}",status="{200 if stream else 499}"}} 1.0' in text


def test_a_failure_after_the_first_event_ends_the_stream_with_an_error():
    later = Refusal("model_unavailable", "Gone.", retry_after_s=2)
    with serving(door(PlainImages(error=later))[0]) as url:
        told = list(parse(httpx2.post(url + DRAW, json=STREAM).text))
    assert [kind for kind, _ in told] == ["image_generation.partial_image"] * 2 + ["error"]
    assert told[-1][1]["error"]["code"] == "model_unavailable"
    assert len(told[-1][1]["request_id"]) == 32
