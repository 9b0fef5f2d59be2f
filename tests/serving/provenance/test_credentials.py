import logging
import socket
from io import BytesIO

import cv2
import numpy as np
import pytest
from c2pa import Builder, C2paError, Context, Reader, Signer
from PIL import Image

from serving.provenance.certificates import local_identity
from serving.provenance.credentials import DRAWN, MADE_BY_A_MODEL, Credentials, Made
from serving.uploads import encode
from tests.stages.models.photos import astronaut

MADE = Made(
    model="someone/3", adapter="smile@best", recipe="0123456789abcdef", request_id="r" * 32,
    watermark="00c0ffee", watermark_method="visage-spread-1",
)  # fmt: skip
FORMATS = ("png", "jpeg", "webp")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Credentials(local_identity(tmp_path_factory.mktemp("ours")))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return Credentials(local_identity(tmp_path_factory.mktemp("others")))


def signed(credentials, kind="png", made=MADE, parent=None, picture=None):
    drawn = astronaut()[:200, :200] if picture is None else picture
    return credentials.sign(encode(drawn, kind), f"image/{kind}", made, parent)


def manifest(blob, kind="png"):
    with Reader(f"image/{kind}", BytesIO(blob), context=Context.from_dict({})) as reader:
        return reader.get_active_manifest()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_signed_picture_is_trusted_and_says_how_it_was_made(ours, kind):
    blob = signed(ours, kind)
    found = ours.read(blob, f"image/{kind}")
    assert found.state == "trusted"
    assert found.problems == ()
    assert found.made == MADE
    assert "nobody vouches" in found.signed_by
    (actions,) = (a for a in manifest(blob, kind)["assertions"] if a["label"] == "c2pa.actions.v2")
    (made,) = actions["data"]["actions"]
    assert made["action"] == "c2pa.created"
    assert made["digitalSourceType"].endswith("/trainedAlgorithmicMedia")


