"""What per-subject tuning on a frozen text-to-image base shares: the words, steps, drawing.

Shapes: B samples, C channels, H rows, W columns of latents; T text tokens of width E, P numbers of
pooled text.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue, BadWeights
from training.exports import read_tensors, save_tensors
from training.features import Features
from training.method import AS_USUAL, Batch, Callback, Condition, Random, Sampling
from training.methods.faceid_conditions import Given, joined
from training.methods.on_base import AdapterOnBase
from training.nets.codec import decoded
from training.nets.text import load_text_encoder
from training.objectives.step import Gives
from training.sampler import draw, first_noise
from training.settings import TrainRecipe

PROMPTS_FILE = "prompts.safetensors"
PROMPTS = ("subject_text", "subject_pooled", "class_text", "class_pooled")
"""What it holds."""


class SubjectOnBase(AdapterOnBase):
    """A frozen base that learns one person, who is asked for in words.

    Who is drawn is in the weights: ``Condition.identity`` only says how many pictures there are to
    be. Each sample is learnt under one prompt (``method.prompt``), with the subject's word in it
    or, where ``is_prior`` says so, the class'. Captions are not looked at.
    """

    subject_text: Float[Tensor, "T E"]
    subject_pooled: Float[Tensor, " P"]
    class_text: Float[Tensor, "T E"]
    class_pooled: Float[Tensor, " P"]

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Make it, and read its two prompts, or in an export what was read of them.

        Raises:
            BadValue: There is no text encoder to read prompts, or identity is to be dropped.
        """
        if not (features.text_encoder and features.text_shape[0]):
            raise BadValue(
                "data.path",
                str(folder),
                f"{recipe.method.kind} asks for its subject in words, and the features have none; "
                "prepare them with a text encoder.",
            )
        if recipe.drop.identity or recipe.drop.both:
            raise BadValue(
                "drop",
                recipe.drop,
                f"{recipe.method.kind} has its subject in its weights, which cannot be dropped; "
                "set drop.identity and drop.both to 0.",
            )
        super().__init__(recipe, features, folder)
        for name, states in _prompts(recipe, features, folder).items():
            self.register_buffer(name, states, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        return super().forward({**batch, **self._words(batch)})

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition``; see ``Method.generate``.

        Without text the subject is drawn as it was learnt. ``sampling.scale`` is of what was
        learnt; 0 gives the base's own picture of the prompt.
        """
        series = condition.series_text is not None
        if sampling.rescale or sampling.adain_mean or sampling.restore or series:
            cure = "leave rescale, adain_mean, restore and series_text out: these are of adapters."
            raise BadValue("sampling", sampling, cure)
        count = len(condition.identity)
        identity = condition.identity.to(self.unet.device)
        noise = first_noise(condition, rng, sampling, self.features).to(identity)
        text, pooled = condition.text, condition.pooled
        if text is None:
            text, pooled = self._own_text(count), self.subject_pooled.expand(count, -1)
        of = self.conditions
        someone = of.whole(identity, image=None, text=text, pooled=pooled)
        away = (condition.negative_text, condition.negative_pooled)
        both = (of.whole(identity, image=None, text=away[0], pooled=away[1]), someone)

        def predict(z_t: Tensor, t: Tensor, counts: bool) -> tuple[Tensor, Tensor]:
            twice, scale = torch.cat([z_t, z_t]), sampling.scale if counts else 0.0
            told = (replace(each, text=self._spoken(each.text, t, scale)) for each in both)
            with self.strength(scale):
                pred = self._predict(twice, t.expand(len(twice)), joined(*told), None)
            without, given = pred.chunk(2)
            return without, given

        z_0 = draw(self.schedule, noise, predict, condition, sampling, callback)
        return decoded(self.codec, z_0)

    def _own_text(self, count: int) -> Float[Tensor, "B tokens E"]:
        """Return the prompt's states for pictures that are asked for without any."""
        return self.subject_text.expand(count, -1, -1)

    def _spoken(
        self,
        text: Float[Tensor, "B tokens E"],
        t: Int64[Tensor, ""],  # noqa: ARG002 - of use to others
        scale: float,  # noqa: ARG002
    ) -> Float[Tensor, "B T E"]:
        """Return what the UNet is told of a text at a time of the drawing."""
        return text

    def _gives(self) -> Gives:
        return Gives(ask=True, base=True)

    def save_prompts(self, folder: Path) -> None:
        """Write what was read of the prompts, so that an export needs no text encoder."""
        save_tensors(folder / PROMPTS_FILE, {name: getattr(self, name) for name in PROMPTS})

    def _words(self, batch: Batch) -> dict[str, Tensor]:
        """Return the states of each sample's prompt: ``text`` and ``pooled``."""
        prior = batch.get("is_prior", torch.zeros_like(batch["time"], dtype=torch.bool))
        return {
            "text": torch.where(prior[:, None, None], self.class_text, self.subject_text),
            "pooled": torch.where(prior[:, None], self.class_pooled, self.subject_pooled),
        }

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet in words."""
        dtype = self.unet.dtype
        added: Any = self._micro(z_t, given, size, dtype) or None
        pred: Tensor = self.unet(
            z_t.to(dtype), t, given.text.to(dtype), added_cond_kwargs=added, return_dict=False
        )[0]
        return pred.float()


def _prompts(recipe: TrainRecipe, features: Features, folder: Path) -> dict[str, Tensor]:
    """Return the states of the subject's prompt and of the class'."""
    path = folder / PROMPTS_FILE
    if path.is_file():
        held = read_tensors(path)
        if held.keys() != set(PROMPTS):
            raise BadWeights(str(path), f"holds {sorted(held)}", "Export the run again.")
        return held
    method = recipe.method
    prompts = [method.prompt.format(word) for word in (method.subject_word, method.class_word)]
    encoder = load_text_encoder(features.text_encoder)
    if cut := [p for p, long in zip(prompts, encoder.overlong(prompts), strict=True) if long]:
        raise BadValue("method.prompt", cut[0], f"it is longer than {encoder.tokens} tokens.")
    text, pooled = encoder.encode(prompts)
    pooled = text.new_zeros(len(prompts), 0) if pooled is None else pooled
    # Copies: what was encoded without gradients may take no part in any.
    states = (text[0], pooled[0], text[1], pooled[1])
    return {name: each.clone() for name, each in zip(PROMPTS, states, strict=True)}
