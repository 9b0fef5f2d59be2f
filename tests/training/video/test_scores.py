"""Videos of photographs: who is in them is known, and so is how they move."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.models.backend import load_detector, load_embedder
from stages.models.dlib_faces import embedder_card
from tests.stages.models.photos import group
from training.evaluation.metrics import cosines
from training.evaluation.recognise import Recogniser
from training.evaluation.scorers import load_scorer
from training.features import Features
from training.video.fvd import DIM, I3D
from training.video.inception import Inception
from training.video.motion import DisFlow
from training.video.scores import Measures, References, score_videos

FRAMES, FPS = 5, 8.0
MEASURES = Measures(fps=FPS, flow=DisFlow())


@pytest.fixture(scope="module")
def three():
    """Three people: a photograph of each, cut from the group, and their vectors."""
    (faces,) = load_detector("dlib", "", 1280, 0.0, "cpu").detect([group()])
    embedder = load_embedder("dlib", "", "cpu")
    vectors = embedder.embed(embedder.align(group(), faces.landmarks_px))
    photos = []
    for left, top, right, bottom in faces.boxes_px[:3].astype(int):
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        photos.append(group()[middle_y - 96 : middle_y + 96, middle_x - 80 : middle_x + 80])
    return np.stack(photos), vectors


@pytest.fixture(scope="module")
def recogniser(three):
    features = Features(
        corpus="x", image_px=64, codec="", latent_shape=(1, 2, 2), text_shape=(0, 0),
        identity_dim=128, embedder=embedder_card().tag, backend="dlib",
        identity_mean=tuple(three[1].mean(0).tolist()), identity_std=(1.0,) * 128,
    )  # fmt: skip
    return Recogniser(features, aligned=False)


def still(photo):
    return np.repeat(photo[None], FRAMES, axis=0)


@pytest.fixture(scope="module")
def scored(three, recogniser):
    """Everybody at rest; as somebody else; with a blank in every second frame."""
    photos, vectors = three
    videos = {
        "own": [still(photo) for photo in photos],
        "mixed": [still(photo) for photo in np.roll(photos, 1, axis=0)],
        "blinking": [still(photo) for photo in photos],
    }
    for video in videos["blinking"]:
        video[1::2] = 128
    references = References(identity=vectors[:3])
    return {n: score_videos(v, references, recogniser, MEASURES) for n, v in videos.items()}


def test_a_video_of_one_photograph_is_that_person_in_every_frame(scored):
    found = scored["own"].scores
    assert found["facesim"].value > 0.9
    assert found["facesim"].n == 3
    assert found["facesim_frames_p10"].value == pytest.approx(found["facesim"].value)
    assert found["facesim_frames_std"].value == pytest.approx(0, abs=1e-6)
    assert found["facesim_published"].value == pytest.approx(found["facesim"].value)
    assert found["face_share"].value == 1
    assert scored["own"].notes == []


def test_mixed_people_are_less_alike(scored):
    own, mixed = scored["own"].scores["facesim"], scored["mixed"].scores["facesim"]
    assert mixed.high < own.low
    assert mixed.value < 0.4
    assert scored["own"].scores["auc"].value == 1
    assert scored["mixed"].scores["auc"].value <= 0.5


def test_faceless_frames_are_told_count_as_0_and_are_left_out_as_published(scored):
    found, own = scored["blinking"], scored["own"].scores["facesim"].value
    assert found.scores["face_share"].value == pytest.approx(3 / 5)
    assert found.scores["facesim"].value == pytest.approx(own * 3 / 5, abs=0.01)
    assert found.scores["facesim_published"].value == pytest.approx(own, abs=0.01)
    assert found.scores["facesim_frames_std"].value > 0.3
    assert found.notes[0].startswith("6 of 15 frames that were looked at show no face")


def test_videos_at_rest_have_no_motion(scored):
    found = scored["own"].scores
    assert (found["motion"].value, found["dynamic_degree"].value) == (0, 0)
    assert found["motion_smoothness"].value == 1


def test_what_was_not_given_is_absent_with_its_reason(scored):
    absent = scored["own"].absent
    assert {name for name, why in absent.items() if why == "no --clip was given"} == {
        "temporal_consistency", "clip_t", "clip_i", "clipscore_published",
    }  # fmt: skip
    assert absent["subject_consistency"] == "no --dino was given"
    assert absent["fvd"] == "no --i3d was given"
    assert absent["fid_published"] == absent["fid_inception"] == "no --inception was given"
    assert absent["facesim_ceiling"] == "held-out people have one clip each"
    assert absent["auc_ceiling"] == "held-out people have one clip each"
    assert absent["motion_real"] == "there are no real videos to compare with"


def test_what_a_score_stands_on_is_kept_of_each_person(scored):
    for found in scored.values():
        assert {len(values) for values in found.each.values()} == {3}
        for name, values in found.each.items():
            assert np.nanmean(values) == pytest.approx(found.scores[name].value), name


def test_the_sheet_shows_frames_with_what_was_seen_in_them(scored):
    for row in scored["blinking"].rows:
        assert [heading for heading, _, _ in row] == ["first", "1/4", "middle", "3/4", "last"]
        assert row[1][2] == row[3][2] == "no face"
        assert float(row[0][2]) > 0.8


def test_encoders_of_pictures_compare_neighbours_reference_and_prompt(three, recogniser):
    photos, vectors = three
    clip = load_scorer("clip", "random:tiny-clip")
    measures = replace(MEASURES, clip=clip, dino=load_scorer("dino", "random:tiny-dino"))
    references = References(
        identity=vectors[:2], second=vectors[:2], pictures=list(photos[:2]),
        prompts=["a man " * 60, ""], real=[still(photo) for photo in photos[:2]],
    )  # fmt: skip
    videos = [still(photos[0]), np.stack([photos[0], photos[1]])]
    found = score_videos(iter(videos), references, recogniser, measures)
    views = clip.pictures(photos)
    apart = cosines(views[:1], views[1:2])[0]
    assert found.each["temporal_consistency"] == pytest.approx([1, apart], abs=1e-5)
    assert found.each["clip_i"] == pytest.approx([1, (apart + 1) / 2], abs=1e-5)
    assert found.each["subject_consistency"][0] > found.each["subject_consistency"][1]
    assert np.isnan(found.each["clip_t"]).tolist() == [False, True]
    assert found.scores["clip_t"].n == found.scores["clipscore_published"].n == 1
    assert found.scores["facesim_ceiling"].value == pytest.approx(1)
    assert found.scores["auc_ceiling"].value == 1
    assert found.scores["motion_real"].value == 0
    assert "CLIP-T: 1 of 2 prompts are longer than CLIP reads." in found.notes
    assert found.rows[0][0][0] == "reference"


def test_without_a_face_nothing_is_made_up(three, recogniser):
    blank = np.full_like(still(three[0][0]), 128)
    references = References(identity=three[1][:2])
    found = score_videos([blank, blank], references, recogniser, MEASURES)
    assert [found.scores[n].value for n in ("facesim", "facesim_published", "face_share")] == [
        0
    ] * 3
    assert found.absent["auc"] == "no face was seen in any frame"


@pytest.fixture(scope="module")
def colours():
    """Inception but for its network: vectors are mean colours."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return Inception(network, load_detector("dlib", "", 320, 0.0, "cpu"), "cpu")


