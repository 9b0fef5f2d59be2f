"""Where a person moves: optical flow as a map of weights on the grid of a clip's latents.

Shapes: F frames of h x w pixels; T latent frames of H rows and W columns.
"""

from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from infra.errors import BadValue
from training.video.motion import DisFlow, Flow

PER_LATENT = 4
"""Frames behind each latent but the first, which is one frame: CogVideoX's autoencoder."""
STILL_SHARE = 3e-4
"""Diagonals of the picture per frame below which the fastest of a person is noise: 0.26 px of
720 x 480."""
_FASTEST_PERCENT = 95


def flow_maps(
    frames: UInt8[np.ndarray, "F h w 3"],
    masks: Bool[np.ndarray, "F h w"],
    shape: tuple[int, int, int],
    flow: Flow | None = None,
) -> Float32[np.ndarray, "T H W"]:
    """Say how fast a person moves, 0 to 1 of the clip's own fastest, and 0 beside the person.

    Lengths of the flow from each frame to the next (the last frame has its neighbour's) inside the
    mask are divided by their 95th percentile over the clip and cut at 1, then averaged over the
    frames and pixels behind each latent. A person who rests, up to noise of the flow, gives zeros:
    ask ``is_still``. A camera that moves moves everybody, as in the original.

    What differs from Proteus-ID (train.py, ``compute_raft``), which takes the sigmoid of the length
    in pixels of RAFT's flow: there whoever rests has 0.5, and all above some 5 px has 1, so that
    slow and fast are hardly told apart, and less so the larger the picture. There it is computed
    in each step; these maps are to be kept.

    Args:
        frames: The clip, RGB, as it is encoded.
        masks: The person in each frame.
        shape: T, H and W of the clip's latents; T is F, or 1 + (F - 1) / 4.
        flow: What measures; OpenCV's DIS if none is given.

    Raises:
        BadValue: The frames are not as many as such latents stand for.
    """
    count, high, wide = frames.shape[:3]
    behind, size = frames_behind(count, shape[0]), (shape[2], shape[1])
    flow = flow or DisFlow()
    lengths = [np.linalg.norm(flow(*pair), axis=2) for pair in pairwise(frames)]
    lengths = [*lengths, lengths[-1]] if lengths else [np.zeros((high, wide), np.float32)]
    speeds = np.stack(lengths).astype(np.float32) * masks
    fastest = float(np.percentile(speeds[masks], _FASTEST_PERCENT)) if masks.any() else 0.0
    if fastest < STILL_SHARE * float(np.hypot(high, wide)):
        return np.zeros(shape, np.float32)
    shares = np.minimum(speeds / fastest, 1)
    small = [cv2.resize(share, size, interpolation=cv2.INTER_AREA) for share in shares]
    return np.stack([np.mean([small[frame] for frame in each], axis=0) for each in behind])


def is_still(maps: Float32[np.ndarray, "T H W"]) -> bool:
    """Tell whether nobody moves: such a clip is learnt, and ``losses.motion`` adds nothing."""
    return not maps.any()


def frames_behind(frames: int, latents: int) -> list[range]:
    """Return the frames that each latent stands for: one each, or four but for the first.

    Raises:
        BadValue: No codec here makes so many latents of so many frames.
    """
    if frames == latents:
        return [range(frame, frame + 1) for frame in range(frames)]
    if frames != 1 + PER_LATENT * (latents - 1):
        cure = f"{latents} latents stand for {latents} or {1 + PER_LATENT * (latents - 1)} frames."
        raise BadValue("frames", frames, cure)
    later = [range(1 + PER_LATENT * n, 1 + PER_LATENT * (n + 1)) for n in range(latents - 1)]
    return [range(1), *later]
