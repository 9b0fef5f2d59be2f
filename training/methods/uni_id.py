"""UniID: identity as words and as an adapter, learnt apart and used together.

Shapes: B samples, C channels, H rows, W columns of latents; T text tokens of width E.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import AS_USUAL, Batch, Callback, Condition, Random, Sampling
from training.methods.faceid_conditions import Given
from training.methods.on_base import AdapterOnBase
from training.nets.attention_maps import Told
from training.nets.face_states import check_image
from training.nets.identity_processor import OUTSIDE, Parts
from training.nets.tuning import tune
from training.nets.uni_id import Tokens, UniAdapter, Words, spoken
from training.objectives.step import Gives
from training.settings import TrainRecipe

FILE = "uni-id.safetensors"
WORDS_SCALE, ADAPTER_SCALE = 1.8, 1.2
"""Of both branches when they are merged with normalised rescaling, as published."""


class UniID(AdapterOnBase):
    """Train both branches of ``training.nets.uni_id`` on a frozen base.

    Each branch learns alone, as published: one half of the samples has the words, the other the
    adapter, chosen by the sample's own draw; the original trains them in two runs. The prompt says
    nothing but "a photo of a man" or "woman" there, so that each branch learns the person and not
    what a caption says; here it is the empty prompt, for only that is prepared. A dropped identity
    has no words, and the adapter's tokens of a vector of zeros and the empty picture.

    In drawing both are there, beside the prompt. With ``Sampling.rescale`` the adapter's part of
    each layer gets the norm of the text's, times 1.2, and words have 1.8 times the norm of the
    prompt's; without it both are as in training. ``Sampling.scale`` is of both, ``start_step``
    leaves both out at first; the published 5 first steps have them at 0.5 and 0.8 instead.

    The original tells a whole batch the prompt of its first sample (train_uniid.py); here no sample
    sees another's.

    References:
        Pang et al., "Training for Identity, Inference for Controllability: A Unified Approach to
        Tuning-Free Face Personalization", arXiv:2512.03964, and github.com/lyuPang/UniID.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Make it.

        Raises:
            BadValue: There are no image states, or no text that is long enough for the words.
        """
        check_image(features, recipe.method.kind)
        if features.text_shape[0] < recipe.method.text_tokens + 2:
            raise BadValue(
                "method.text_tokens",
                recipe.method.text_tokens,
                f"the features have {features.text_shape[0]} states of text, and words need a "
                "place among them; prepare them with a text encoder.",
            )
        super().__init__(recipe, features, folder)
        self.adapter = UniAdapter(self.unet, recipe.base.weights)
        width = self.unet.config.cross_attention_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.text_branch = Words(features, recipe.method.text_tokens, width)
            self.adapter_branch = Tokens(features, recipe.method.tokens, width)
        self.parts = Parts(
            self.adapter,
            "adapter_modules",
            OUTSIDE,
            text_branch=self.text_branch,
            adapter_branch=self.adapter_branch,
        )
        self._words_scale = 1.0
        self._apart: Bool[Tensor, " B"] | None = None
        tune(self.unet, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name both branches, and the keys and values."""
        return self.parts.weights()

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of both branches while the context lasts."""
        return self.adapter.strength(scale)

    def eject(self) -> nn.Module:
        """Take the adapter out and return the base as it was; the method is of no use after."""
        return self.adapter.eject()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms, one branch per sample; see ``Batch`` for what is read."""
        # A digit of the draw that says nothing of the shares it falls in.
        self._apart = (batch["drop"] * 4096).long() % 2 == 0
        try:
            return super().forward(batch)
        finally:
            self._apart = None

    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples 3 height width"]:
        """Draw one picture per row of ``condition`` with both branches; see ``Method.generate``."""
        if not sampling.rescale:
            return super().generate(condition, rng, sampling, callback=callback)
        merged = replace(sampling, scale=ADAPTER_SCALE * sampling.scale)
        with self._words(WORDS_SCALE / ADAPTER_SCALE):
            return super().generate(condition, rng, merged, callback=callback)

    def save(self, folder: Path) -> None:
        """Write an export: ``uni-id.safetensors`` and what surrounds it.

        Branches have the original's names of modules; its own weights are of other states, and of
        two text encoders.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / FILE, self.parts.publish())
        held = self.conditions.held
        write_export(folder, self.recipe, self.features, self.codec, held, self.base)

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        return self.parts.adopt(read_tensors(folder / FILE), folder / FILE)

    @contextmanager
    def _words(self, scale: float) -> Iterator[None]:
        """Let words have this norm, in the prompt's own, while the context lasts."""
        self._words_scale = scale
        try:
            yield
        finally:
            self._words_scale = 1.0

    def _gives(self) -> Gives:
        """Say what losses may look at; what is never told in training cannot be left out."""
        return replace(super()._gives(), more=False, embed=self.unet.config.cross_attention_dim)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        tokens: Tensor = self.adapter_branch(given.faces)
        return tokens.float()

    def _attended(self, told: Told, given: Given) -> Float[Tensor, "B N 1"]:
        """Say how much of a layer's attention the adapter's tokens have, of its own samples."""
        shares = super()._attended(told, given)
        # Samples that teach words have tokens of zeros, whose share is that of keys of zeros: it
        # says nothing of the person. Those of the adapter are looked at, for beside its tokens
        # there is the empty prompt, with which they share the softmax in the same way as they will
        # with a prompt.
        return shares if self._apart is None else shares * ~self._apart[:, None, None]

    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,  # noqa: ARG002 - of use to others
    ) -> Float[Tensor, "B C H W"]:
        """Ask the UNet, with the branches that each sample is to have."""
        dtype, scale = self.unet.dtype, self.adapter.scale
        tokens = self.adapter_branch(given.faces)
        if self._apart is not None and scale:
            # Without biases in keys and values, tokens of zeros are no tokens.
            tokens = tokens * ~self._apart[:, None, None]
            given = self.conditions.without(given, *self._nobody_and_all(z_t))
        text = given.text
        if scale:
            someone = (given.faces[..., : self.features.identity_dim] != 0).any(dim=(1, 2))
            present = someone if self._apart is None else someone & self._apart
            words = self.text_branch(given.faces)
            text = spoken(text, words, scale * self._words_scale, present)
        added: dict[str, Any] = self._micro(z_t, given, size, dtype)
        pred: Tensor = self.unet(
            z_t.to(dtype),
            t,
            (text.to(dtype), [tokens[:, None].to(dtype)]),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return pred.float()

    def _nobody_and_all(self, z_t: Tensor) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
        """Say that nobody's identity is left out, and everybody's text."""
        nobody = torch.zeros(len(z_t), dtype=torch.bool, device=z_t.device)
        return nobody, ~nobody