def test_fid_as_published_skips_what_has_no_face_and_fid_does_not(three, recogniser, colours):
    photos, vectors = three
    blinking, blank = still(photos[0]), np.full_like(still(photos[0]), 128)
    blinking[1:] = 128
    references = References(
        identity=vectors[[0, 1, 1]], pictures=list(photos[[0, 1, 1]]),
        real=[still(photo) for photo in photos],
    )  # fmt: skip
    measures = replace(MEASURES, inception=colours)
    videos = [blinking, still(photos[2]), blank]
    found = score_videos(videos, references, recogniser, measures)
    own, other = colours(colours.faces(photos[1:]), published=True)
    assert found.each["fid_published"] == pytest.approx([0, ((own - other) ** 2).sum(), 0])
    assert found.each["fid_published"][1] > 1e-4
    assert found.scores["fid_inception"].n == 3 * 16


class Windows(I3D):
    """I3D but for its network: two vectors of each video."""

    def __init__(self):
        pass

    def __call__(self, frames):  # noqa: ARG002 - it knows them
        return np.zeros((2, DIM), dtype=np.float32)


def test_fvd_of_a_few_videos_is_absent_and_says_how_many_vectors_it_lacks(three, recogniser):
    photos, vectors = three
    references = References(identity=vectors[:1], real=[still(photos[0])])
    measures = replace(MEASURES, i3d=Windows())
    found = score_videos([still(photos[0])], references, recogniser, measures)
    assert found.absent["fvd"] == "2 vectors cannot fill the 400 dimensions of the encoder"
