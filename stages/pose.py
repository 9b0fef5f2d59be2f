"""Score where a face looks, from its five landmarks."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32

from stages.landmarks import as_complex, mean_face, unflatten
from stages.models.faces import LandmarkScheme
from stages.types import Batch

# Letters of axes: F faces, P points (five), K unknowns (yaw, pitch, two of the similarity).

_STEPS = 15
_LARGEST_STEP_RAD = 0.3
_DAMPING = 1e-3
_PITCH_PRIOR = 0.05


def head_pose(
    points: Float32[np.ndarray, "faces 5 2"], scheme: LandmarkScheme
) -> Float32[np.ndarray, "faces 3"]:
    """Estimate yaw, pitch and roll by turning a mean face until its shadow fits the landmarks.

    The camera is taken as distant (scaled orthographic projection), so size and place do not
    matter. Yaw and pitch are found by damped Gauss-Newton steps from the frontal pose; with them
    go rotation and scale within the picture, whose rotation is the roll.

    Yaw is good to about ten degrees, as faces differ from the mean face. **Pitch is poorly
    determined**, above all with ``dlib5``, where a long nose and a bowed head look nearly the
    same: a weak prior pulls it towards 0, so it is a cautious underestimate. Beyond 60 degrees the
    landmarks themselves are guesses.

    Returns:
        Degrees, in columns: yaw (turned to the picture's right is positive), pitch (looking up is
        positive), roll (tilted clockwise is positive).
    """
    face_P3 = mean_face(scheme) - mean_face(scheme).mean(axis=0)
    seen_FP = as_complex(points)
    seen_FP = seen_FP - seen_FP.mean(axis=1, keepdims=True)
    # Landmarks of size one make residuals, damping and prior mean the same for every face.
    size_F1 = np.linalg.norm(seen_FP, axis=1, keepdims=True)
    seen_FP = seen_FP / np.maximum(size_F1, 1e-12)
    yaw_F, pitch_F = np.zeros(len(points)), np.zeros(len(points))
    turn_F = _best_turn(_shadow(face_P3, yaw_F, pitch_F)[0], seen_FP)
    for _ in range(_STEPS):
        shadow_FP, by_yaw_FP, by_pitch_FP = _shadow(face_P3, yaw_F, pitch_F)
        turned = turn_F[:, None]
        gaps_FP = seen_FP - turned * shadow_FP
        slopes_FKP = np.stack(
            [turned * by_yaw_FP, turned * by_pitch_FP, shadow_FP, 1j * shadow_FP], axis=1
        )
        # A complex equation is two real ones, hence the real part of the products.
        normal_FKK = (slopes_FKP.conj() @ slopes_FKP.swapaxes(1, 2)).real
        normal_FKK += _DAMPING * np.eye(4)
        normal_FKK[:, 1, 1] += _PITCH_PRIOR**2
        pull_FK = (slopes_FKP.conj() @ gaps_FP[..., None])[..., 0].real
        pull_FK[:, 1] -= _PITCH_PRIOR**2 * pitch_F
        step_FK = np.linalg.solve(normal_FKK, pull_FK[..., None])[..., 0]
        angles_F2 = np.clip(step_FK[:, :2], -_LARGEST_STEP_RAD, _LARGEST_STEP_RAD)
        limit = np.pi / 2
        yaw_F = np.clip(yaw_F + angles_F2[:, 0], -limit, limit)
        pitch_F = np.clip(pitch_F + angles_F2[:, 1], -limit, limit)
        turn_F = _best_turn(_shadow(face_P3, yaw_F, pitch_F)[0], seen_FP)
    angles = np.stack([yaw_F, pitch_F, np.angle(turn_F)], axis=1)
    return np.degrees(angles).astype(np.float32)


def _shadow(
    face_P3: npt.NDArray[np.float64],
    yaw_F: npt.NDArray[np.float64],
    pitch_F: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.complex128], ...]:
    """Project the pitched, then yawed face along z: x + iy, and its slopes by yaw and by pitch."""
    x_P, y_P, z_P = face_P3.T
    sin_yaw, cos_yaw = np.sin(yaw_F)[:, None], np.cos(yaw_F)[:, None]
    sin_pitch, cos_pitch = np.sin(pitch_F)[:, None], np.cos(pitch_F)[:, None]
    y_FP = y_P * cos_pitch - z_P * sin_pitch
    z_FP = y_P * sin_pitch + z_P * cos_pitch
    shadow_FP = x_P * cos_yaw + z_FP * sin_yaw + 1j * y_FP
    by_yaw_FP = -x_P * sin_yaw + z_FP * cos_yaw + 0j
    by_pitch_FP = y_FP * sin_yaw - 1j * z_FP
    return shadow_FP, by_yaw_FP, by_pitch_FP


def _best_turn(
    shadow_FP: npt.NDArray[np.complex128], seen_FP: npt.NDArray[np.complex128]
) -> npt.NDArray[np.complex128]:
    """Return the rotation and scale, as one complex number, that lay the shadow on the points."""
    size_F = (np.abs(shadow_FP) ** 2).sum(axis=1)
    return np.asarray((shadow_FP.conj() * seen_FP).sum(axis=1) / np.maximum(size_F, 1e-12))


class ScorePose:
    """Add yaw, pitch and roll of every face; deciding what is turned too far is left to ``Keep``.

    Args:
        scheme: The scheme of the detector's landmarks, its attribute ``scheme``.
    """

    reads = ("face_landmarks_px",)
    writes = ("face_yaws_deg", "face_pitches_deg", "face_rolls_deg")

    def __init__(self, scheme: LandmarkScheme) -> None:
        self.scheme: LandmarkScheme = scheme

    def __call__(self, batch: Batch) -> Batch:
        """Estimate the pose of all faces of the batch together."""
        rows = [unflatten(landmarks) for landmarks in batch["face_landmarks_px"]]
        ends = np.cumsum([len(faces) for faces in rows])
        angles = np.split(head_pose(np.concatenate(rows), self.scheme), ends[:-1])
        return {
            name: [faces[:, axis].tolist() for faces in angles]
            for axis, name in enumerate(self.writes)
        }
