"""ConsisID: CogVideoX that is shown a face beside its latents, and looks at it in its layers.

Shapes: B samples, C channels, T frames, H rows, W columns of latents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from training.exports import read_matching, read_tensors, write_export
from training.features import Features
from training.method import Batch, Condition, Sampling
from training.methods.on_video import OnVideo
from training.methods.video_conditions import Told, stacked
from training.nets.consis_id import ADDED, load_consis_id
from training.nets.consis_id_pipeline import TRANSFORMER, write_pipeline
from training.nets.tuning import tune
from training.nets.video_base import ask
from training.objectives.step import Gives
from training.sampler import Predict
from training.settings import TrainRecipe
from training.video.chances import by_chance


class ConsisID(OnVideo):
    """A transformer told a face twice: as latents of the first frame, and by cross-attention.

    Low frequencies: the reference's latents stand beside the noisy ones, in the channels in which
    the base knows a first picture. High frequencies: a local facial extractor makes tokens of the
    identity vector, the face encoder's vector (of unit length) and its states, and cross-attention
    after every second block looks at these. Trained is everything, as the original's code does
    (its list of what to train matches every name), or with ``video.trained: added`` what is new.

    Of the original's training: the loss of half of the samples is inside the face (``mask_share``
    of ``losses.masked``), half have their reference from another moment (``data.cross_share``),
    references are noisy and some left out. What differs: a sample without a face costs its plain
    error, where the original goes forward once more for nothing to keep its workers in step; noise
    is put on the reference's latents, which are prepared once, not on its pixels; all weights have
    one learning rate; an identity that ``drop`` leaves out is no reference and no cross-attention.
    The original's weight of the clean estimate's error, 1 / (1 - alphas_cumprod), makes it the
    plain error of the velocity, which ``losses.mse`` is.

    The best of the original's drawings have guidance 6, which here too leads away from the empty
    prompt alone: the face is told on both sides. ``Sampling.scale`` is of the cross-attention and,
    up to 1, of the reference's latents; at 0 the network is its base shown no picture, bit for
    bit where only what is new was trained.

    References:
        Yuan et al., "Identity-Preserving Text-to-Video Generation by Frequency Decomposition",
        arXiv:2411.17440; train.py of PKU-YuanGroup/ConsisID.
    """

    takes: ClassVar[tuple[str, ...]] = ("reference_latents", "face_states", "face_pooled")

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        begins, own = recipe.base, folder / TRANSFORMER
        if own.is_dir():  # an export: it holds the whole transformer, and needs no base
            begins = replace(recipe.base, weights=f"file:{own}")
        elif recipe.video.mask_share and not recipe.losses.masked:
            cure = "set losses.masked to 1 and losses.mse to 0 with it; or set it to 0."
            raise BadValue("video.mask_share", recipe.video.mask_share, cure)
        super().__init__(replace(recipe, base=begins), features, folder)
        self.recipe, self._begins, self._scale = recipe, begins, 1.0
        for name, weight in self.network.named_parameters():
            weight.requires_grad_(recipe.video.trained == "all" or name.startswith(ADDED))
        tune(self.network, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name every weight of the transformer, or those that its base does not have."""
        mine = "" if self.recipe.video.trained == "all" else ADDED
        named = self.network.named_parameters()
        return {f"network.{name}": w for name, w in named if name.startswith(mine)}

    @property
    def base(self) -> str:
        """None is needed: an export holds all weights."""
        return ""

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Tell the face by this much while the context lasts."""
        before, self._scale = self._scale, scale
        try:
            yield
        finally:
            self._scale = before

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; for the lots see ``training.video.chances``."""
        return super().forward(by_chance(batch, self.recipe.video))

    def predicts(self, condition: Condition, sampling: Sampling) -> Predict:  # noqa: ARG002 - of use to others
        """Return what a sampler asks, the face told on both sides of its guidance."""
        of, device = self.conditions, self._device
        given = {"identity": condition.identity, "text": condition.text, **(condition.more or {})}
        someone = of.whole({n: v.to(device) for n, v in given.items() if v is not None})
        everybody = torch.ones(len(condition.identity), dtype=torch.bool, device=device)
        nobody = of.without(someone, everybody, ~everybody)
        nothing = of.without(someone, ~everybody, everybody)["text"]
        if condition.negative_text is not None:
            nothing = condition.negative_text.to(nothing)

        def predict(z_t: Tensor, t: Tensor, counts: bool) -> tuple[Tensor, Tensor]:
            who = someone if counts else nobody
            told = [{**who, "text": nothing}, who]
            many = torch.cat([z_t, z_t])
            pred = self._predict(many, t.expand(len(many)), reduce(stacked, told))
            without, given = pred.chunk(2)
            return without, given

        return predict

    def save(self, folder: Path) -> None:
        """Write an export that is also a folder of diffusers' ``ConsisIDPipeline``.

        What is not trained is written as the base has it: in training it may be in half precision,
        or spread over workers.
        """
        folder.mkdir(parents=True, exist_ok=True)
        network = self.network
        if self.recipe.video.trained == "added":
            network = load_consis_id(self._begins, self.features)
            own = {name.removeprefix("network."): w for name, w in self.trainable().items()}
            network.load_state_dict(own, strict=False)
        write_pipeline(folder, network, self._begins, self.features)
        held = self.conditions.held
        write_export(folder, self.recipe, self.features, self.codec, held, self.base)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        held: dict[str, Tensor] = {}
        for path in sorted((folder / TRANSFORMER).glob("*.safetensors")):
            held |= {f"network.{name}": weight for name, weight in read_tensors(path).items()}
        mine = self.trainable()
        held = {name: weight for name, weight in held.items() if name in mine}
        if {n: w.shape for n, w in held.items()} != {n: w.shape for n, w in mine.items()}:
            cure = "Use the base that it was made from."
            raise BadWeights(str(folder / TRANSFORMER), "has another size", cure)
        return held

    def _load(self) -> nn.Module:
        network: nn.Module = load_consis_id(self.recipe.base, self.features)
        return network

    def _gives(self) -> Gives:
        return Gives(ask=True, base=self.recipe.video.trained == "added")

    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the network; who is dropped is zeros, and adds nothing in any layer."""
        face = told["identity"][:, 0]
        beside = torch.zeros_like(z_t)
        beside[:, :, 0] = min(self._scale, 1.0) * told["reference_latents"]
        anybody = face.any(dim=1).to(self.network.dtype)
        self.network.local_face_scale = self._scale * anybody[:, None, None]
        pooled = nn.functional.normalize(told["face_pooled"], dim=-1)
        more = {
            "id_cond": torch.cat([face, pooled], dim=-1),
            "id_vit_hidden": list(told["face_states"].unbind(1)),
        }
        return ask(self.network, z_t, t, told["text"], beside=beside, more=more)
