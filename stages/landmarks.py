"""Five points of a face: their schemes, and the transforms between them."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Float32

from stages.models.faces import LandmarkScheme

ARCFACE_TEMPLATE_PX: npt.NDArray[np.float32] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]],
    dtype=np.float32,
)  # fmt: skip
"""Where ArcFace (arXiv:1801.07698) puts the points of ``arcface5`` in a crop of 112 px."""

DLIB_TEMPLATE: npt.NDArray[np.float32] = np.array(
    [[0.85957, 0.21350], [0.64606, 0.22897], [0.12058, 0.21373], [0.33409, 0.22906],
     [0.49011, 0.62780]],
    dtype=np.float32,
)  # fmt: skip
"""Where dlib's ``get_face_chip`` puts the points of ``dlib5``, as shares of the unpadded crop."""

_DEPTHS = {
    "dlib5": (-0.05, 0.05, -0.05, 0.05, 0.35),
    "arcface5": (0.10, 0.10, 0.55, 0.15, 0.15),
}


def mean_face(scheme: LandmarkScheme) -> Float[np.ndarray, "5 3"]:
    """Return a frontal mean face: x to the right, y down, z towards the camera.

    The unit is the distance between the eyes, the origin is between them. x and y are the
    templates that the two alignments aim at; each is the mean of many aligned faces. The depths are
    round numbers for an adult whose eyes are 63 mm apart: in front of the corners of the eyes are
    the pupils by 6 mm, the corners of the mouth by 9, the base of the nose by 22 and its tip by 35.
    """
    template = DLIB_TEMPLATE if scheme == "dlib5" else ARCFACE_TEMPLATE_PX
    left, right = _eyes(template[None], scheme)
    plane = (template - (left + right) / 2) / np.linalg.norm(right - left)
    return np.column_stack([plane, _DEPTHS[scheme]]).astype(np.float64)


def unflatten(row: Iterable[Any]) -> Float32[np.ndarray, "faces 5 2"]:
    """Return the points of one row of the column ``face_landmarks_px``: ten numbers per face."""
    return np.array(list(row), dtype=np.float32).reshape(-1, 5, 2)


def similarity(
    points: Float[np.ndarray, "faces 5 2"], target: Float[np.ndarray, "5 2"]
) -> Float[np.ndarray, "faces 2 3"]:
    """Find the rotation, scaling and shift that bring each face's points closest to ``target``.

    Closest in the sense of least squares, without reflection. In two dimensions the general
    solution (Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", IEEE PAMI 13(4), 1991) is one division of complex numbers.

    Returns:
        The matrices that ``cv2.warpAffine`` takes; all zeros in the left two columns for a face
        whose five points are one.
    """
    source_F5, target_5 = as_complex(points), as_complex(target)
    middle_F1 = source_F5.mean(axis=1, keepdims=True)
    centred_F5 = source_F5 - middle_F1
    spread_F = (np.abs(centred_F5) ** 2).sum(axis=1)
    turn_F = (centred_F5.conj() * (target_5 - target_5.mean())).sum(axis=1)
    turn_F = turn_F / np.maximum(spread_F, 1e-12)
    shift_F = target_5.mean() - turn_F * middle_F1[:, 0]
    rows = [[turn_F.real, -turn_F.imag, shift_F.real], [turn_F.imag, turn_F.real, shift_F.imag]]
    return np.moveaxis(np.array(rows), -1, 0)


def arcface5(
    points: Float32[np.ndarray, "faces 5 2"], scheme: LandmarkScheme
) -> Float32[np.ndarray, "faces 5 2"]:
    """Express five points of either scheme as ``arcface5``; from ``dlib5`` this is an ESTIMATE.

    The eye centres are the middles of the eyes' corners: as good as the corners. Tip of the nose
    and corners of the mouth are not among dlib's points. They are put where the mean face has
    them, as seen from the base of the nose: where that is lower below the eyes, so are they, in
    the mean face's proportions (0.77 eye distances to the base, 0.57 to the tip, 1.15 to the
    mouth); where it is off to one side, the face is turned, and they are off by their depths in
    proportion to its depth. So the nose's own length, a smile or an open mouth do not show.
    Good enough to condition a generator or to draw on; no ground truth for a landmark model.
    """
    if scheme == "arcface5":
        return points
    left_F2, right_F2 = _eyes(points, scheme)
    left_F1, right_F1 = as_complex(left_F2)[:, None], as_complex(right_F2)[:, None]
    middle_F1, across_F1 = (left_F1 + right_F1) / 2, right_F1 - left_F1
    # The base of the nose in the frame of the eyes: aside is the real part, below the imaginary.
    base_F1 = (as_complex(points[:, 4:]) - middle_F1) / np.where(across_F1 == 0, 1, across_F1)
    x_3, y_3, z_3 = mean_face("arcface5")[2:].T
    _, base_y, base_z = mean_face("dlib5")[4]
    aside_F3 = x_3 + base_F1.real * z_3 / base_z
    below_F3 = base_F1.imag * y_3 / base_y
    estimated_F3 = middle_F1 + across_F1 * (aside_F3 + 1j * below_F3)
    all_F5 = np.concatenate([left_F1, right_F1, estimated_F3], axis=1)
    return np.stack([all_F5.real, all_F5.imag], axis=-1).astype(np.float32)


def _eyes(
    points: Float32[np.ndarray, "faces 5 2"], scheme: LandmarkScheme
) -> tuple[Float32[np.ndarray, "faces 2"], Float32[np.ndarray, "faces 2"]]:
    """Return the centres of the eyes on the picture's left and right."""
    if scheme == "arcface5":
        return points[:, 0], points[:, 1]
    return points[:, 2:4].mean(axis=1), points[:, 0:2].mean(axis=1)


def as_complex(points: Float[np.ndarray, "*more 2"]) -> npt.NDArray[np.complex128]:
    """Write points as x + iy, so that turning and scaling are one multiplication."""
    return np.asarray(points[..., 0] + 1j * points[..., 1].astype(np.float64))
