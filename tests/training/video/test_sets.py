import numpy as np
import pytest

from training.evaluation.findings import Evaluation
from training.evaluation.scorers import frechet
from training.video.inception import squared_distances
from training.video.sets import VideoSet, compare_sets, frechet_score

RNG = np.random.default_rng(0)


class Mean:
    """An encoder that says the mean colour of each picture."""

    def __call__(self, frames):
        return frames.mean(axis=(1, 2))


class Windows(Mean):
    """The same of windows of 4 frames."""

    def __call__(self, frames):
        return super().__call__(frames[::4])


def videos(count, shift=0, frames=8):
    shape = (count, frames, 1, 1, 3)
    return (np.random.default_rng(1).integers(0, 200, shape) + shift).astype(np.uint8)


BOTH = (Mean(), Windows())


def filled(some, encoders=BOTH):
    held = VideoSet(*encoders)
    for frames in some:
        held.add(frames)
    return held


def test_a_shift_of_all_vectors_is_its_square():
    vectors = [RNG.normal(size=(3, 4)) for _ in range(10)]
    score, _ = frechet_score([each + np.array([3.0, 0, 0, 0]) for each in vectors], vectors)
    assert score.value == pytest.approx(9)
    assert score.n == 30
    assert score.low <= score.value <= score.high


def test_fewer_vectors_than_dimensions_have_no_distance():
    score, why = frechet_score([RNG.normal(size=(2, 8))] * 4, [RNG.normal(size=(2, 8))] * 5)
    assert score is None
    assert why == "8 vectors cannot fill the 8 dimensions of the encoder"


def test_both_distances_are_told_with_their_numbers():
    found = Evaluation()
    compare_sets(found, filled(videos(6, shift=10)), filled(videos(6)))
    assert found.scores["fvd"].value == pytest.approx(3 * 10**2)
    assert (found.scores["fvd"].n, found.scores["fid_inception"].n) == (12, 6 * 16)
    assert any(note.startswith("fvd: of 12 vectors") for note in found.notes)


def test_what_is_missing_is_absent_with_its_reason():
    found = Evaluation()
    compare_sets(found, filled(videos(6), (None, Windows())), filled([], (None, Windows())))
    assert found.absent == {
        "fid_inception": "no --inception was given",
        "fvd": "there are no real videos to compare with",
    }
    short = Evaluation()
    none = VideoSet(None, Windows(), 1, windows=[np.zeros((0, 3))])
    compare_sets(short, none, filled(videos(6), (None, Windows())))
    assert short.absent["fvd"] == "videos of fewer than 9 frames are too short for I3D"


def test_what_consisid_calls_fid_is_a_squared_distance():
    reference, frames = RNG.normal(size=5), RNG.normal(size=(3, 5))
    twice = np.stack([reference, reference])
    as_published = [frechet(twice, np.stack([each, each])) for each in frames]
    assert squared_distances(frames, reference) == pytest.approx(as_published)
