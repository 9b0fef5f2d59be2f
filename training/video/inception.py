"""Inception-v3 of torchvision, for what ConsisID's protocol calls FID, and for FID."""

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import nn

from stages.models.faces import Detector
from training.crops import arcface_crop
from training.video.motion import torchvision_models
from training.video.weights import filled, read_file

_SIDE_PX, _FACE_PX = 299, 224
_AT_ONCE = 32
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Inception:
    """Vectors of the last pooling of torchvision's ``inception_v3``.

    FID's own network is TensorFlow's of 2015; this one has torchvision's weights, as ConsisID uses
    them: compare distances only with those of the same network.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        arXiv:1512.00567.
    """

    def __init__(self, network: nn.Module, detector: Detector, device: str) -> None:
        self._network, self._detector, self._device = network.to(device), detector, device

    @torch.inference_mode()
    def __call__(
        self, pictures: UInt8[np.ndarray, "pictures height width 3"], *, published: bool = False
    ) -> Float32[np.ndarray, "pictures dim"]:
        """Embed pictures.

        Args:
            pictures: RGB of any size; made 299 px wide and high, as ConsisID does.
            published: Hand them over in 0 to 1, where the network, which takes them for normalised
                by ImageNet's mean and deviation, sees them pale and dark; so does ConsisID.
        """
        parts = []
        for start in range(0, len(pictures), _AT_ONCE):
            some = torch.from_numpy(pictures[start : start + _AT_ONCE]).to(self._device)
            pixels = nn.functional.interpolate(
                some.permute(0, 3, 1, 2).float() / 255,
                (_SIDE_PX, _SIDE_PX),
                mode="bilinear",
                antialias=True,
            )
            if published:
                mean, std = (torch.tensor(each, device=self._device) for each in (_MEAN, _STD))
                pixels = pixels * std[:, None, None] + mean[:, None, None]
            parts.append(self._network(pixels * 2 - 1).float().cpu().numpy())
        return np.concatenate(parts)

    def faces(
        self, pictures: UInt8[np.ndarray, "pictures height width 3"]
    ) -> UInt8[np.ndarray, "faces 224 224 3"]:
        """Cut the largest face out of every picture that has one, as ArcFace's crops are.

        ConsisID compares these, at this size.
        """
        crops = [
            arcface_crop(picture, faces.landmarks_px[0], self._detector.scheme, _FACE_PX)
            for picture, faces in zip(pictures, self._detector.detect(list(pictures)), strict=True)
            if len(faces.scores)
        ]
        return np.stack(crops) if crops else np.zeros((0, _FACE_PX, _FACE_PX, 3), dtype=np.uint8)


def load_inception(reference: str, detector: Detector, device: str = "cpu") -> Inception:
    """Load Inception-v3.

    Args:
        reference: ``file:<path>`` of the safetensors of torchvision's ``inception_v3``.
        detector: Finds the faces that are compared.
        device: ``cpu`` or ``cuda``.

    Raises:
        BadValue: It has another scheme, or torchvision is not there to run it.
        BadWeights: The file is no Inception-v3's.
    """
    path, held = read_file(reference)
    network = torchvision_models("inception", reference).inception_v3(
        weights=None, aux_logits=False, transform_input=False, init_weights=False
    )
    network.fc = nn.Identity()
    filled(network, path, held, "torchvision's inception_v3")
    return Inception(network, detector, device)


def squared_distances(
    vectors: Float[np.ndarray, "frames dim"], reference: Float[np.ndarray, " dim"]
) -> Float[np.ndarray, " frames"]:
    """Return what ConsisID calls the FID of each frame.

    It is the Fréchet distance between two sets that are one vector each, written twice: without
    spread, so nothing is left of it but the squared distance between the vectors.
    """
    return np.asarray(np.square(vectors - reference).sum(axis=1, dtype=np.float64))
