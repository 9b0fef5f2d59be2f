import asyncio
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from serving.audit import Audit
from serving.database import open_database
from serving.errors import Refusal
from serving.keys import ANYBODY, Keys
from serving.people.protected import Protected
from serving.recipes import PeopleSettings
from serving.types import Preview
from tests.serving.doors import PlainImages, data, door, faces, he, refused, she, visitor
from tests.stages.models.photos import astronaut, hanks

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"
SMALL = cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
GREY = np.full((256, 256, 3), 120, np.uint8)


class Paints(PlainImages):
    """Draws the pictures it was given, whatever it is asked; its previews are the last of them."""

    def __init__(self, *pictures):
        super().__init__()
        self.pictures = pictures

    async def draw(self, ask):
        return replace(await super().draw(ask), pictures=self.pictures)

    async def stream(self, ask):
        for index in range(ask.previews):
            yield Preview(index=index, picture=self.pictures[-1])
        yield await self.draw(ask)


@pytest.fixture
def records(tmp_path):
    return str(tmp_path / "serving.db")


def vector(photo):
    return asyncio.run(faces().reference([photo])).vector


def protect(records, *photos):
    vectors = np.stack([vector(photo) for photo in photos])
    return Protected(open_database(records)).add(vectors, faces().embedder, "asked to")


def logged(records):
    rows = list(Audit(open_database(records)).rows())
    assert Audit(open_database(records)).verify().problem == ""
    return [(row["event"], row["subject"], json.loads(row["details"])) for row in rows]


def events(answer):
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if "event: " in line]


def test_a_reference_that_resembles_a_protected_person_is_refused_before_it_is_drawn(records):
    app, images = door(records=records)
    me, entry = visitor(app), protect(records, she())
    flipped = data(np.ascontiguousarray(astronaut()[:, ::-1]))
    error = refused(me.post(DRAW, files={"identity": flipped}), "protected_person")
    assert entry not in json.dumps(error)
    assert images.asks == []
    assert me.post(DRAW, files={"identity": he()}).status_code == 200
    assert logged(records)[1:] == [
        ("refused", entry, {"code": "protected_person", "where": "reference"}),
        ("used", "", {"photos": 1}),
    ]


def test_whoever_is_protected_after_being_enrolled_is_drawn_no_more(records):
    me = visitor(door(records=records)[0])
    consent = {"purpose": "a", "evidence": "b", "until": "2030-01-01T00:00:00Z"}
    form = {"files": {"photos": she()}, "data": {"consent": json.dumps(consent)}}
    identity = me.post("/v1/people", **form).json()["id"]
    assert me.post(DRAW, json={"identity": identity}).status_code == 200
    protect(records, she())
    refused(me.post(DRAW, json={"identity": identity}), "protected_person")


def test_a_result_that_resembles_a_protected_person_does_not_leave(records):
    app, images = door(Paints(GREY, SMALL), records=records)
    me = visitor(app)
    assert me.post(DRAW, json={"n": 2}).status_code == 200
    entry = protect(records, she())
    answer = me.post(DRAW, json={"n": 2})
    refused(answer, "protected_person")
    assert "b64_json" not in answer.text
    assert len(images.asks) == 2
    assert logged(records)[-1] == (
        "refused", entry, {"code": "protected_person", "where": "result"},
    )  # fmt: skip
    refused(me.post(EDIT, files={"image": data(GREY)}), "protected_person")


def test_results_of_others_leave_where_somebody_is_protected(records):
    man = cv2.resize(hanks(), (256, 256), interpolation=cv2.INTER_CUBIC)
    me = visitor(door(Paints(man, GREY), records=records)[0])
    protect(records, she())
    assert len(asyncio.run(faces().embed(data(man, "PNG"))).faces) == 1
    assert len(me.post(DRAW, json={"n": 2}).json()["data"]) == 2


def test_of_a_streamed_picture_that_is_withheld_no_preview_leaves_either(records):
    me = visitor(door(Paints(SMALL), records=records)[0])
    asked = {"stream": True, "partial_images": 2}
    partial, completed = "image_generation.partial_image", "image_generation.completed"
    assert events(me.post(DRAW, json=asked)) == [partial, partial, completed]
    protect(records, she())
    answer = me.post(DRAW, json=asked)
    assert "b64_json" not in answer.text
    assert "protected_person" in answer.text


def test_held_previews_come_before_the_picture_that_was_looked_at(records):
    me = visitor(door(Paints(GREY), records=records)[0])
    protect(records, she())
    answer = me.post(DRAW, json={"stream": True, "partial_images": 3})
    assert events(answer) == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]


def test_what_is_withheld_is_not_charged(records, tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    token = keys.add("a", ["images"], quota_per_day=1)
    me = visitor(door(Paints(SMALL), keys, records=records)[0], authorization=f"Bearer {token}")
    entry = protect(records, she())
    for _ in range(2):
        refused(me.post(DRAW, json={}), "protected_person")
    Protected(open_database(records)).remove(entry)
    assert me.post(DRAW, json={}).status_code == 200
    refused(me.post(DRAW, json={}), "quota_exceeded")


def test_the_bound_is_a_setting(records):
    protect(records, she())
    ask = {"files": {"identity": data(np.ascontiguousarray(astronaut()[:, ::-1]))}}
    strict = visitor(door(records=records, people=PeopleSettings(protect_below=1e-6))[0])
    assert strict.post(DRAW, **ask).status_code == 200
    wide = visitor(door(records=records, people=PeopleSettings(protect_below=1.0))[0])
    refused(wide.post(DRAW, files={"identity": he()}), "protected_person")


def test_a_list_that_this_encoder_cannot_read_stops_all_drawing(records):
    me = visitor(door(records=records)[0])
    Protected(open_database(records)).add(np.ones((1, 512), np.float32), "arcface@1", "")
    refused(me.post(DRAW, files={"identity": she()}), "protection_unavailable")
    refused(me.post(DRAW, json={}), "protection_unavailable")


@pytest.mark.parametrize("identity", [["x", "y"], ["person_" + "0" * 24] * 2, ["person_0"]])
def test_an_identity_that_is_neither_photographs_nor_one_person_is_refused(records, identity):
    me = visitor(door(records=records)[0])
    refused(me.post(DRAW, json={"identity": identity}), "invalid_value")


def test_a_crowd_before_the_face_models_delays_what_was_drawn_and_loses_none(records, monkeypatch):
    guard = door(records=records)[0].state.door.guard
    protect(records, he())
    embed, tries = faces().embed, []

    async def crowded(photo):
        tries.append(1)
        if len(tries) < 3:
            raise Refusal("overloaded", "Too many.", retry_after_s=1)
        return await embed(photo)

    monkeypatch.setattr(faces(), "embed", crowded)
    asyncio.run(guard.drawn([SMALL], ANYBODY))
    assert len(tries) == 3
