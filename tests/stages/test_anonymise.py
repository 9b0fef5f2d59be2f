import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from stages.anonymise import (
    MARGIN,
    Anonymise,
    StillRecognised,
    anonymise,
    hide,
    who_is,
)
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import Detections, distance
from tests.stages.models.photos import astronaut, group, hanks

WAYS = ("blur", "pixelate", "cover")


@pytest.fixture(scope="module")
def detector():
    return load_detector("dlib", "", 1280, 0.0, "cpu")


@pytest.fixture(scope="module")
def embedder():
    return load_embedder("dlib", "", "cpu")


@pytest.fixture(scope="module")
def six(detector, embedder):
    """A photograph of six people, its faces and their vectors."""
    found = detector.detect([group()])[0]
    assert len(found.scores) == 6
    return group(), found, embedder.embed(embedder.align(group(), found.landmarks_px))


def measured(picture, found, embedder):
    return embedder.embed(embedder.align(picture, found.landmarks_px))


@pytest.mark.parametrize("how", WAYS)
def test_nobody_is_recognised_who_was_hidden_and_the_one_who_is_kept_still_is(
    six, detector, embedder, how
):
    picture, found, vectors = six
    done = anonymise(picture, detector, embedder, vectors[2] + 0.01, how)
    assert done.kept == 2
    assert len(done.distances) == 5
    assert min(done.distances) > MARGIN * embedder.same_person_below
    apart = distance(measured(done.picture, found, embedder), vectors, "l2")
    others = [0, 1, 3, 4, 5]
    assert (apart[others] > embedder.same_person_below).all()
    assert apart[2] < 0.2
    left, top, right, bottom = found.boxes_px[2].astype(int)
    assert np.array_equal(
        done.picture[top + 10 : bottom - 10, left + 10 : right - 10],
        picture[top + 10 : bottom - 10, left + 10 : right - 10],
    )
    assert len(detector.detect([done.picture])[0].scores) == 1


def test_it_still_holds_when_the_picture_was_saved_anew(six, detector, embedder):
    picture, found, vectors = six
    done = anonymise(picture, detector, embedder, None)
    out = io.BytesIO()
    Image.fromarray(done.picture).save(out, "JPEG", quality=85)
    with Image.open(out) as image:
        apart = distance(measured(np.array(image), found, embedder), vectors, "l2")
    assert (apart > embedder.same_person_below).all()


def test_a_person_who_is_not_in_it_is_not_kept(six, detector, embedder):
    found = detector.detect([hanks()])[0]
    somebody = measured(hanks(), found, embedder)[0]
    done = anonymise(six[0], detector, embedder, somebody)
    assert done.kept == -1
    assert len(done.distances) == 6


def test_only_one_face_is_kept_however_many_are_like_it(embedder):
    vectors = np.array([[0.3], [0.1], [0.2], [2.0]], np.float32)
    assert who_is(np.zeros(1, np.float32), vectors, embedder) == 1
    assert who_is(np.full(1, 9, np.float32), vectors, embedder) == -1
    assert who_is(np.zeros(1, np.float32), vectors[:0], embedder) == -1


def test_a_picture_without_faces_is_left_as_it_is(detector, embedder):
    grey = np.full((200, 300, 3), 90, np.uint8)
    done = anonymise(grey, detector, embedder, None)
    assert np.array_equal(done.picture, grey)
    assert done.distances == ()


class Relentless:
    """Recognise everybody in anything."""

    card, chip_px = None, 4
    same_person_below = 0.6
    metric = "l2"

    def align(self, _, landmarks_px):
        return np.zeros((len(landmarks_px), 4, 4, 3), np.uint8)

    def embed(self, chips):
        return np.ones((len(chips), 8), np.float32)


class Shortsighted(Relentless):
    """Recognise everybody in everything that has more than some colours."""

    def __init__(self, colours):
        self.colours = colours

    def align(self, picture, landmarks_px):
        return np.tile(picture[None, 40:60, 40:60], (len(landmarks_px), 1, 1, 1))

    def embed(self, chips):
        several = [len(np.unique(chip.reshape(-1, 3), axis=0)) > self.colours for chip in chips]
        return np.array(several, np.float32)[:, None] * np.ones((1, 8), np.float32)


ONE = Detections(
    np.array([[30, 30, 70, 70]], np.float32), np.ones(1, np.float32),
    np.zeros((1, 5, 2), np.float32),
)  # fmt: skip


