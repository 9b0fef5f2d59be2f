"""Faces cut out of pictures as identity networks read them, differentiably.

Shapes: B samples, H rows, W columns, P points of a face, S side of a chip.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.landmarks import ARCFACE_TEMPLATE_PX, DLIB_TEMPLATE
from stages.models.dlib_faces import SMALL_PX
from stages.models.dlib_resnet import CHIP_PX

ARCFACE_PX = 112
"""Side of the chip that ``ARCFACE_TEMPLATE_PX`` is in."""
_PADDING = 0.25
"""dlib's border around the template's unit square, as a share of its side."""
_SAMPLES = 2
"""Each of dlib's chip pixels is the mean of this many samples squared, so that a large face does
not alias."""


def dlib_chips(
    picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Crop one face per picture as ``dlib.get_face_chip(size=150, padding=0.25)``, differentiably.

    The similarity transform from dlib's mean face to the landmarks has a closed form (see
    ``stages.landmarks.similarity``). Outside the picture is black, as in dlib. dlib halves large
    pictures before it samples; here every pixel is the mean of 2 x 2 samples instead, which
    serves faces up to four times the chip.

    Args:
        picture: RGB in 0 to 1.
        landmarks: In pixels, of the scheme ``dlib5``.
    """
    if max(picture.shape[2:]) < SMALL_PX:  # as ``DlibEmbedder`` does
        picture = nn.functional.interpolate(picture, scale_factor=2, mode="bicubic")
        landmarks = 2 * landmarks
    template_P2 = torch.from_numpy(DLIB_TEMPLATE).to(landmarks)
    template_P2 = (template_P2 + _PADDING) / (1 + 2 * _PADDING) * CHIP_PX
    mean_2, mean_B2, s_P2, p_BP2 = _centred(template_P2, landmarks)
    turn_B2 = _towards(s_P2, p_BP2) / s_P2.square().sum()
    centre_B2 = mean_B2 + _turned(CHIP_PX / 2 - mean_2, turn_B2)
    # dlib puts the centres of the chip's outermost pixels on those of its rectangle in the picture:
    # CHIP_PX - 1 steps here, CHIP_PX * zoom - 1 there.
    zoom_B1 = turn_B2.norm(dim=1, keepdim=True).clamp(min=1e-6)
    step_B2 = turn_B2 * (CHIP_PX - 1 / zoom_B1) / (CHIP_PX - 1)
    samples = torch.arange(CHIP_PX * _SAMPLES, device=picture.device, dtype=torch.float32)
    grid_SS2 = _grid((samples + 0.5) / _SAMPLES - CHIP_PX / 2)
    at_BSS2 = centre_B2[:, None, None] + _turned(grid_SS2, step_B2[:, None, None])
    return nn.functional.avg_pool2d(_sampled(picture, at_BSS2), _SAMPLES)


def arcface_chips(
    picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Crop one face per picture as insightface's ``norm_crop(image_size=112)``, differentiably.

    The similarity is the one that brings the landmarks closest to ArcFace's template, inverted;
    one bilinear sample per pixel, and black outside the picture, as ``cv2.warpAffine`` has it. So
    a face of more than 200 px is sampled sparsely, and aliases as it does in ArcFace's own crops.

    Args:
        picture: RGB in 0 to 1.
        landmarks: In pixels, of the scheme ``arcface5``.
    """
    template_P2 = torch.from_numpy(ARCFACE_TEMPLATE_PX).to(landmarks)
    mean_2, mean_B2, s_P2, p_BP2 = _centred(template_P2, landmarks)
    # The inverse of sum(conj(p) s) / sum(|p|^2): points that do not fit well are brought closest
    # in the chip's pixels, not in the picture's, and the two differ.
    towards_B2 = _towards(s_P2, p_BP2)
    spread_B1 = p_BP2.square().sum(dim=(1, 2))[:, None]
    turn_B2 = towards_B2 * spread_B1 / towards_B2.square().sum(1, keepdim=True).clamp(min=1e-12)
    places = torch.arange(ARCFACE_PX, device=picture.device, dtype=torch.float32)
    grid_SS2 = _grid(places) - mean_2
    return _sampled(picture, mean_B2[:, None, None] + _turned(grid_SS2, turn_B2[:, None, None]))


def _centred(
    source_P2: Float[Tensor, "P 2"], points_BP2: Float[Tensor, "B P 2"]
) -> tuple[Float[Tensor, "2"], Float[Tensor, "B 2"], Float[Tensor, "P 2"], Float[Tensor, "B P 2"]]:
    """Return the means of a template and of faces' points, and both less their means."""
    mean_2, mean_B2 = source_P2.mean(dim=0), points_BP2.mean(dim=1)
    return mean_2, mean_B2, source_P2 - mean_2, points_BP2 - mean_B2[:, None]


def _towards(s_P2: Float[Tensor, "P 2"], p_BP2: Float[Tensor, "B P 2"]) -> Float[Tensor, "B 2"]:
    """Sum conj(s) p over points as complex numbers; its angle turns the template to the face."""
    along_B = (s_P2 * p_BP2).sum(dim=(1, 2))
    across_B = (s_P2[:, 0] * p_BP2[..., 1] - s_P2[:, 1] * p_BP2[..., 0]).sum(dim=1)
    return torch.stack([along_B, across_B], dim=1)


def _turned(points: Float[Tensor, "*more 2"], turn: Float[Tensor, "*other 2"]) -> Tensor:
    """Multiply points and turns as complex numbers."""
    (x, y), (along, across) = points.unbind(-1), turn.unbind(-1)
    return torch.stack([along * x - across * y, across * x + along * y], dim=-1)


def _grid(places: Float[Tensor, " S"]) -> Float[Tensor, "S S 2"]:
    """Return the points of a square, x before y."""
    return torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1)


def _sampled(
    picture: Float[Tensor, "B 3 H W"], at_BSS2: Float[Tensor, "B S S 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Sample pictures at points in pixels, whose centres are whole numbers."""
    height, width = picture.shape[2:]
    size_2 = torch.tensor([width, height], device=picture.device)
    # grid_sample counts from edge to edge as -1 to 1.
    return nn.functional.grid_sample(picture, (2 * at_BSS2 + 1) / size_2 - 1, align_corners=False)
