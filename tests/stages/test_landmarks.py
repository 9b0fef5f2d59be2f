import numpy as np
import pytest

from stages.landmarks import ARCFACE_TEMPLATE_PX, arcface5, mean_face, similarity, unflatten

RNG = np.random.default_rng(0)


def seen(scheme, yaw_deg=0.0):
    """Project the mean face, turned to the picture's right, 50 px between the eyes."""
    x, y, z = mean_face(scheme).T
    yaw = np.radians(yaw_deg)
    turned = np.stack([x * np.cos(yaw) + z * np.sin(yaw), y], axis=-1)
    return (turned * 50 + [200, 100]).astype(np.float32)[None]


def test_ten_numbers_per_face_become_five_points():
    points = unflatten([list(range(10)), list(range(10, 20))])
    assert points.shape == (2, 5, 2)
    assert points[1, 0].tolist() == [10, 11]


def test_a_row_without_faces_has_no_points():
    assert unflatten([]).shape == (0, 5, 2)


def test_a_similarity_is_recovered_from_its_effect():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * 1.7
    points = ((ARCFACE_TEMPLATE_PX - [30, 40]) @ np.linalg.inv(turn).T).astype(np.float32)
    (matrix,) = similarity(points[None], ARCFACE_TEMPLATE_PX)
    np.testing.assert_allclose(matrix, np.column_stack([turn, [30, 40]]), atol=1e-3)


def test_no_similarity_lies_closer_than_the_one_found():
    points = RNG.uniform(0, 100, (1, 5, 2)).astype(np.float32)
    (matrix,) = similarity(points, ARCFACE_TEMPLATE_PX)

    def error(m):
        moved = points[0] @ m[:, :2].T + m[:, 2]
        return ((moved - ARCFACE_TEMPLATE_PX) ** 2).sum()

    for _ in range(50):
        a, b, x, y = RNG.normal(0, [0.01, 0.01, 1, 1])
        nearby = matrix + np.array([[a, -b, x], [b, a, y]])
        assert error(matrix) <= error(nearby)


def test_one_point_five_times_gives_a_finite_matrix():
    same = np.full((1, 5, 2), 7, dtype=np.float32)
    assert np.isfinite(similarity(same, ARCFACE_TEMPLATE_PX)).all()
    assert np.isfinite(arcface5(same, "dlib5")).all()


def test_arcface_points_stay_as_they_are():
    points = RNG.uniform(0, 100, (3, 5, 2)).astype(np.float32)
    assert (arcface5(points, "arcface5") == points).all()


def test_the_mean_face_is_estimated_exactly():
    np.testing.assert_allclose(arcface5(seen("dlib5"), "dlib5"), seen("arcface5"), atol=0.5)


@pytest.mark.parametrize("yaw_deg", [-40, -20, 20, 40])
def test_a_turned_mean_face_is_estimated_within_a_tenth_of_the_eye_distance(yaw_deg):
    gaps = arcface5(seen("dlib5", yaw_deg), "dlib5") - seen("arcface5", yaw_deg)
    assert np.abs(gaps).max() < 5


def test_a_turned_picture_turns_the_estimate():
    points = seen("dlib5", 20)
    quarter = np.array([[0, -1], [1, 0]], dtype=np.float32)
    np.testing.assert_allclose(
        arcface5(points @ quarter.T, "dlib5"), arcface5(points, "dlib5") @ quarter.T, atol=1e-3
    )


def test_faces_do_not_mind_their_company():
    faces = np.concatenate([seen("dlib5", yaw) for yaw in (-30, 0, 30)])
    together = arcface5(faces, "dlib5")
    assert together.shape == (3, 5, 2)
    np.testing.assert_array_equal(together[1:2], arcface5(faces[1:2], "dlib5"))
