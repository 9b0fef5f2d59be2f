import asyncio
import base64
from dataclasses import replace
from io import BytesIO

import httpx2
import numpy as np
import pytest
from PIL import Image

from serving.errors import Refusal
from serving.recipes import HttpSettings
from tests.serving.doors import (
    INFO,
    PlainImages,
    data,
    door,
    faces,
    he,
    plain,
    refused,
    she,
    visitor,
)

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"
GREY = np.full((100, 200, 3), 120, dtype=np.uint8)


@pytest.fixture
def behind():
    app, images = door()
    return visitor(app), images


def pixels(answer, index=0):
    with Image.open(BytesIO(base64.b64decode(answer.json()["data"][index]["b64_json"]))) as image:
        return np.array(image)


def b64(blob):
    return base64.b64encode(blob).decode()


def test_pictures_come_back_as_drawn_with_an_account(behind):
    me, images = behind
    answer = me.post(DRAW, json={"prompt": "a", "n": 2, "seed": 300, "size": "40x24"})
    assert answer.status_code == 200
    (ask,) = images.asks
    assert np.array_equal(pixels(answer, 1), plain(ask, 301))
    body = answer.json()
    assert body["size"] == "40x24"
    assert body["visage"]["seeds"] == [300, 301]
    assert body["visage"]["model"] == "someone/3"


def test_what_is_not_said_has_the_recipes_defaults(behind):
    me, images = behind
    me.post(DRAW, json={"prompt": None, "n": None, "size": None, "seed": None})
    (ask,) = images.asks
    assert (ask.width_px, ask.height_px, ask.pictures, ask.steps, ask.guidance) == (
        64,
        64,
        1,
        30,
        3,
    )
    assert (ask.adapter, ask.reference, ask.edit, ask.previews) == ("", None, None, 0)


def test_json_and_a_form_say_the_same(behind):
    me, images = behind
    settings = {
        "prompt": "a", "negative_prompt": "b", "n": 2, "seed": 4, "steps": 5, "guidance": 1.5,
        "identity_scale": 0.5, "start_step": 2, "adapter": "smile@best", "output_format": "webp",
    }  # fmt: skip
    one = me.post(DRAW, json={**settings, "identity": [b64(she())]})
    form = {name: str(value) for name, value in settings.items()}
    two = me.post(DRAW, data=form, files=[("identity", ("a.jpg", she()))])
    three = me.post(DRAW, data={**form, "identity[]": b64(she())}, files={"nothing": b""})
    assert one.status_code == two.status_code == 200
    refused(three, "unknown_field")
    first, second = images.asks
    assert np.array_equal(first.reference.vector, second.reference.vector)
    blank = {"reference": None, "request_id": ""}
    assert replace(first, **blank) == replace(second, **blank)
    assert np.array_equal(pixels(one), pixels(two))  # the files' credentials name their requests


