import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from serving.errors import Refusal
from serving.types import Reference
from tests.serving.doors import data, door, faces, refused, she, visitor
from tests.serving.test_uploads import HOSTILE
from tests.stages.models.photos import group

PATH = "/v1/images/anonymise"


@pytest.fixture(scope="module")
def me():
    return visitor(door()[0])


def blob(answer):
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def faces_of(me, picture):
    return me.post("/v1/faces/embed", files={"image": picture}).json()["faces"]


def portrait(at=None):
    """Cut one of the six out: larger, so that the face is found."""
    left, top, right, bottom = at or (400, 240, 620, 460)
    return data(Image.fromarray(group()[top:bottom, left:right]).resize((660, 660)))


def test_everybody_but_the_one_who_is_named_is_hidden(me):
    answer = me.post(
        PATH, files={"image": data(group()), "identity": portrait()}, data={"how": "blur"}
    )
    told = answer.json()
    assert (told["faces"], told["hidden"], told["kept"]) == (6, 5, True)
    assert min(told["distances"]) > told["beyond"] > 0.6
    assert told["size"] == "1280x886"
    left = faces_of(me, data(np.array(Image.open(BytesIO(blob(answer)))).repeat(2, 0).repeat(2, 1)))
    ours = faces_of(me, portrait())[0]["embedding"]
    apart = [np.linalg.norm(np.subtract(face["embedding"], ours)) for face in left]
    assert len(apart) == 1
    assert apart[0] < 0.6


def test_without_a_person_everybody_is_hidden_and_the_answer_is_signed(me):
    answer = me.post(PATH, files={"image": data(group())}, data={"output_format": "webp"})
    told = answer.json()
    assert (told["faces"], told["hidden"], told["kept"]) == (6, 6, False)
    assert told["signed_by"] == "test"
    found = me.post("/v1/provenance", files={"image": blob(answer)}).json()
    assert found["credential"]["state"] == "trusted"
    assert found["credential"]["made"]["model"] == ""
    assert found["credential"]["made"]["request_id"] == answer.headers["x-request-id"]


def test_a_person_who_is_not_in_it_is_reported_as_not_kept(me):
    told = me.post(PATH, files={"image": she(), "identity": portrait()}).json()
    assert (told["faces"], told["hidden"], told["kept"]) == (1, 1, False)


def test_a_picture_without_faces_comes_back_with_none(me):
    grey = np.full((90, 120, 3), 50, np.uint8)
    answer = me.post(PATH, files={"image": data(grey)}, data={"output_format": "png"})
    assert answer.json()["faces"] == 0
    assert np.abs(np.array(Image.open(BytesIO(blob(answer)))).astype(int) - 50).max() <= 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(me, name):
    sent, code = HOSTILE[name]
    refused(me.post(PATH, files={"image": sent}), code)


def test_who_is_to_be_kept_must_be_clear(me):
    grey = data(np.full((90, 120, 3), 50, np.uint8))
    refused(me.post(PATH, files={"image": she(), "identity": grey}), "no_face")
    refused(me.post(PATH, files={"image": she()}, data={"how": "swap"}), "invalid_value")


def test_what_would_still_be_recognised_is_not_sent_back(monkeypatch):
    async def recognised(*_):
        raise Refusal("not_anonymised", "Nothing can be sent back.")

    monkeypatch.setattr(faces(), "anonymise", recognised)
    refused(visitor(door()[0]).post(PATH, files={"image": she()}), "not_anonymised")


def test_a_person_whom_another_encoder_measured_must_be_enrolled_again(monkeypatch):
    async def enrolled_long_ago(*_):
        return Reference(vector=np.zeros(128, np.float32), embedder="other@0")

    app, _ = door()
    monkeypatch.setattr(app.state.door.guard, "reference", enrolled_long_ago)
    answer = visitor(app).post(PATH, files={"image": she(), "identity": she()})
    assert "other@0" in refused(answer, "embedder_mismatch")["message"]
