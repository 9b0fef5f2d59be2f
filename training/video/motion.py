"""How a video moves: optical flow between frames, how much there is, and how even it is.

Flow is OpenCV's DIS, which needs no weights, or torchvision's RAFT where its weights are given.
"""

from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from infra.errors import BadValue
from stages.types import RGB
from training.video.weights import filled, read_file

Frames = UInt8[np.ndarray, "frames height width 3"]
"""A video, RGB."""
Field = Float32[np.ndarray, "height width 2"]
"""Where each pixel of one frame is in another: x and y in px from where it was."""
SMALLEST_PX = 16
"""Shorter sides are not looked at: DIS compares patches of 8 px on a pyramid."""
_FASTEST_SHARE = 0.05
_DYNAMIC_PX, _DYNAMIC_SIDE_PX, _DYNAMIC_FPS = 6.0, 256, 8.0
_DYNAMIC_PAIRS = 4 / 16
_RAFT_STEP_PX, _RAFT_SMALLEST_PX, _RAFT_UPDATES = 8, 128, 20


@runtime_checkable
class Flow(Protocol):
    """Says where everything in a frame has gone."""

    weights: str
    """What measures, for the record."""

    def __call__(self, before: RGB, after: RGB) -> Field:
        """Return, for every pixel of ``before``, where it is in ``after``."""
        ...


class DisFlow:
    """Dense inverse search, as OpenCV has it, at its medium preset.

    References:
        Kroeger et al., "Fast optical flow using dense inverse search", arXiv:1603.03590.
    """

    def __init__(self) -> None:
        self.weights = f"dis-medium@opencv-{cv2.__version__}"
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def __call__(self, before: RGB, after: RGB) -> Field:
        """Look at grey levels."""
        grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (before, after)]
        nothing = np.zeros((*grey[0].shape, 2), dtype=np.float32)
        return np.asarray(self._dis.calc(grey[0], grey[1], nothing), dtype=np.float32)


class RaftFlow:
    """RAFT, large or small, of torchvision; frames are filled up to multiples of 8 px at the edge.

    References:
        Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow",
        arXiv:2003.12039; 20 updates as in VBench.
    """

    def __init__(self, network: nn.Module, weights: str, device: str) -> None:
        self.weights, self._network, self._device = weights, network.to(device), device

    @torch.inference_mode()
    def __call__(self, before: RGB, after: RGB) -> Field:
        """Look at colours, at the video's own size."""
        height, width = before.shape[:2]
        down, right = (
            max(-side % _RAFT_STEP_PX, _RAFT_SMALLEST_PX - side) for side in (height, width)
        )
        pair = torch.from_numpy(np.stack([before, after])).to(self._device)
        pixels = pair.permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = nn.functional.pad(pixels, (0, right, 0, down), mode="replicate")
        flow = self._network(pixels[:1], pixels[1:], num_flow_updates=_RAFT_UPDATES)[-1][0]
        cut = flow[:, :height, :width].permute(1, 2, 0)
        return np.asarray(cut.float().cpu().numpy(), dtype=np.float32)


def load_flow(reference: str = "dis", device: str = "cpu") -> Flow:
    """Load what measures flow.

    Args:
        reference: ``dis``, or ``file:<path>`` of the safetensors of torchvision's ``raft_large``
            or ``raft_small``, as their ``state_dict`` names them.
        device: ``cpu`` or ``cuda``; DIS runs on the CPU in any case.

    Raises:
        BadValue: It is neither, or torchvision is not there to run RAFT.
        BadWeights: The file is no RAFT's.
    """
    if reference == "dis":
        return DisFlow()
    if not reference.startswith("file:"):
        raise BadValue("flow", reference, "give 'dis', or 'file:<safetensors of RAFT>'.")
    path, held = read_file(reference)
    models = torchvision_models("flow", reference).optical_flow
    first = held.get("feature_encoder.convnormrelu.0.weight")
    small = first is not None and first.shape[0] == 32  # 64 in the large one
    network = models.raft_small() if small else models.raft_large()
    filled(network, path, held, "torchvision's raft_large or raft_small")
    return RaftFlow(network, f"{'raft_small' if small else 'raft_large'} of {path.name}", device)


