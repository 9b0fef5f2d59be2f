import base64

import numpy as np
import pytest

from serving.errors import Refusal
from tests.serving.doors import data, door, faces, he, refused, she, visitor
from tests.serving.test_uploads import HOSTILE


@pytest.fixture(scope="module")
def me():
    return visitor(door()[0])


def test_faces_are_found_and_measured(me):
    found = me.post("/v1/faces/detect", files={"image": she()}).json()
    measured = me.post("/v1/faces/embed", files={"image": she()}).json()
    (face,) = found["faces"]
    left, top, right, bottom = face["box_px"]
    assert 0 <= left < right <= found["width_px"] == 512
    assert 0 <= top < bottom <= found["height_px"] == 512
    assert "embedding" not in face
    assert {**measured["faces"][0], "embedding": None} == {**face, "embedding": None}
    assert len(measured["faces"][0]["embedding"]) == 128
    assert measured["embedder"] == faces().embedder
    assert measured["same_person_below"] == 0.6


def test_a_photograph_without_faces_has_none(me):
    grey = data(np.full((90, 90, 3), 50, np.uint8))
    for what in ("detect", "embed"):
        assert me.post(f"/v1/faces/{what}", files={"image": grey}).json()["faces"] == []
    refused(me.post("/v1/faces/verify", files={"image_a": grey, "image_b": she()}), "no_face")


def test_two_people_are_two(me):
    as_files = me.post("/v1/faces/verify", files={"image_a": she(), "image_b": he()})
    fields = {"image_a": she(), "image_b": he()}
    as_json = me.post(
        "/v1/faces/verify",
        json={name: base64.b64encode(blob).decode() for name, blob in fields.items()},
    )
    assert as_files.json() == as_json.json()
    assert as_files.json()["same_person"] is False


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_through_the_door(me, name):
    blob, code = HOSTILE[name]
    refused(me.post("/v1/faces/embed", files={"image": ("../../x.php", blob)}), code)


def test_crowded_it_sends_clients_away_for_a_moment(monkeypatch):
    async def crowded(_):
        raise Refusal("overloaded", "Too many.", retry_after_s=1)

    monkeypatch.setattr(faces(), "detect", crowded)
    app = door()[0]
    refused(visitor(app).post("/v1/faces/detect", files={"image": she()}), "overloaded")
