"""PersonalVideo: a LoRA on AnimateDiff that learns one person from the videos that it draws.

Shapes: B samples, C channels, T frames, H rows, W columns of latents; L text tokens of width E.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import CONFIG
from training.features import Features
from training.method import Batch
from training.methods.on_video import OnVideo
from training.methods.video_conditions import Told
from training.nets.isolated_lora import IsolatedLoRA
from training.nets.lora import WEIGHTS_FILE
from training.nets.text import load_text_encoder
from training.nets.tuning import tune
from training.nets.video_base import ask, is_transformer
from training.noise import STEPS, Noised
from training.settings import TrainRecipe
from training.video.prompts import prompts

STILL_FPS = 8.0
"""Of videos that are drawn from photographs: AnimateDiff's own pace."""


class PersonalVideo(OnVideo):
    """Train a LoRA on attention within frames to draw one person, by reward and not by example.

    Nothing is reconstructed: with ``losses.reward`` alone, videos are drawn, and their faces
    compared with the person's (``training.objectives.reward``). So photographs are enough. Prepared
    photographs are taken as clips that stand still, ``video.frames`` long; as a drawing begins at
    time 800, they say little but where the face is. Each sample is asked for with one of many
    prompts (``video.prompts``), whatever its caption.

    The LoRA is isolated from motion: it is on layers between motion modules only, and used in the
    last ``video.late_share`` of the drawing only, in training as in drawing. Who is drawn is in the
    weights: ``Condition.identity`` only says how many videos there are to be.

    The reward begins where the face is known and needs no detector, which the original runs; see
    there for what else differs.

    References:
        Li et al., "PersonalVideo: High ID-Fidelity Video Customization without Dynamic and Semantic
        Degradation", arXiv:2411.17048. No code is published.
    """

    file = WEIGHTS_FILE
    text: Float[Tensor, "prompts L E"]
    """To train it: of all prompts. Beside it CLIP's vectors of them, where losses want these."""

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Put the LoRA in; to train it, read the prompts.

        Raises:
            BadValue: There is no rank, no text encoder, or no number of frames for photographs;
                identity or text is to be dropped; or the base is no AnimateDiff.
            UnreadableSource: The file of prompts is missing.
        """
        kind, rank, drop = recipe.method.kind, recipe.method.lora_rank, recipe.drop
        if rank < 1:
            raise BadValue("method.lora_rank", rank, "give 1 or more; 16 serves one person.")
        if drop.identity or drop.both or drop.text:
            cure = f"{kind} learns from whole drawings; set all shares to 0."
            raise BadValue("drop", drop, cure)
        super().__init__(recipe, _moving(features, recipe), folder)
        if is_transformer(self.network):
            cure = f"{kind} needs motion modules apart from the rest; give AnimateDiff."
            raise BadValue("base.weights", recipe.base.weights, cure)
        self.lora = IsolatedLoRA(self.network, rank=rank, seed=recipe.seed)
        self._scale = 1.0
        tune(self.network, recipe.scale)
        trains = not (folder / CONFIG).is_file()
        told = self._read_prompts() if trains else {}
        self._known = tuple(told)
        for name, states in told.items():
            self.register_buffer(name, states, persistent=False)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the LoRA's weights."""
        return {f"network.{name}": weight for name, weight in self.lora.weights().items()}

    @contextmanager
    def strength(self, scale: float) -> Iterator[None]:
        """Use this much of the LoRA while the context lasts."""
        before, self._scale = self._scale, scale
        try:
            yield
        finally:
            self._scale = before

    def eject(self) -> nn.Module:
        """Take the LoRA out and return the base as it was; the method is of no use after."""
        return self.lora.eject()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        # Nothing is dropped, and so the sample's draw for it is free to choose the prompt.
        which = (batch["drop"] * len(self.text)).long().clamp(max=len(self.text) - 1)
        spoken = {name: getattr(self, name)[which] for name in self._known}
        losses: dict[str, Tensor] = super().forward({**self._clips(batch), **spoken})
        return losses

    def _main(self, noised: Noised, told: Told) -> Float[Tensor, "B C T H W"]:
        # Where the reward alone counts, one graph less of the network is held.
        counts = any(w > 0 for name, w in self.objective.weights.items() if name != "reward")
        with torch.set_grad_enabled(torch.is_grad_enabled() and counts):
            return super()._main(noised, told)

    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the network, with the LoRA where it is late enough."""
        late_B = t < self.recipe.video.late_share * STEPS
        more = self.lora.told(self._scale * late_B.float(), frames=z_t.shape[2])
        return ask(self.network, z_t, t, told["text"], more=more)

    def _clips(self, batch: Batch) -> Batch:
        """Take photographs as clips that stand still."""
        if batch["latents"].ndim == 5:
            return batch
        frames = self.features.frames
        latents, landmarks = batch["latents"], batch["landmarks"]
        return {
            **batch,
            "latents": latents[:, :, None].expand(-1, -1, frames, -1, -1),
            "landmarks": landmarks[:, None].expand(-1, frames, -1, -1),
            "seen": landmarks.new_ones(len(landmarks), frames),
        }

    def _names(self) -> dict[str, str]:
        """Name weights as ``AnimateDiffPipeline.load_lora_weights`` reads them."""
        return {f"network.{ours}": theirs for ours, theirs in self.lora.names().items()}

    @torch.no_grad()
    def _read_prompts(self) -> dict[str, Tensor]:
        recipe, features = self.recipe, self.features
        if not (features.text_encoder and features.text_shape[0]):
            cure = f"{recipe.method.kind} asks in words; prepare with the base's text encoder."
            raise BadValue("data.path", recipe.data.path, cure)
        encoder = load_text_encoder(features.text_encoder)
        told = prompts(recipe.video.prompts, recipe.method.class_word)
        if cut := [p for p, long in zip(told, encoder.overlong(told), strict=True) if long]:
            raise BadValue("video.prompts", cut[0], f"it is longer than {encoder.tokens} tokens.")
        states = encoder.encode(told)[0].float()
        clips, self.objective.captions = self.objective.captions, {}
        # A copy: what was encoded for inference may take no part in any gradient.
        vectors = {name: clip.vectors(told) for name, clip in clips.items()}
        return {"text": states.clone(), **vectors}


def _moving(features: Features, recipe: TrainRecipe) -> Features:
    """Say of photographs what clips of them are.

    Raises:
        BadValue: Nobody says how long they are.
    """
    frames = recipe.video.frames
    if features.frames:
        return features
    if not frames:
        cure = "photographs were prepared; say how many frames are to be drawn, such as 16."
        raise BadValue("video.frames", frames, cure)
    return replace(features, frames=frames, clip_frames=frames, fps=STILL_FPS)
