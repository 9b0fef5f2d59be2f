import math

import cv2
import numpy as np
import pytest
import torch

from training.nets.landmarks_drawing import drawn_landmarks, frontal_landmarks_px

FACE = np.array([[30, 25], [70, 27], [52, 50], [36, 70], [66, 71]], np.float32)
RED, GREEN, BLUE, YELLOW, PINK = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255),
)  # fmt: skip


def published(points, height, width):
    """Draw as InstantID's ``draw_kps`` says: in one array of numbers, limb after limb."""
    canvas = np.zeros([height, width, 3])
    colours = [RED, GREEN, BLUE, YELLOW, PINK]
    for limb in np.array([[0, 2], [1, 2], [3, 2], [4, 2]]):
        x, y = points[limb][:, 0], points[limb][:, 1]
        length = ((x[0] - x[1]) ** 2 + (y[0] - y[1]) ** 2) ** 0.5
        angle = math.degrees(math.atan2(y[0] - y[1], x[0] - x[1]))
        middle = (int(np.mean(x)), int(np.mean(y)))
        ellipse = cv2.ellipse2Poly(middle, (int(length / 2), 4), int(angle), 0, 360, 1)
        cv2.fillConvexPoly(canvas, ellipse, colours[limb[0]])
    canvas = (canvas * 0.6).astype(np.uint8)
    for colour, (x, y) in zip(colours, points, strict=True):
        cv2.circle(canvas, (int(x), int(y)), 10, colour, -1)
    return canvas


def drawn(points, height, width):
    (picture,) = drawn_landmarks(torch.from_numpy(points)[None], height, width)
    assert picture.shape == (3, height, width)
    return (picture.permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize(("height", "width"), [(512, 512), (1024, 768)])
def test_from_512_px_on_it_is_the_published_drawing(height, width):
    rng = np.random.default_rng(0)
    faces = [FACE * 5, *(rng.uniform(-50, 800, (20, 5, 2)).astype(np.float32))]
    for face in faces:
        assert np.array_equal(drawn(face, height, width), published(face, height, width))


def test_each_point_is_where_it_is_and_of_its_colour():
    picture = drawn(FACE, 96, 96)
    for (x, y), colour in zip(FACE.astype(int), (RED, GREEN, BLUE, YELLOW, PINK), strict=True):
        assert tuple(picture[y, x]) == colour
    left, nose = FACE[0], FACE[2]
    x, y = ((left + nose) / 2).astype(int)
    assert tuple(picture[y, x]) == (153, 0, 0)  # 0.6 of red
    assert not picture[:10].any()


def test_small_pictures_have_small_points():
    """So that the five are still five; a resized drawing would have grey edges instead."""
    face = FACE / 100 * 64
    ours, theirs = drawn(face, 64, 64), published(face, 64, 64)
    assert (ours > 0).any(axis=2).mean() < 0.1 < 0.3 < (theirs > 0).any(axis=2).mean()
    assert set(np.unique(ours)) <= {0, 153, 255}


def test_a_face_outside_the_picture_is_drawn_as_far_as_it_is_inside():
    assert drawn(FACE + 1000, 96, 96).any() == 0
    half = drawn(FACE - [50, 0], 96, 96)
    assert np.array_equal(half[:, :30], drawn(FACE, 96, 96)[:, 50:80])


def test_each_face_of_a_batch_is_drawn_on_its_own():
    both = drawn_landmarks(torch.from_numpy(np.stack([FACE, FACE + 5])), 96, 96)
    assert torch.equal(both[0], drawn_landmarks(torch.from_numpy(FACE)[None], 96, 96)[0])
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (1024, 768), (768, 1024)])
def test_the_frontal_face_looks_at_the_camera_from_the_upper_middle(height, width):
    left, right, nose, *mouth = frontal_landmarks_px(height, width)
    assert abs((left + right)[0] / 2 - width / 2) < 0.01 * width
    assert abs(nose[0] - width / 2) < 0.02 * width
    assert abs(left[1] - right[1]) < 0.01 * height
    assert left[0] < right[0]
    assert 0.3 * height < left[1] < nose[1] < mouth[0][1] < 0.75 * height
