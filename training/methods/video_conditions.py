"""What a network that draws videos is told beside the latents, and what stands for nothing.

Shapes: B samples; F reference faces of V values each; L text tokens of width E.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from infra.errors import BadValue, UnreadableSource
from training.exports import read_empty
from training.features import Features
from training.nets.identity_tokens import normalised
from training.settings import MethodSettings

Told = Mapping[str, Tensor]
"""By the names of ``training.method.Batch``: ``identity`` (B F V, normalised), ``text`` (B L E),
and what else the method takes, as there."""

_OF_PERSON = ("identity", "image", "reference_latents", "face_states", "face_pooled",
              "attributes_text")  # fmt: skip
"""What goes when identity is dropped."""


class VideoConditions(nn.Module):
    """Bring conditions together, and leave some of them out.

    What is dropped becomes zeros, but for text, which becomes the empty prompt, and for ``image``
    where the encoder's states of an empty picture were prepared. So a method that adds nothing for
    zeros is its base for them.

    Args:
        method: How vectors are normalised.
        features: What was prepared.
        folder: Of the features, or of an export: holds what stands for nothing.
        text_width: Of the base.
        takes: What the method is told beside ``identity`` and ``text``, which all are.

    Raises:
        UnreadableSource: There is text, and not the empty prompt's.
    """

    empty_text: Tensor

    def __init__(
        self,
        method: MethodSettings,
        features: Features,
        folder: Path,
        *,
        text_width: int,
        takes: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.method, self.features, self.takes = method, features, takes
        held = read_empty(folder)
        if features.text_shape[0] and "text" not in held:
            raise UnreadableSource(
                str(folder), "it has text, and not the empty prompt's", "Prepare the corpus again."
            )
        used = ("text", *(["image"] if "image" in takes else []))
        self.held = {name: tensor for name, tensor in held.items() if name in used}
        """What was prepared of it, and is of use here."""
        tokens = max(features.text_shape[0], 1)
        nothing = {"text": torch.zeros(tokens, text_width)} | self.held
        for name, tensor in nothing.items():
            self.register_buffer(f"empty_{name}", tensor, persistent=False)

    def whole(self, given: Told) -> dict[str, Tensor]:
        """Bring conditions together; no text is the empty prompt.

        Args:
            given: By name, as in a batch; raw vectors, of one reference face or several.

        Raises:
            BadValue: Something that the method looks at is not there.
        """
        identity = normalised(given["identity"], self.method.identity_norm, self.features)
        told = {"identity": identity if identity.ndim == 3 else identity[:, None]}
        text = given.get("text")
        if text is None:
            text = self.empty_text.expand(len(identity), -1, -1)
        told["text"] = text.to(identity)
        for name in self.takes:
            if name not in given:
                kind, cure = self.method.kind, "prepare the videos with it, or give it."
                raise BadValue(f"condition.{name}", None, f"{kind} is told it too; {cure}")
            told[name] = given[name].to(identity)
        return told

    def without(
        self, told: Told, no_identity: Bool[Tensor, " B"], no_text: Bool[Tensor, " B"]
    ) -> dict[str, Tensor]:
        """Leave identity out of some samples, and text out of some."""
        left = dict(told)
        for name in _OF_PERSON:
            if name in told:
                left[name] = torch.where(_like(no_identity, told[name]), self._none(told, name),
                                         told[name])  # fmt: skip
        left["text"] = torch.where(
            _like(no_text, told["text"]), self.empty_text.to(told["text"]), told["text"]
        )
        return left

    def _none(self, told: Told, name: str) -> Tensor:
        empty: Tensor = getattr(self, f"empty_{name}", torch.zeros(()))
        return empty.to(told[name])


def stacked(one: Told, other: Told) -> dict[str, Tensor]:
    """Put samples after one another."""
    return {name: torch.cat([one[name], other[name]]) for name in one}


def _like(flags: Bool[Tensor, " B"], tensor: Tensor) -> Bool[Tensor, "B ..."]:
    return flags.view(-1, *[1] * (tensor.ndim - 1))
