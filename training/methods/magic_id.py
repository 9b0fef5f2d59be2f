"""MagicID: a LoRA on a base of videos that learns one person from pairs of better and worse videos.

Shapes: B samples, C channels, T frames, H rows, W columns of latents.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from infra.weights import locate
from training.exports import CONFIG, read_export, read_tensors
from training.features import Features
from training.methods.on_video import OnVideo
from training.methods.video_conditions import Told
from training.nets.lora import WEIGHTS_FILE, AttentionLoRA
from training.nets.tuning import tune
from training.nets.video_base import ask, is_transformer
from training.settings import TrainRecipe


class MagicID(OnVideo):
    """Train a LoRA on all attention of a text-to-video base to draw one person.

    Who is drawn is in the weights: ``Condition.identity`` only says how many videos there are to
    be, and the text, which is what was prepared of each sample, names the person. What is learnt is
    a matter of the losses: ``mse`` on the person's own videos gives the tuned model of the first
    step; ``dpo`` or ``ipo``, on features with ``preferences.parquet``, prefers videos that keep the
    person, and then those that move (see ``training.video.mining``). The reference of these losses
    is the base with the LoRA turned off: no second model is held.

    Only the loss and the mining are published, on HunyuanVideo; here the base is AnimateDiff or
    CogVideoX. The original's reference is its tuned model; with ``method.start`` ours begins
    there, and is still compared with the base.

    References:
        Li et al., "MagicID: Hybrid Preference Optimization for ID-Consistent and Dynamic-Preserved
        Video Customization", arXiv:2503.12689; Hu et al., "LoRA", arXiv:2106.09685.
    """

    file: ClassVar[str] = WEIGHTS_FILE

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Put the LoRA in; begin at ``method.start`` if that is named.

        Raises:
            BadValue: There is no rank, identity is to be dropped, or the base wants a picture.
            BadWeights: What it begins at is no export of ``magic_id``, or of another rank or base.
        """
        rank, drop = recipe.method.lora_rank, recipe.drop
        if rank < 1:
            raise BadValue("method.lora_rank", rank, "give 1 or more; 16 serves one person.")
        if drop.identity or drop.both:
            cure = (
                "magic_id has its subject in its weights, which cannot be dropped; set "
                "drop.identity and drop.both to 0."
            )
            raise BadValue("drop", drop, cure)
        super().__init__(recipe, features, folder)
        config = self.network.config
        if is_transformer(self.network) and config.in_channels != config.out_channels:
            cure = "it is told a first picture, which magic_id has not; give a text-to-video base."
            raise BadValue("base.weights", recipe.base.weights, cure)
        self.lora = AttentionLoRA(self.network, rank=rank, seed=recipe.seed)
        tune(self.network, recipe.scale)
        if recipe.method.start and not (folder / CONFIG).is_file():
            self._begin(locate(recipe.method.start))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the LoRA's weights."""
        return {f"network.{name}": weight for name, weight in self.lora.weights().items()}

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the LoRA while the context lasts."""
        return self.lora.strength(scale)

    def eject(self) -> nn.Module:
        """Take the LoRA out and return the base as it was; the method is of no use after."""
        return self.lora.eject()

    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the network in words."""
        return ask(self.network, z_t, t, told["text"])

    def _names(self) -> dict[str, str]:
        """Name weights as ``load_lora_weights`` of the base's pipeline reads them."""
        return {f"network.{ours}": theirs for ours, theirs in self.lora.names().items()}

    def _begin(self, start: Path) -> None:
        """Take the weights of an earlier run on the same person."""
        export = read_export(start)
        theirs, ours = (export.recipe.method.kind, export.base), ("magic_id", self.base)
        if theirs != ours:
            raise BadWeights(
                str(start),
                f"is of {theirs[0]} on the base {theirs[1]}, and the model here is magic_id on "
                f"{ours[1]}",
                "Name the export of a run of magic_id on this base.",
            )
        path, weights = start / WEIGHTS_FILE, self.lora.weights()
        for name, weight in self.lora.adopt(read_tensors(path), path).items():
            weights[name].data.copy_(weight)
