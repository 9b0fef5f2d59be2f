import numpy as np
import pytest

from stages.video.settings import VideoSettings
from stages.video.tracks import Seen, Tracker, overlap

PEOPLE = np.eye(4, dtype=np.float32) * 0.7
"""Four embeddings, 0.99 apart: strangers at a threshold of 0.6."""


def look(*faces, sharpness=100.0, yaw=0.0):
    """Put people at places: pairs of a number and the left edge of a box of 50 px."""
    lefts = np.float32([left for _, left in faces])
    rng = np.random.default_rng(int(lefts.sum()) if len(faces) else 0)
    noise = rng.normal(0, 0.01, (len(faces), 4))
    tops = np.zeros_like(lefts)
    return Seen(
        boxes_px=np.stack([lefts, tops, lefts + 50, tops + 50], axis=1).reshape(-1, 4),
        scores=np.ones(len(faces), np.float32),
        landmarks_px=np.zeros((len(faces), 5, 2), np.float32),
        embeddings=(PEOPLE[[who for who, _ in faces]] + noise).astype(np.float32),
        sharpness=np.full(len(faces), sharpness, np.float32),
        angles_deg=np.tile(np.float32([yaw, 0, 0]), (len(faces), 1)),
    )


def follow(*looks, metric="l2", **settings):
    """Return who was taken for one person: the people and the frames of each track."""
    tracker = Tracker(VideoSettings(**settings), metric, 0.6)
    for i, seen in enumerate(looks):
        tracker.push(10 * i, seen)
    return [
        ([int(np.argmax(vector)) for vector in track.embeddings], track.frames)
        for track in tracker.finish()
    ]


def test_two_people_are_two_tracks():
    looks = [look((0, i), (1, 200 - i)) for i in range(5)]
    assert follow(*looks) == [([0] * 5, [0, 10, 20, 30, 40]), ([1] * 5, [0, 10, 20, 30, 40])]


def test_people_who_change_places_stay_themselves():
    looks = [look((0, 40 * i), (1, 160 - 40 * i)) for i in range(5)]
    assert [who for who, _ in follow(*looks)] == [[0] * 5, [1] * 5]


def test_whoever_sits_down_in_the_same_place_is_somebody_else():
    assert [who for who, _ in follow(*[look((0, 9))] * 3, *[look((1, 9))] * 3)] == [
        [0] * 3,
        [1] * 3,
    ]


def test_a_face_that_jumps_is_known_by_its_looks():
    assert [who for who, _ in follow(look((0, 0)), look((0, 300)), look((0, 20)))] == [[0] * 3]


def test_a_blurred_face_is_known_by_its_place():
    blurred = look((0, 12))
    blurred.embeddings[:] = [[0.35, 0.35, 0, 0]]
    tracks = follow(look((0, 9)), blurred, look((0, 14)))
    assert [frames for _, frames in tracks] == [[0, 10, 20]]


@pytest.mark.parametrize(("missing", "tracks"), [(3, 1), (4, 2)])
def test_a_gap_is_bridged_up_to_its_limit(missing, tracks):
    seen = [look((0, 5))] * 2
    assert len(follow(*seen, *[look()] * missing, *seen, max_gap=3)) == tracks


def test_a_face_seen_once_is_no_track():
    assert follow(look(), look((2, 9)), look(), look()) == []
    assert len(follow(look((2, 9)), min_track_looks=1)) == 1


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_template_listens_to_sharp_and_frontal_faces(metric):
    tracker = Tracker(VideoSettings(), metric, 0.6)
    good, soft, turned = look((0, 0)), look((0, 0), sharpness=1.0), look((0, 0), yaw=80.0)
    soft.embeddings[:] = turned.embeddings[:] = [[0.5, 0.3, 0, 0]]
    for i, seen in enumerate([good, soft, good, turned]):
        tracker.push(i, seen)
    (track,) = tracker.finish()
    template = track.template(metric)
    plain = np.mean(track.embeddings, axis=0)
    assert template[1] / template[0] < 0.4 * plain[1] / plain[0]
    if metric == "cosine":
        assert np.linalg.norm(template) == pytest.approx(1, abs=0.02)


def test_boxes_overlap_by_their_common_share():
    box = np.float32([0, 0, 10, 10])
    others = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlap(box, others), [1, 1 / 3, 0, 0])