@pytest.mark.parametrize("kind", FORMATS)
def test_signing_changes_no_pixel_and_adds_no_thumbnail(ours, kind):
    bare = encode(astronaut(), kind)
    blob = ours.sign(bare, f"image/{kind}", MADE)
    with Image.open(BytesIO(blob)) as a, Image.open(BytesIO(bare)) as b:
        assert np.array_equal(np.array(a), np.array(b))
    assert 0 < len(blob) - len(bare) < 16_000
    assert "thumbnail" not in manifest(blob, kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_of_which_one_byte_was_changed_is_altered(ours, kind):
    bare = encode(astronaut()[:200, :200], kind)
    blob = bytearray(ours.sign(bare, f"image/{kind}", MADE))
    at = blob.find(bare[-400:-380])  # of the picture, not of the credential
    assert at > 0
    blob[at + 5] ^= 1
    found = ours.read(bytes(blob), f"image/{kind}")
    assert found.state == "altered"
    assert found.problems == ("assertion.dataHash.mismatch",)


def test_what_a_credential_says_cannot_be_changed(ours):
    blob = signed(ours).replace(b"someone/3", b"someone/4")
    found = ours.read(blob, "image/png")
    assert found.state == "forged"
    assert any("mismatch" in problem for problem in found.problems)


def test_a_credential_that_cannot_be_read_is_forged_and_no_failure(ours):
    # WebP checks no sum of its chunks, so the damage reaches the reader of credentials.
    blob = bytearray(signed(ours, "webp"))
    at = blob.find(DRAWN.encode())
    blob[at + len(DRAWN) + 1 : at + len(DRAWN) + 9] = b"\xff" * 8
    assert ours.read(bytes(blob), "image/webp").state == "forged"


def test_a_strangers_root_is_not_believed_whatever_it_calls_itself(ours, others):
    found = ours.read(signed(others), "image/png")
    assert found.state == "unknown_signer"
    assert found.problems == ("signingCredential.untrusted",)


def test_a_picture_without_a_credential_has_none(ours):
    assert ours.read(encode(astronaut(), "png"), "image/png").state == "absent"


def test_a_picture_that_was_saved_anew_has_lost_it(ours):
    with Image.open(BytesIO(signed(ours))) as image:
        out = BytesIO()
        image.save(out, "PNG")
    assert ours.read(out.getvalue(), "image/png").state == "absent"


def test_an_edit_names_the_picture_that_it_was_made_from(ours, others):
    parent = signed(others, "jpeg", Made(model="elsewhere/1"))
    blob = signed(ours, "webp", parent=parent)
    assert ours.read(blob, "image/webp").state == "trusted"
    told = manifest(blob, "webp")
    (ingredient,) = told["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert ingredient["format"] == "image/jpeg"
    assert ingredient["active_manifest"]
    (actions,) = (a for a in told["assertions"] if a["label"] == "c2pa.actions.v2")
    opened, edited = actions["data"]["actions"]
    assert opened["action"] == "c2pa.opened"
    assert edited["action"] == "c2pa.edited"
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")


def test_an_edit_of_a_picture_without_a_credential_keeps_none_of_its_pixels(ours):
    parent = encode(astronaut(), "jpeg")
    blob = signed(ours, parent=parent)
    assert ours.read(blob, "image/png").state == "trusted"
    assert len(blob) < len(encode(astronaut()[:200, :200], "png")) + 16_000
    assert manifest(blob)["ingredients"][0]["relationship"] == "parentOf"


def test_an_upload_whose_credential_cannot_be_read_can_still_be_edited(ours, caplog):
    parent = bytearray(signed(ours, "webp"))
    at = parent.find(DRAWN.encode())
    parent[at + len(DRAWN) + 1 : at + len(DRAWN) + 9] = b"\xff" * 8
    with caplog.at_level(logging.WARNING):
        blob = signed(ours, parent=bytes(parent))
    assert "cannot be read" in caplog.text
    assert ours.read(blob, "image/png").state == "trusted"


def test_no_address_that_a_file_names_is_asked(ours):
    """A manifest may lie elsewhere; who reads it must not go there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        created = {"actions": [{"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL}]}
        said = {"assertions": [{"label": "c2pa.actions.v2", "data": created}]}
        builder = Builder(said, Context.from_dict({}))
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa")
        out = BytesIO()
        signer = ours._signer
        assert isinstance(signer, Signer)
        builder.sign(signer, "image/jpeg", BytesIO(encode(astronaut(), "jpeg")), out)
        assert b"manifest.c2pa" in out.getvalue()
        assert ours.read(out.getvalue(), "image/jpeg").state != "trusted"
        signed(ours, parent=out.getvalue())
        with pytest.raises(TimeoutError):
            server.accept()


def video(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 64))
    for level in range(8):
        writer.write(np.full((64, 64, 3), 30 * level, np.uint8))
    writer.release()
    return path


def test_a_video_is_signed_as_a_file_and_as_bytes(ours, tmp_path):
    plain = video(tmp_path / "plain.mp4")
    ours.sign_file(plain, tmp_path / "signed.mp4", MADE)
    for blob in (
        (tmp_path / "signed.mp4").read_bytes(),
        ours.sign(plain.read_bytes(), "video/mp4", MADE),
    ):
        assert ours.read(blob, "video/mp4").state == "trusted"
        altered = bytearray(blob)
        altered[blob.find(b"mdat") + 40] ^= 1
        assert ours.read(bytes(altered), "video/mp4").state == "altered"


def test_a_video_that_cannot_be_signed_leaves_nothing(ours, tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"no video")
    with pytest.raises(C2paError):
        ours.sign_file(tmp_path / "no.mp4", tmp_path / "signed.mp4", MADE)
    assert [path.name for path in tmp_path.iterdir()] == ["no.mp4"]


def test_what_others_say_in_our_words_is_read_with_care(ours):
    long = Made(model="m" * 600)
    assert ours.read(signed(ours, made=long), "image/png").made is None


@pytest.mark.parametrize("kind", FORMATS)
def test_no_damage_makes_the_reader_fail_or_believe(ours, kind):
    bare = encode(astronaut()[:64, :64], kind)
    blob = ours.sign(bare, f"image/{kind}", MADE)
    rng = np.random.default_rng(5)
    for _ in range(60):
        harmed = bytearray(blob)
        for at in rng.integers(0, len(blob), 8):
            harmed[at] ^= int(rng.integers(1, 256))
        found = ours.read(bytes(harmed), f"image/{kind}")
        # Only padding may change unseen: nothing stands in it.
        assert found.state != "trusted" or found.made == MADE
        ours.read(bytes(harmed[: rng.integers(1, len(harmed))]), f"image/{kind}")
        harmed[:20] = blob[:20]  # what no longer begins as a picture is refused before
        edited = ours.sign(bare, f"image/{kind}", MADE, bytes(harmed))
        assert ours.read(edited, f"image/{kind}").state == "trusted"