def torchvision_models(key: str, reference: str) -> Any:  # noqa: ANN401 - it has no types
    """Return ``torchvision.models``, which only these weights need.

    Raises:
        BadValue: It is not installed, or built for another torch.
    """
    try:
        return import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        cure = (
            f"it runs in torchvision, which cannot be imported here ({error}). Install the build "
            f"that belongs to torch {torch.__version__}."
        )
        raise BadValue(key, reference, cure) from error


@dataclass(frozen=True, slots=True)
class Motion:
    """How one video moves; nan where it has too few frames to say."""

    per_s: float
    """Mean length of the flow between neighbouring frames, in picture diagonals per second."""
    dynamic: float
    """1 if it moves, 0 if it rests."""
    smoothness: float
    """How well every second frame follows from the two beside it, 1 for exactly."""


def measure_motion(frames: Frames, fps: float, flow: Flow) -> Motion:
    """Measure how a video moves.

    Dynamic degree is VBench's rule: a video moves if in a quarter of its pairs of frames the
    fastest 5 % of the pixels go 6 px or more on average, where 6 is for a shorter side of 256 px
    and 8 frames per second. Smoothness is its measure too: drop every second frame, interpolate
    it, and take 1 less the mean difference as a share of white.

    What differs from VBench: flow may be DIS's, not RAFT's, and frames between are interpolated by
    that flow (both neighbours warped half way, and averaged), not by AMT, which has weights of its
    own. So 6 px are not measured as there: compare numbers with those of this function. Videos
    above 8 fps are measured in pairs about 1/8 s apart, as there; slower ones have the threshold
    raised by 8 / fps.

    Args:
        frames: Neighbouring frames.
        fps: At which they follow each other.
        flow: What measures.

    References:
        Huang et al., "VBench", arXiv:2311.17982, dynamic_degree.py and motion_smoothness.py.
    """
    if len(frames) < 2 or min(frames.shape[1:3]) < SMALLEST_PX:
        return Motion(float("nan"), float("nan"), float("nan"))
    apart = max(1, round(fps / _DYNAMIC_FPS))
    lengths = _lengths(frames, flow)
    further = lengths if apart == 1 else _lengths(frames[::apart], flow)
    diagonal_px = float(np.hypot(*frames.shape[1:3]))
    return Motion(
        float(np.mean([each.mean() for each in lengths])) * fps / diagonal_px,
        _is_dynamic([_fastest(each) for each in further], min(frames.shape[1:3]), fps),
        _smoothness(frames, flow),
    )


def _lengths(frames: Frames, flow: Flow) -> list[Float32[np.ndarray, "height width"]]:
    """Measure how far every pixel goes from each frame to the next, in px."""
    return [np.linalg.norm(flow(*pair), axis=2) for pair in pairwise(frames)]


def _fastest(lengths: Float32[np.ndarray, "height width"]) -> float:
    """Return the mean of the fastest 5 % of the pixels."""
    count = max(1, int(lengths.size * _FASTEST_SHARE))
    return float(np.partition(lengths, -count, axis=None)[-count:].mean())


def _is_dynamic(fastest_px: list[float], shorter_px: int, fps: float) -> float:
    if not fastest_px:
        return float("nan")
    slow = max(1.0, _DYNAMIC_FPS / fps)
    least_px = slow * _DYNAMIC_PX * shorter_px / _DYNAMIC_SIDE_PX
    wanted = max(1, round(_DYNAMIC_PAIRS * (len(fastest_px) + 1)))
    return float(sum(px > least_px for px in fastest_px) >= wanted)


def _smoothness(frames: Frames, flow: Flow) -> float:
    """Compare every second frame with what its neighbours make of it."""
    off = []
    for index in range(1, len(frames) - 1, 2):
        between = interpolated(frames[index - 1], frames[index + 1], flow)
        off.append(float(cv2.absdiff(between, np.ascontiguousarray(frames[index])).mean()))
    return 1 - float(np.mean(off)) / 255 if off else float("nan")


def interpolated(before: RGB, after: RGB, flow: Flow) -> RGB:
    """Make the frame half way between two: both warped there along the flow, and averaged.

    The flow at the frame between is taken for that of ``before``: right for slow motion, and off by
    half the motion at its edges.
    """
    half = flow(before, after) / 2
    height, width = before.shape[:2]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    warped = [
        cv2.remap(
            picture,
            xs + side * half[..., 0],
            ys + side * half[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for picture, side in ((before, -1), (after, 1))
    ]
    return np.asarray(cv2.addWeighted(warped[0], 0.5, warped[1], 0.5, 0), dtype=np.uint8)
