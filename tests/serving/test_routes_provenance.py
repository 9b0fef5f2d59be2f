import base64
import json
import logging
from contextlib import suppress
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
import pytest
from c2pa import Context, Reader
from PIL import Image

from serving.errors import Refusal
from serving.keys import Keys
from serving.provenance.settings import ProvenanceSettings
from serving.types import Drawn
from serving.uploads import encode, picture
from tests.serving.doors import INFO, PlainImages, door, refused, visitor
from tests.serving.provenance.edits import EDITS, psnr_db
from tests.serving.provenance.test_certificates import P256, files
from tests.serving.test_uploads import HOSTILE
from tests.stages.models.photos import astronaut

DRAW, EDIT, ASK = "/v1/images/generations", "/v1/images/edits", "/v1/provenance"
LABELS = {"visage.recipe_digest": "0123456789abcdef"}


def drawn(size):
    return cv2.resize(astronaut(), size, interpolation=cv2.INTER_AREA)


class Portraits(PlainImages):
    """Draws a photograph that carries marks as what is drawn would."""

    def __init__(self):
        super().__init__(replace(INFO, sides_px=(256, 256), labels=LABELS))

    async def draw(self, ask):
        told = await super().draw(ask)
        pictures = (drawn((ask.width_px, ask.height_px)),) * ask.pictures
        return Drawn(
            pictures=pictures, seeds=told.seeds, model=told.model, queued_s=told.queued_s,
            drawing_s=told.drawing_s, batch=told.batch,
        )  # fmt: skip


@pytest.fixture(scope="module")
def me():
    return visitor(door(Portraits())[0])


def file_of(answer):
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def pixels(blob):
    with Image.open(BytesIO(blob)) as image:
        return np.array(image.convert("RGB"))


def asked(me, blob):
    answer = me.post(ASK, files={"image": blob})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_what_is_drawn_says_where_it_is_from(me, kind):
    answer = me.post(DRAW, json={"adapter": "smile@best", "output_format": kind})
    account = answer.json()["visage"]
    assert account["signed_by"] == "test"
    assert len(account["watermark"]) == 8
    found = asked(me, file_of(answer))
    assert found["verdict"] == "made_here"
    assert found["credential"]["state"] == "trusted"
    assert found["credential"]["made"] == {
        "model": "someone/3", "adapter": "smile@best", "recipe": "0123456789abcdef",
        "request_id": answer.headers["x-request-id"], "watermark": account["watermark"],
        "watermark_method": "visage-spread-1",
    }  # fmt: skip
    mark = found["watermark"]
    assert (mark["found"], mark["id"], mark["strength"]) == (True, account["watermark"], "weak")
    assert mark["issued"]["request_id"] == answer.headers["x-request-id"]
    if kind == "png":
        assert psnr_db(drawn((256, 256)), pixels(file_of(answer))) > 38


def test_a_mark_is_left_when_the_credential_is_gone(me):
    answer = me.post(DRAW, json={"size": "256x256"})
    harmed = EDITS["crop 10 %"](pixels(file_of(answer)), np.random.default_rng(0))
    found = asked(me, encode(harmed, "jpeg", 85))
    assert found["verdict"] == "mark_only"
    assert found["credential"]["state"] == "absent"
    assert found["watermark"]["issued"]["request_id"] == answer.headers["x-request-id"]


def test_each_request_has_a_mark_of_its_own_and_all_its_pictures_share_it(me):
    one, two = (me.post(DRAW, json={"n": 2}) for _ in range(2))
    assert one.json()["visage"]["watermark"] != two.json()["visage"]["watermark"]
    for index in range(2):
        blob = base64.b64decode(one.json()["data"][index]["b64_json"])
        assert asked(me, blob)["watermark"]["id"] == one.json()["visage"]["watermark"]


def test_streamed_pictures_are_signed_too_the_unfinished_ones_as_well(me):
    answer = me.post(DRAW, json={"stream": True, "partial_images": 1, "output_format": "webp"})
    datas = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(data) for data in datas]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image", "completed"]
    for event in events:
        found = asked(me, base64.b64decode(event["b64_json"]))
        assert found["credential"]["state"] == "trusted"
        assert found["credential"]["made"]["request_id"] == answer.headers["x-request-id"]


def test_a_forged_credential_is_called_one(me):
    blob = file_of(me.post(DRAW, json={"output_format": "webp"}))  # has no sums to mend
    found = asked(me, blob.replace(b"someone/3", b"someone/4"))
    assert found["verdict"] == "credential_forged"
    assert "believe nothing" in found["sentence"]
    assert found["credential"]["problems"]


