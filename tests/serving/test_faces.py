import asyncio
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from serving.errors import Refusal
from serving.faces import Faces
from serving.recipes import FaceSettings
from stages.chain import Chain
from stages.decode import Decode
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.models.backend import load_detector, load_embedder
from tests.serving.doors import data, faces, he, she
from tests.stages.models.photos import astronaut, group


def curated(*blobs):
    """Measure photographs as a curation does."""
    detector = partial(load_detector, "dlib", "", 640, 0.1, "cpu")
    embedder = partial(load_embedder, "dlib", "", "cpu")
    stages = Decode(), DetectFaces(detector), AlignFaces(embedder), EmbedFaces(embedder)
    rows = Chain(stages)(pa.table({"blob": list(blobs)}))
    return rows.to_pylist()


def test_the_same_photograph_gives_the_same_vector_as_in_a_corpus():
    for blob, row in zip((she(), he()), curated(she(), he()), strict=True):
        seen = asyncio.run(faces().embed(blob))
        assert len(seen.faces) == row["num_faces"] == 1
        assert np.abs(seen.faces[0].vector - row["face_embeddings"][0]).max() < 1e-6
        assert seen.faces[0].box_px == pytest.approx(row["face_boxes_px"][0])
        assert faces().embedder == row["embedder"]


def test_photographs_measured_at_once_are_measured_as_alone():
    blobs = [data(np.roll(astronaut(), 11 * i, axis=1)) for i in range(4)]

    async def at_once():
        return await asyncio.gather(*(faces().embed(blob) for blob in blobs * 3))

    alone = [asyncio.run(faces().embed(blob)) for blob in blobs]
    for seen, expected in zip(asyncio.run(at_once()), alone * 3, strict=True):
        assert seen.faces[0].box_px == expected.faces[0].box_px
        assert np.array_equal(seen.faces[0].vector, expected.faces[0].vector)


def test_two_photographs_of_one_person_verify_and_of_two_do_not():
    smaller = data(astronaut()[:400, 60:400], quality=60)
    same = asyncio.run(faces().verify(she(), smaller))
    other = asyncio.run(faces().verify(she(), he()))
    assert same.same_person
    assert not other.same_person
    assert same.distance < same.threshold <= other.distance


def test_a_reference_is_the_mean_of_one_persons_photographs():
    photos = [she(), data(astronaut()[:400, 60:400])]
    reference = asyncio.run(faces().reference(photos))
    singles = [asyncio.run(faces().embed(photo)).faces[0].vector for photo in photos]
    assert np.allclose(reference.vector, np.mean(singles, axis=0), atol=1e-6)
    assert [crop.shape for crop in reference.faces] == [(150, 150, 3)] * 2
    assert reference.embedder == faces().embedder


@pytest.mark.parametrize(
    ("photos", "code", "details"),
    [
        (lambda: [she(), data(np.full((300, 300, 3), 99, np.uint8))], "no_face", {"photo": 1}),
        (lambda: [data(group())], "several_faces", {"photo": 0, "faces": 2}),
        (lambda: [she(), he()], "different_people", {"photos": [0, 1]}),
        (lambda: [she(), she(), she(), he()], "different_people", {"photos": [3]}),
        (lambda: [she(), b"nothing"], "unsupported_media_type", {}),
        (lambda: [she()[:5000]], "unreadable_image", {}),
    ],
)
def test_photographs_that_show_no_one_person_are_refused_and_named(photos, code, details):
    with pytest.raises(Refusal) as refusal:
        asyncio.run(faces().reference(photos()))
    assert refusal.value.code == code
    assert refusal.value.details == details


def test_half_of_each_of_two_people_is_nobody():
    with pytest.raises(Refusal) as refusal:
        asyncio.run(faces().reference([she(), he()] * 2))
    assert refusal.value.details == {"photos": [0, 1, 2, 3]}


def test_beyond_its_queue_it_refuses_and_recovers():
    few = Faces(FaceSettings(at_once=1))

    async def rush():
        asked = [few.detect(she()) for _ in range(30)]
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(rush())
    codes = [answer.code for answer in answers if isinstance(answer, Refusal)]
    assert codes == ["overloaded"] * 13
    assert few.busy == 0
    assert len(asyncio.run(few.detect(she())).faces) == 1
    few.close()