def test_identity_is_measured_as_the_face_routes_measure_it(behind):
    me, images = behind
    me.post(DRAW, json={"identity": f"data:image/jpeg;base64,{b64(she())}"})
    expected = asyncio.run(faces().embed(she())).faces[0].vector
    assert np.abs(images.asks[0].reference.vector - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("ask", "code", "words"),
    [
        ({"promt": "x"}, "unknown_field", "Did you mean 'prompt'?"),
        ({"style": "vivid"}, "unknown_field", "'style'"),
        ({"n": 0}, "invalid_value", "n: "),
        ({"n": 5}, "invalid_value", "n cannot be 5: give 1 to 4"),
        ({"n": 2.5}, "invalid_value", "n: "),
        ({"steps": 101}, "invalid_value", "give 1 to 100"),
        ({"seed": -1}, "invalid_value", "seed"),
        ({"seed": 2**70}, "invalid_value", "seed"),
        ({"guidance": 1e9}, "invalid_value", "guidance"),
        ({"start_step": 31}, "invalid_value", "start_step"),
        ({"size": "64"}, "invalid_value", "size"),
        ({"size": "60x60"}, "invalid_value", "multiples of 8"),
        ({"size": "264x64"}, "invalid_value", "at most 256"),
        ({"size": "99999x99999"}, "invalid_value", "size"),
        ({"prompt": "x" * 4001}, "invalid_value", "prompt"),
        ({"prompt": {"a": {}}}, "invalid_value", "prompt"),
        ({"output_format": "gif"}, "invalid_value", "output_format"),
        ({"background": "transparent"}, "invalid_value", "background"),
        ({"response_format": "url"}, "invalid_value", "ask for b64_json"),
        ({"partial_images": 2}, "invalid_value", "set stream"),
        ({"model": "gpt-image-1"}, "unknown_model", "GET /v1/models"),
        ({"adapter": "../../etc/passwd"}, "unknown_model", "not served"),
        ({"adapter": "file:/etc"}, "unknown_model", "not served"),
        ({"adapter": "smile/../../x"}, "unknown_model", "not served"),
        ({"adapter": "smile@no"}, "unknown_model", "not there"),
        ({"adapter": "smile", "model": "smile@best"}, "invalid_value", "give either"),
        ({"identity": ["https://example.org/a.jpg"]}, "url_not_accepted", "send the file"),
        ({"identity": ["file:///etc/passwd"]}, "url_not_accepted", "send the file"),
        ({"identity": ["data:text/html,hello"]}, "url_not_accepted", "send the file"),
        ({"identity": ["/etc/passwd!"]}, "invalid_value", "not base64"),
        ({"identity": ["aGVsbG8"]}, "invalid_value", "not base64"),
        ({"identity": ["aGVs\nbG8="]}, "invalid_value", "not base64"),
        ({"identity": [""]}, "invalid_value", "empty"),
        ({"identity": [{"image_url": "x"}]}, "invalid_value", "no file"),
        ({"identity": [b64(b"hello")]}, "unsupported_media_type", "JPEG"),
        ({"identity": ["aGVsbG8="] * 9}, "invalid_value", "identity"),
    ],
)
def test_a_request_that_cannot_work_is_refused_with_the_cure(behind, ask, code, words):
    me, images = behind
    assert words in refused(me.post(DRAW, json=ask), code)["message"]
    assert images.asks == []


def test_what_the_model_cannot_do_is_refused_before_a_face_is_measured():
    blind = PlainImages(replace(INFO, takes_text=False, takes_identity=False, fixed_size=True))
    me = visitor(door(blind)[0])
    refused(me.post(DRAW, json={"prompt": "x"}), "prompt_not_supported")
    refused(me.post(DRAW, json={"identity": b64(b"no picture")}), "identity_not_supported")
    refused(me.post(DRAW, json={"size": "32x32"}), "invalid_value")
    stranger = visitor(door(PlainImages(replace(INFO, embedder="other@0")))[0])
    error = refused(stranger.post(DRAW, json={"identity": b64(she())}), "embedder_mismatch")
    assert error["details"]["wanted"] == "other@0"


def test_different_people_are_refused(behind):
    me, _ = behind
    refused(me.post(DRAW, json={"identity": [b64(she()), b64(he())]}), "different_people")


@pytest.mark.parametrize(
    ("asked", "reference"),
    [
        ({}, ""), ({"model": "someone@champion"}, ""), ({"model": "smile"}, "smile"),
        ({"adapter": "smile@best"}, "smile@best"),
        ({"model": "someone@champion", "adapter": "smile"}, "smile"),
        ({"model": "smile", "adapter": "smile"}, "smile"),
    ],
)  # fmt: skip
def test_a_name_is_looked_up_and_never_becomes_a_path(behind, asked, reference):
    me, images = behind
    assert me.post(DRAW, json=asked).status_code == 200
    assert images.asks[0].adapter == reference


def test_clients_never_learn_where_a_model_lies():
    app, images = door(PlainImages(replace(INFO, model="file:/secret/place/lfw64")))
    app.state.door.names.clear()
    app.state.door.recipe = replace(app.state.door.recipe, model="file:/secret/place/lfw64")
    app.state.door.__post_init__()
    me = visitor(app)
    answers = [
        me.get("/v1/models"), me.post(DRAW, json={"model": "lfw64"}),
        me.post(DRAW, json={"size": "7x7"}), me.post(DRAW, json={"model": "x"}),
    ]  # fmt: skip
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404]
    assert images.asks[0].adapter == ""
    assert all("lfw64" in a.text and "secret" not in a.text for a in answers if a != answers[2])
    assert "secret" not in answers[2].text


