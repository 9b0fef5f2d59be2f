"""The identity loss: is the person whom the model is painting the one it was asked for?

Shapes: B samples, H rows, W columns, P points of a face, S side of a chip.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from infra.weights import locate
from stages.landmarks import DLIB_TEMPLATE
from stages.models.dlib_faces import IDENTITY, SMALL_PX, DlibEmbedder
from stages.models.dlib_resnet import CHIP_PX, load_dlib_resnet

_PADDING = 0.25
"""dlib's border around the template's unit square, as a share of its side."""
_SAMPLES = 2
"""Each chip pixel is the mean of this many samples squared, so that a large face does not alias."""


class IdentityEncoder(nn.Module, ABC):
    """Tell who a face is, in a way that a loss can be sent back through."""

    metric: Literal["l2", "cosine"]
    """How two vectors are compared, as ``Embedder`` says it."""
    same_person_below: float
    """The distance under which two vectors are of one person."""

    @abstractmethod
    def forward(
        self, picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
    ) -> Float[Tensor, "B dim"]:
        """Embed one face per picture, RGB in 0 to 1, from where its landmarks are in pixels."""


class DlibEncoder(IdentityEncoder):
    """dlib's crop and identity network, equal to ``DlibEmbedder`` but for rounding.

    Landmarks are of the scheme ``dlib5``.
    """

    metric = DlibEmbedder.metric
    same_person_below = DlibEmbedder.same_person_below

    def __init__(self) -> None:
        super().__init__()
        self.network = load_dlib_resnet(locate(IDENTITY))

    def forward(
        self, picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
    ) -> Float[Tensor, "B 128"]:
        """Crop and embed."""
        vectors: Tensor = self.network(255 * dlib_chips(picture, landmarks))
        return vectors


class IdentityLoss(nn.Module):
    """Measure, per sample, how far a picture's person is from the one in the target's vector.

    ``cosine``: 1 - similarity. ``l2``: (distance / same_person_below)², which is smooth at 0 and
    1 where the encoder stops calling two pictures one person. The two are of one kind: between
    vectors of unit length, 1 - similarity is half the squared distance.

    The face is cropped where it is in the *target* picture. No detector runs, and a picture that is
    still half noise has a well-defined crop; but the noisier it is, the less its loss means:
    weigh the values by noise level. The encoder stays as it is, and computes in float32 even under
    autocast: its vectors are compared with ones that were computed so.

    References:
        PhotoVerse, arXiv:2309.05793; PuLID, arXiv:2404.16022.
    """

    def __init__(self, encoder: IdentityEncoder) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "IdentityLoss":
        """Keep the encoder in evaluation, whatever mode the rest is in."""
        super().train(mode)
        self.encoder.eval()
        return self

    @property
    def same_person_at(self) -> float:
        """The value where the encoder stops calling two vectors one person's."""
        return 1.0 if self.encoder.metric == "l2" else self.encoder.same_person_below

    def forward(
        self,
        picture: Float[Tensor, "B 3 H W"],
        landmarks: Float[Tensor, "B 5 2"],
        target: Float[Tensor, "B dim"],
    ) -> Float[Tensor, " B"]:
        """Compare pictures, RGB in 0 to 1, with raw vectors; landmarks in the target's pixels."""
        return self.apart(self.vectors(picture, landmarks), target)

    def vectors(
        self, picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
    ) -> Float[Tensor, "B dim"]:
        """Embed one face per picture, RGB in 0 to 1."""
        with torch.autocast(picture.device.type, enabled=False):
            vectors: Tensor = self.encoder(picture.float(), landmarks.float())
            return vectors

    def apart(
        self, one: Float[Tensor, "*#B dim"], other: Float[Tensor, "*#B dim"]
    ) -> Float[Tensor, "*B"]:
        """Tell how far vectors are apart, as this loss measures it; first axes broadcast."""
        one, other = one.float(), other.float()
        if self.encoder.metric == "cosine":
            return 1 - nn.functional.cosine_similarity(one, other, dim=-1)
        return ((one - other) / self.encoder.same_person_below).square().sum(dim=-1)


