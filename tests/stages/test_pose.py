import numpy as np
import pytest

from stages.landmarks import mean_face
from stages.models.dlib_faces import DlibDetector
from stages.pose import ScorePose, head_pose
from tests.stages.models.photos import group

SCHEMES = ["dlib5", "arcface5"]


def project(scheme, yaw_deg, pitch_deg, roll_deg, eyes_px=60.0):
    """Turn the mean face and look at it from far away; written with matrices, unlike the stage."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    look_up = np.array(
        [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    )
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    points = mean_face(scheme) @ (tilt @ turn @ look_up).T
    return (points[:, :2] * eyes_px + [400, 300]).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_known_angles_are_recovered(scheme):
    rng = np.random.default_rng(0)
    angles = np.stack(
        [rng.uniform(-40, 40, 200), rng.uniform(-20, 20, 200), rng.uniform(-60, 60, 200)], axis=1
    )
    points = np.stack([project(scheme, *each) for each in angles])
    errors = np.abs(head_pose(points, scheme) - angles)
    assert errors[:, 0].max() < 2
    assert errors[:, 1].max() < 6  # the prior pulls turned faces most
    assert np.median(errors[:, 1]) < 1
    assert errors[:, 2].max() < 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_frontal_face_has_no_angles(scheme):
    points = project(scheme, 0, 0, 0)[None]
    np.testing.assert_allclose(head_pose(points, scheme), 0, atol=0.5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_neither_size_nor_place_changes_the_angles(scheme):
    near, far = (project(scheme, 20, 10, -15, eyes_px)[None] for eyes_px in (300.0, 15.0))
    moved = head_pose(far + np.float32(1000), scheme)
    np.testing.assert_allclose(head_pose(near, scheme), moved, atol=0.1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_landmarks_off_by_a_pixel_cost_a_few_degrees(scheme):
    rng = np.random.default_rng(0)
    exact = np.stack([project(scheme, *rng.uniform(-15, 15, 3)) for _ in range(200)])
    noisy = (exact + rng.normal(0, 1, exact.shape)).astype(np.float32)
    errors = np.abs(head_pose(noisy, scheme) - head_pose(exact, scheme))
    assert np.median(errors, axis=0).max() < 4


def test_the_signs_are_those_of_the_picture():
    frontal = project("arcface5", 0, 0, 0)
    right, up = frontal.copy(), frontal.copy()
    right[2, 0] += 10  # the tip of the nose moves to the picture's right
    up[2, 1] -= 10  # and up
    clockwise = frontal.copy()
    clockwise[:, 0] -= (frontal[:, 1] - 300) * 0.2  # what is above moves to the right
    clockwise[:, 1] += (frontal[:, 0] - 400) * 0.2
    yaw, pitch, roll = np.diag(head_pose(np.stack([right, up, clockwise]), "arcface5"))
    assert yaw > 5
    assert pitch > 5
    assert roll == pytest.approx(np.degrees(np.arctan(0.2)), abs=0.5)


def test_a_mirrored_photograph_has_mirrored_angles():
    detector = DlibDetector(1280)
    (faces,) = detector.detect([group()])
    width = group().shape[1]
    # Mirrored, the eye on the right is the one on the left: the pairs of corners change places.
    mirrored = faces.landmarks_px[:, [2, 3, 0, 1, 4]] * [-1, 1] + [width, 0]
    straight, turned = (
        head_pose(points.astype(np.float32), detector.scheme)
        for points in (faces.landmarks_px, mirrored)
    )
    assert np.abs(straight[:, 0]).max() > 5
    np.testing.assert_allclose(turned, straight * [-1, 1, -1], atol=3)


def test_five_times_the_same_point_gives_finite_angles():
    points = np.full((1, 5, 2), 50, dtype=np.float32)
    assert np.isfinite(head_pose(points, "dlib5")).all()


def test_the_stage_gives_every_row_its_own_faces():
    stage = ScorePose("arcface5")
    left, right = (project("arcface5", yaw, 0, 0).reshape(1, 10) for yaw in (-30, 30))
    out = stage({"face_landmarks_px": [right.tolist(), [], np.concatenate([left, right])]})
    assert tuple(out) == stage.writes
    assert [[round(yaw / 10) for yaw in row] for row in out["face_yaws_deg"]] == [[3], [], [-3, 3]]
    assert [len(row) for row in out["face_rolls_deg"]] == [1, 0, 2]


def test_the_stage_takes_a_batch_without_faces():
    out = ScorePose("dlib5")({"face_landmarks_px": [[], []]})
    assert out == {name: [[], []] for name in ScorePose.writes}