def test_what_is_recognised_whatever_is_done_is_an_error():
    vectors = np.ones((1, 8), np.float32)
    with pytest.raises(StillRecognised, match=r"face 0, hidden under noise, is 0\.000"):
        hide(astronaut()[:100, :100], ONE, vectors, [0], Relentless(), "pixelate")


def test_hiding_grows_stronger_until_it_is_enough():
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    vectors = np.ones((1, 8), np.float32)
    colours = {}
    for many in (400, 30, 1):
        out, apart = hide(picture, ONE, vectors, [0], Shortsighted(many), "pixelate")
        colours[many] = len(np.unique(out[40:60, 40:60].reshape(-1, 3), axis=0))
        assert apart[0] > 2
    assert colours[1] == 1
    assert colours[1] < colours[30] <= colours[400]


def row(blob, mime, detector, embedder):
    pixels = np.array(Image.open(io.BytesIO(blob)).convert("RGB"))
    height, width = pixels.shape[:2]
    batch = {
        "blob": [blob], "mime": [mime], "bytes_len": [len(blob)], "pixels": [pixels],
        "width_px": [width], "height_px": [height],
    }  # fmt: skip
    for stage in (
        DetectFaces(lambda: detector), AlignFaces(lambda: embedder), EmbedFaces(lambda: embedder)
    ):  # fmt: skip
        batch |= stage(batch)
    return batch


def two():
    """Cut two of the six out, so that less is searched."""
    return group()[230:470, 20:640]


def saved(picture, kind, **how):
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind, **how)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_in_a_corpus_the_main_face_is_left_and_rows_are_conserved(detector, embedder, kind, mime):
    blob = saved(two(), kind)
    batch = row(blob, mime, detector, embedder)
    alone = row(saved(hanks(), "PNG"), "image/png", detector, embedder)
    both = {name: [batch[name][0], alone[name][0]] for name in Anonymise.reads}
    out = Anonymise(lambda: embedder)(both)
    assert set(out) == set(Anonymise.writes)
    assert out["error"] == ["", ""]
    assert out["blob"][1] is alone["blob"][0]
    assert np.array_equal(out["face_embeddings"][1], alone["face_embeddings"][0])
    assert out["bytes_len"][0] == len(out["blob"][0])
    assert out["mime"][0] == mime
    assert np.array_equal(out["face_embeddings"][0][0], batch["face_embeddings"][0][0])
    assert not out["face_embeddings"][0][1:].any()
    assert batch["face_embeddings"][0][1:].any()
    again = row(out["blob"][0], mime, detector, embedder)
    assert again["num_faces"][0] == 1
    main = again["face_embeddings"][0][0], batch["face_embeddings"][0][0]
    assert distance(*main, "l2") < 0.3


def test_nothing_of_how_it_was_is_left_beside_the_pixels(detector, embedder):
    exif = Image.Exif()
    exif[0x010E] = "Six friends at cards"
    blob = saved(two(), "JPEG", exif=exif, comment=b"a thumbnail may lie here")
    batch = row(blob, "image/jpeg", detector, embedder)
    out = Anonymise(lambda: embedder, "cover")(batch)["blob"][0]
    assert b"Six friends" in blob
    assert b"Six friends" not in out
    assert b"thumbnail" not in out


def test_a_row_that_cannot_be_anonymised_is_an_error_and_keeps_no_picture(detector, embedder):
    batch = row(saved(two(), "JPEG"), "image/jpeg", detector, embedder)
    batch["face_embeddings"] = [np.ones((len(batch["face_boxes_px"][0]), 8), np.float32)]
    out = Anonymise(Relentless)(batch)
    assert out["error"] == ["not_anonymised"]
    assert "hidden under noise" in out["error_detail"][0]
    assert out["blob"] == [b""]
    assert not out["face_embeddings"][0].any()


@pytest.mark.slow
def test_photographs_of_many_people_are_anonymised(photographs, embedder):
    detector = load_detector("dlib", "", 300, 0.0, "cpu")
    hidden = 0
    with tarfile.open(photographs / "lfw-dev.tar") as archive:
        names = [member for member in archive.getmembers() if member.isfile()][::120]
        for member in names:
            with Image.open(archive.extractfile(member)) as image:
                picture = np.array(image.convert("RGB"))
            found = detector.detect([picture])[0]
            before = measured(picture, found, embedder)
            done = anonymise(picture, detector, embedder, None)
            after = distance(measured(done.picture, found, embedder), before, "l2")
            assert (after > embedder.same_person_below).all(), member.name
            hidden += len(done.distances)
    assert hidden >= len(names) - 2
