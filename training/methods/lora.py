"""DreamBooth with LoRA: a frozen base whose attention learns what one rare word means."""

from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.methods.on_subject import SubjectOnBase
from training.nets.lora import WEIGHTS_FILE, AttentionLoRA
from training.nets.tuning import tune
from training.settings import TrainRecipe


class SubjectLoRA(SubjectOnBase):
    """Train a LoRA on all attention of the UNet to draw one person for one word.

    With ``data.prior_share`` and ``losses.prior`` other people of the corpus keep the class as it
    was. They stand in for the class pictures that DreamBooth draws from the base itself: real
    people, so that the prior is no worse than the corpus, and nothing has to be drawn first.

    References:
        Ruiz et al., "DreamBooth", arXiv:2208.12242; Hu et al., "LoRA", arXiv:2106.09685; Tomašević
        et al., "ID-Booth", arXiv:2504.07392, which adds ``losses.triplet``.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        if recipe.method.lora_rank < 1:
            raise BadValue(
                "method.lora_rank", recipe.method.lora_rank, "give 1 or more; 4 is published."
            )
        self.lora = AttentionLoRA(self.unet, rank=recipe.method.lora_rank, seed=recipe.seed)
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the LoRA's weights."""
        return {f"unet.{name}": weight for name, weight in self.lora.weights().items()}

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the LoRA while the context lasts."""
        return self.lora.strength(scale)

    def eject(self) -> nn.Module:
        """Take the LoRA out and return the base as it was; the method is of no use after."""
        return self.lora.eject()

    def save(self, folder: Path) -> None:
        """Write an export, the LoRA as ``load_lora_weights`` of diffusers and ComfyUI read it."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS_FILE, self.lora.publish())
        self.save_prompts(folder)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        path = folder / WEIGHTS_FILE
        held = self.lora.adopt(read_tensors(path), path)
        return {f"unet.{name}": weight for name, weight in held.items()}