def test_a_scrubbed_mark_is_missed_where_the_credential_still_names_it(me):
    blob = file_of(me.post(DRAW, json={"output_format": "webp", "output_compression": 90}))
    # Another picture's pixels under this one's credential: the last chunk of a WebP.
    other = encode(drawn((256, 256)), "webp", 90)
    credential = blob[blob.rindex(b"C2PA") :]
    extended = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + b"\xff\0\0\xff\0\0"
    body = b"WEBP" + extended + other[12:] + credential
    scrubbed = b"RIFF" + len(body).to_bytes(4, "little") + body
    found = asked(me, scrubbed)
    assert found["verdict"] == "watermark_scrubbed"
    assert found["watermark"]["found"] is False
    assert "names a mark" in found["sentence"]


def altered(blob):
    """Change one bit of a picture's own data, which end the file, so that it is still a picture."""
    for place in range(200, 400):
        changed = bytearray(blob)
        changed[-place] ^= 1
        with suppress(Refusal):
            picture(bytes(changed), 2**24)
            return bytes(changed)
    raise AssertionError("every bit breaks it")


def test_a_credential_on_altered_pixels_that_keep_their_mark_says_altered(me):
    found = asked(me, altered(file_of(me.post(DRAW, json={"output_format": "jpeg"}))))
    assert found["verdict"] == "altered"
    assert found["watermark"]["found"] is True


def test_others_credentials_are_read_and_not_believed(me, tmp_path):
    home = ProvenanceSettings(home=str(tmp_path / "other"))
    other = visitor(door(Portraits(), provenance=home)[0])
    found = asked(me, file_of(other.post(DRAW, json={})))
    assert found["verdict"] == "other_signer"
    assert found["credential"]["state"] == "unknown_signer"
    assert found["watermark"]["found"] is False


def test_a_photograph_proves_nothing(me):
    found = asked(me, encode(astronaut(), "jpeg"))
    assert found["verdict"] == "nothing_found"
    assert found["credential"] == {
        "state": "absent", "signed_by": "", "problems": [], "made": None,
    }  # fmt: skip
    assert found["watermark"]["confidence_sigma"] < 5
    assert found["watermark"]["large_enough"] is True


def test_a_small_picture_carries_no_mark_and_says_so(me):
    answer = me.post(DRAW, json={"size": "64x64"})
    assert answer.json()["visage"]["watermark"] == ""
    found = asked(me, file_of(answer))
    assert found["verdict"] == "made_here"
    assert found["watermark"]["large_enough"] is False


def test_an_edit_quotes_the_picture_that_it_starts_from(me):
    parent = file_of(me.post(DRAW, json={}))
    answer = me.post(EDIT, files={"image": parent}, data={"output_format": "webp"})
    blob = file_of(answer)
    assert asked(me, blob)["verdict"] == "made_here"
    with Reader("image/webp", BytesIO(blob), context=Context.from_dict({})) as reader:
        (ingredient,) = reader.get_active_manifest()["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert ingredient["active_manifest"]


def test_only_its_own_key_and_administrators_learn_whom_a_mark_was_issued_for(tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    mine, theirs, admin = (
        keys.add(name, scopes)
        for name, scopes in (("a", ["images"]), ("b", ["images"]), ("c", ["images", "admin"]))
    )
    app, _ = door(Portraits(), keys=keys)
    of = {key: visitor(app, authorization=f"Bearer {key}") for key in (mine, theirs, admin)}
    blob = file_of(of[mine].post(DRAW, json={}))
    told = {key: asked(me, blob)["watermark"] for key, me in of.items()}
    assert all(one["known"] for one in told.values())
    assert told[mine]["issued"] == told[admin]["issued"]
    assert told[mine]["issued"]["key_id"] == mine.split("_")[1]
    assert told[theirs]["issued"] is None
    refused(visitor(app).post(ASK, files={"image": blob}), "missing_key")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(me, name):
    blob, code = HOSTILE[name]
    refused(me.post(ASK, files={"image": blob}), code)


def no_service(_):
    raise ConnectionError("the key service is away")


def test_without_the_signer_no_picture_leaves(tmp_path, caplog):
    chain, _ = files(tmp_path, P256)
    away = ProvenanceSettings(
        chain=chain, signer=f"{__name__}:no_service", home=str(tmp_path / "home")
    )  # fmt: skip
    with caplog.at_level(logging.ERROR):
        me = visitor(door(Portraits(), provenance=away)[0])
        refused(me.post(DRAW, json={}), "signer_unavailable")
    assert "signing failed" in caplog.text


def test_a_recipe_can_do_without(tmp_path):
    none = ProvenanceSettings(credentials=False, watermark="none", home=str(tmp_path))
    me = visitor(door(Portraits(), provenance=none)[0])
    answer = me.post(DRAW, json={})
    assert (answer.json()["visage"]["signed_by"], answer.json()["visage"]["watermark"]) == ("", "")
    assert np.array_equal(pixels(file_of(answer)), drawn((256, 256)))
    found = asked(me, file_of(answer))
    assert found["verdict"] == "nothing_found"
    assert found["watermark"]["strength"] == "none"