def test_an_edit_starts_from_the_picture_cut_to_size(behind):
    me, images = behind
    where = np.full((100, 200, 4), 255, dtype=np.uint8)
    where[:, :100, 3] = 0
    files = {"image": data(GREY), "mask": data(where, "PNG")}
    answer = me.post(EDIT, data={"prompt": "x", "strength": "0.4", "size": "32x32"}, files=files)
    assert answer.status_code == 200
    edit = images.asks[0].edit
    assert edit.picture.shape == (32, 32, 3)
    assert np.abs(edit.picture.astype(int) - 120).max() <= 2
    assert edit.mask[:, :16].all()
    assert not edit.mask[:, 16:].any()
    assert edit.strength == 0.4


@pytest.mark.parametrize(
    ("files", "fields", "code"),
    [
        ({}, {"prompt": "x"}, "invalid_value"),
        ({"image": data(GREY), "mask": data(GREY[:50], "PNG")}, {}, "invalid_value"),
        ({"image": data(GREY)}, {"strength": "0"}, "invalid_value"),
        ({"image": b"GIF89a"}, {}, "unsupported_media_type"),
        ({"image": data(GREY)[:300]}, {}, "unreadable_image"),
    ],
)
def test_an_edit_that_cannot_work_is_refused(behind, files, fields, code):
    me, images = behind
    files = files or {"identity": b"x"}
    refused(me.post(EDIT, data=fields, files=files), code)
    assert images.asks == []


def test_a_file_that_is_sent_twice_is_refused(behind):
    me, _ = behind
    files = [("image", data(GREY)), ("image", data(GREY))]
    refused(me.post(EDIT, files=files), "invalid_value")


def test_without_a_model_faces_are_still_measured():
    app, _ = door()
    app.state.door.images = None
    me = visitor(app)
    refused(me.post(DRAW, json={}), "unknown_model")
    assert me.post("/v1/faces/detect", files={"image": she()}).status_code == 200
    assert me.get("/v1/health/ready").status_code == 200


@pytest.mark.parametrize("code", ["overloaded", "model_unavailable", "shutting_down"])
def test_what_the_generator_refuses_is_passed_on(code):
    app, _ = door(PlainImages(error=Refusal(code, "Later.", retry_after_s=4)))
    for stream in (False, True):
        answer = visitor(app).post(DRAW, json={"stream": stream})
        refused(answer, code)
        assert answer.headers["retry-after"] == "4"
        assert answer.headers["x-should-retry"] == "true"


def test_a_drawing_that_takes_too_long_is_stopped():
    images = PlainImages(seconds=30)
    app, _ = door(images, http=HttpSettings(timeout_s=1))
    answer = visitor(app).post(DRAW, json={})
    refused(answer, "timed_out")
    assert answer.headers["x-should-retry"] == "false"
    assert images.cancelled.is_set()
    streamed = visitor(app).post(DRAW, json={"stream": True})
    assert streamed.status_code == 200
    assert '"code": "timed_out"' in streamed.text.split("event: error\n")[1]


def test_two_clients_at_once_never_see_each_others_data():
    app, _ = door(PlainImages(seconds=0.01))
    transport = httpx2.ASGITransport(app)

    async def one(me, seed):
        photo = she() if seed % 2 else he()
        fields = {"prompt": f"p{seed}", "seed": seed, "identity": [b64(photo)]}
        identity = f"request-{seed:08d}"
        answer = await me.post(DRAW, json=fields, headers={"x-request-id": identity})
        assert answer.headers["x-request-id"] == identity
        return pixels(answer)[0, 0, 0], answer.json()["visage"]["seeds"]

    async def all_at_once():
        async with httpx2.AsyncClient(transport=transport, base_url="http://door") as me:
            return await asyncio.gather(*(one(me, seed) for seed in range(16)))

    answers = asyncio.run(all_at_once())
    assert [(colour, seeds) for colour, seeds in answers] == [(i, [i]) for i in range(16)]
    asks = {ask.seed: ask for ask in app.state.door.images.asks}
    hers, his = asks[1].reference.vector, asks[0].reference.vector
    for seed, ask in asks.items():
        assert ask.prompt == f"p{seed}"
        assert ask.request_id == f"request-{seed:08d}"
        assert np.array_equal(ask.reference.vector, hers if seed % 2 else his)
