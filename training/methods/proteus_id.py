"""Proteus-ID: a person fused with words, told again at each time of the drawing.

Shapes: B samples, C channels, T frames, H rows, W columns of latents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.method import Batch
from training.methods.on_video import OnVideo
from training.methods.video_conditions import Told
from training.nets.proteus_fusion import Sizes
from training.nets.proteus_id import ADDED, grown
from training.nets.tuning import tune
from training.nets.video_base import ask, is_transformer
from training.objectives.step import Gives
from training.settings import TrainRecipe
from training.video.chances import by_chance


class ProteusID(OnVideo):
    """Train the transformer of ``training.nets.proteus_id``, or what is added to it alone.

    Three parts: fusion of the identity prompt with the face (MIF), whose tokens stand before the
    prompt; injection that depends on the time (TAII), after every second block; and the loss
    ``motion`` (AML), which is to be asked for in the recipe. A base that takes a first picture is
    shown the reference face in its place, as published.

    A new one is its base told its prompt after as many tokens of zeros as the person will take.
    With ``video.trained`` ``all``, as published, ``strength`` 0 leaves the base as it was tuned,
    shown no picture; with ``added`` it is the base bit for bit.

    What differs from the original: latents, states and flow are read, not computed in each step;
    the identity prompt is read in all its tokens, not its first 32; whom ``drop`` leaves out is
    not told at all, so that guidance leads to the person too, not to the text alone; ``motion`` is
    added to the error inside the face, not multiplied with it; for a clip whose face was not found
    nothing is tried instead: such clips are not prepared.

    References:
        Zhang et al., arXiv:2506.23729, and its train.py.
    """

    takes = ("face_states", "face_pooled", "attributes_text")
    file = "proteus-id.safetensors"

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        if self.network.config.in_channels > self.network.config.out_channels:
            self.conditions.takes = (*self.takes, "reference_latents")
        tune(self.network, recipe.scale)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; for the lots see ``training.video.chances``."""
        return super().forward(by_chance(batch, self.recipe.video))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name what is added, and with ``video.trained`` ``all`` the whole transformer."""
        whole = self.recipe.video.trained == "all"
        return {
            f"network.{name}": weight
            for name, weight in self.network.named_parameters()
            if whole or name.startswith(ADDED)
        }

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Tell this much of the person while the context lasts; 0: what is added is not asked."""
        before, self.network.strength = self.network.strength, scale
        try:
            yield
        finally:
            self.network.strength = before

    def _load(self) -> Any:  # noqa: ANN401 - half untyped
        """Load the base, and put the person into it."""
        base, weights, features = super()._load(), self.recipe.base.weights, self.features
        if not is_transformer(base) or base.config.patch_size_t is not None:
            cure = "proteus_id grows out of CogVideoX 1.0; give random:cogvideox-5b or its folder."
            raise BadValue("base.weights", weights, cure)
        if not features.face_states_shape[0]:
            cure = "prepare the videos with an image encoder of faces: it looks at its layers."
            raise BadValue("method.kind", "proteus_id", cure)
        room, taken = features.text_shape[0], Sizes.of(base.config, features).tokens
        if room <= taken:
            cure = f"the person takes {taken} tokens of a prompt; prepare longer ones."
            raise BadValue("text tokens", room, cure)
        network = grown(base, features, self.recipe.seed)
        for name, weight in network.named_parameters():
            weight.requires_grad_(self.recipe.video.trained == "all" or name.startswith(ADDED))
        return network

    def _gives(self) -> Gives:
        """Offer the frozen base only where there is one."""
        return Gives(ask=True, base=self.recipe.video.trained == "added")

    def _names(self) -> dict[str, str]:
        """Return the names in the original's transformer."""
        return {name: name.removeprefix("network.") for name in self.trainable()}

    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the transformer.

        Raises:
            BadValue: There are several reference faces of a sample.
        """
        identity = told["identity"]
        if identity.shape[1] != 1:
            cure = "proteus_id is shown one face of a person; give one vector for each video."
            raise BadValue("condition.identity", f"{identity.shape[1]} faces", cure)
        pooled = nn.functional.normalize(told["face_pooled"], dim=1)
        person = {
            "words": told["attributes_text"],
            "face": torch.cat([identity[:, 0], pooled], dim=1),
            "states": told["face_states"],
        }
        beside = None
        if "reference_latents" in told:
            beside = torch.zeros_like(z_t)
            beside[:, :, 0] = min(self.network.strength, 1.0) * told["reference_latents"]
        return ask(self.network, z_t, t, told["text"], beside=beside, more=person)