def differentiable_encoder(backend: str) -> IdentityEncoder:
    """Return the encoder that measures identity for a backend, as a torch module.

    Raises:
        BadValue: The backend's network is not to be had in torch.
    """
    if backend == "dlib":
        return DlibEncoder()
    raise BadValue(
        "backend",
        backend,
        "only 'dlib' has an identity network in torch; ArcFace's is ONNX, in a pack of its own. "
        "Prepare the features with the backend 'dlib', or set losses.identity to 0.",
    )


def dlib_chips(
    picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
) -> Float[Tensor, "B 3 S S"]:
    """Crop one face per picture as ``dlib.get_face_chip(size=150, padding=0.25)``, differentiably.

    The similarity transform from dlib's mean face to the landmarks has a closed form (see
    ``stages.landmarks.similarity``). Outside the picture is black, as in dlib. dlib halves large
    pictures before it samples; here every pixel is the mean of 2 x 2 samples instead, which
    serves faces up to four times the chip.
    """
    if max(picture.shape[2:]) < SMALL_PX:  # as ``DlibEmbedder`` does
        picture = nn.functional.interpolate(picture, scale_factor=2, mode="bicubic")
        landmarks = 2 * landmarks
    height, width = picture.shape[2:]
    template_P2 = torch.from_numpy(DLIB_TEMPLATE).to(landmarks)
    template_P2 = (template_P2 + _PADDING) / (1 + 2 * _PADDING) * CHIP_PX
    turn_B2, mean_2, mean_B2 = _similarity(template_P2, landmarks)
    centre_B2 = mean_B2 + _turned(CHIP_PX / 2 - mean_2, turn_B2)
    # dlib puts the centres of the chip's outermost pixels on those of its rectangle in the picture:
    # CHIP_PX - 1 steps here, CHIP_PX * zoom - 1 there.
    zoom_B1 = turn_B2.norm(dim=1, keepdim=True).clamp(min=1e-6)
    step_B2 = turn_B2 * (CHIP_PX - 1 / zoom_B1) / (CHIP_PX - 1)
    samples = torch.arange(CHIP_PX * _SAMPLES, device=picture.device, dtype=torch.float32)
    offsets = (samples + 0.5) / _SAMPLES - CHIP_PX / 2
    grid_SS2 = torch.stack(torch.meshgrid(offsets, offsets, indexing="xy"), dim=-1)
    at_BSS2 = centre_B2[:, None, None] + _turned(grid_SS2, step_B2[:, None, None])
    # Pixel centres are whole numbers here, and grid_sample counts from edge to edge as -1 to 1.
    size_2 = torch.tensor([width, height], device=picture.device)
    at_BSS2 = (2 * at_BSS2 + 1) / size_2 - 1
    sampled = nn.functional.grid_sample(picture, at_BSS2, align_corners=False)
    return nn.functional.avg_pool2d(sampled, _SAMPLES)


def _similarity(
    source_P2: Float[Tensor, "P 2"], points_BP2: Float[Tensor, "B P 2"]
) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "2"], Float[Tensor, "B 2"]]:
    """Find ``x -> mean_B2 + _turned(x - mean_2, turn_B2)`` that brings the source to the points.

    Returns:
        Turns with their scales, as complex numbers; the source's mean; the points' means.
    """
    mean_2, mean_B2 = source_P2.mean(dim=0), points_BP2.mean(dim=1)
    s_P2, p_BP2 = source_P2 - mean_2, points_BP2 - mean_B2[:, None]
    along_B = (s_P2 * p_BP2).sum(dim=(1, 2))
    across_B = (s_P2[:, 0] * p_BP2[..., 1] - s_P2[:, 1] * p_BP2[..., 0]).sum(dim=1)
    return torch.stack([along_B, across_B], dim=1) / s_P2.square().sum(), mean_2, mean_B2


def _turned(points: Float[Tensor, "*more 2"], turn: Float[Tensor, "*other 2"]) -> Tensor:
    """Multiply points and turns as complex numbers."""
    (x, y), (along, across) = points.unbind(-1), turn.unbind(-1)
    return torch.stack([along * x - across * y, across * x + along * y], dim=-1)
