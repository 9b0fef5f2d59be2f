"""The identity loss: is the person whom the model is painting the one it was asked for?

Shapes: B samples, H rows, W columns, P points of a face, S side of a chip.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from infra.weights import locate
from stages.models.backend import load_embedder
from stages.models.dlib_faces import IDENTITY, DlibEmbedder
from stages.models.dlib_resnet import load_dlib_resnet
from stages.models.faces import Embedder
from stages.models.insightface_faces import InsightEmbedder, open_pack
from training.features import Features
from training.nets.face_chips import ARCFACE_PX, arcface_chips, dlib_chips
from training.nets.onnx_graph import OnnxGraph

_ROUNDING = 1e-3
"""How far two computations of one vector may be apart, as a share of its length."""


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


class ArcFaceEncoder(IdentityEncoder):
    """The crop and the recognition network of an insightface pack, equal to ``InsightEmbedder``.

    Equal but for rounding: its chips have whole levels of grey. Landmarks are of the scheme
    ``arcface5``. Two noise pictures are embedded both ways first, so a network that would compute
    anything else in torch than in onnxruntime is never descended.

    Args:
        pack: A folder with ``.onnx`` files, or the name of a pack that insightface downloads.

    Raises:
        BadWeights: The pack cannot be had or read, or its network is not known in torch.

    References:
        Deng et al., "ArcFace: additive angular margin loss for deep face recognition",
        arXiv:1801.07698.
    """

    metric = InsightEmbedder.metric
    same_person_below = InsightEmbedder.same_person_below

    def __init__(self, pack: str) -> None:
        super().__init__()
        embedder = load_embedder("insightface", pack, "cpu")
        model = open_pack(pack, "cpu", 1).models["recognition"]
        self.network = OnnxGraph(Path(model.model_file))
        self.mean, self.std = float(model.input_mean), float(model.input_std)
        self._compare(embedder)

    def forward(
        self, picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
    ) -> Float[Tensor, "B dim"]:
        """Crop and embed."""
        return self._embed(255 * arcface_chips(picture, landmarks))

    def _embed(self, chips: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B dim"]:
        """Embed chips, RGB in 0 to 255."""
        vectors: Tensor = self.network((chips - self.mean) / self.std)
        return vectors

    @torch.no_grad()
    def _compare(self, embedder: Embedder) -> None:
        """Refuse a network whose vectors are not those of the corpus."""
        rng, file = np.random.default_rng(0), str(self.network.path)
        chips = rng.integers(0, 256, (2, ARCFACE_PX, ARCFACE_PX, 3), dtype=np.uint8)
        theirs = torch.from_numpy(embedder.embed(chips))
        try:
            ours = self._embed(torch.from_numpy(chips).permute(0, 3, 1, 2).float())
        except RuntimeError as error:
            words = f"has a network that does not take two faces at once ({error})"
            raise BadWeights(file, words, "Export it with a batch of any size.") from error
        apart = (ours - theirs).norm() / theirs.norm()
        if not apart < _ROUNDING:
            words = f"computes other vectors in torch than in onnxruntime, {apart:.1%} apart"
            raise BadWeights(file, words, "Give another pack.")


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


def differentiable_encoder(features: Features, pack: str = "") -> IdentityEncoder:
    """Return the encoder that some features were measured with, as a torch module.

    Args:
        features: Whose identities are compared with.
        pack: The model pack of the backend ``insightface``.

    Raises:
        BadValue: The pack is missing, or another than the one behind the features.
        BadWeights: The pack cannot be had or read, or its network is not known in torch.
    """
    if features.backend == "dlib":
        return DlibEncoder()
    if features.backend == "insightface" and not pack:
        cure = (
            f"the features were made with insightface's {features.embedder}, whose network is in a "
            "model pack. Name its folder, or set the losses that look at who is seen to 0."
        )
        raise BadValue("losses.identity_pack", pack, cure)
    if (tag := load_embedder(features.backend, pack, "cpu").card.tag) != features.embedder:
        cure = (
            f"the features were made with the encoder {features.embedder}, and this pack's is "
            f"{tag}: distances between two encoders mean nothing. Give the pack of the features."
        )
        raise BadValue("losses.identity_pack", pack, cure)
    return ArcFaceEncoder(pack)
