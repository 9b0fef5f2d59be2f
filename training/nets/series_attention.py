"""Cross-attention in which the pictures of a series see the words of their subject once more.

Shapes: B samples; R rows of a call: some branches of B samples each, once or more often; N
positions of C channels; T tokens of text and S of the subject, of width E.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.nets.attention_maps import cross_attention
from training.nets.merging import Told


class SubjectAgain:
    """Around a processor: keys and values of the text, and after them the subject's.

    Identity-preserving cross-attention: softmax(q [K; K_s]^T / sqrt(d)) [V; V_s] for text of a
    series, in which one scene is loud, and the subject's tokens as the encoder gave them. A layer
    makes keys and values of each token by itself, so both are concatenated by telling it more
    tokens: any processor will do, and what an adapter adds beside the text is as it was. The
    negative branch of guidance sees its own prompt alone, as in the original's code.

    The paper keeps all tokens in K_s and V_s and sets those of scenes to zero, where each still
    draws exp(0) of attention; its end marks, which hold what the whole prompt means, stay. The
    code hides all but the start mark and the subject, as here: what is not seen weighs nothing.
    The code also draws the subject alone at first, to keep the layers' keys and values of every
    step; these depend on the text only, so no drawing is needed (see ``training.series``).

    References:
        Liu et al., "One-Prompt-One-Story: Free-Lunch Consistent Text-to-Image Generation Using a
        Single Prompt", arXiv:2501.13554, equation 4; ``ipca2`` of its code.
    """

    def __init__(
        self,
        processor: Any,  # noqa: ANN401 - diffusers has no types
        subject: Float[Tensor, "B S E"],
        branches: int,
    ) -> None:
        """Put it around a processor.

        Args:
            processor: That attends.
            subject: Hidden states of its tokens.
            branches: That are predicted in one call, the first of them guidance's negative one.
        """
        self.processor, self.subject, self.branches = processor, subject, branches

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "R N C"],
        encoder_hidden_states: Float[Tensor, "R T E"] | Told,
        attention_mask: None = None,
    ) -> Float[Tensor, "R N C"]:
        """Return what the layer adds to the picture's states."""
        told = encoder_hidden_states
        text, beside = told if isinstance(told, tuple) else (told, None)

        def part(which: int) -> Tensor:
            words = self._apart(text)[which]
            if which:
                again = self.subject.repeat(len(words) // len(self.subject), 1, 1)
                words = torch.cat([words, again], dim=1)
            given = words if beside is None else (words, [self._apart(x)[which] for x in beside])
            done: Tensor = self.processor(
                attn, self._apart(hidden_states)[which], given, attention_mask
            )
            branches = self.branches - 1 if which else 1
            return done.reshape(-1, branches, len(self.subject), *done.shape[1:])

        return torch.cat([part(0), part(1)], dim=1).flatten(0, 2)

    def _apart(self, rows: Float[Tensor, "R N *more"]) -> tuple[Tensor, Tensor]:
        """Return the negative branch's rows, and those of the others.

        A method may ask for its branches more than once in a call, as Infinite-ID's streams.
        """
        each = rows.reshape(-1, self.branches, len(self.subject), *rows.shape[1:])
        return each[:, :1].flatten(0, 2), each[:, 1:].flatten(0, 2)


@contextmanager
def subject_again(
    unet: Any,  # noqa: ANN401 - half of diffusers' methods have no types
    subject: Float[Tensor, "B S E"] | None,
    branches: int,
) -> Iterator[None]:
    """Let every cross-attention see a subject again while the context lasts.

    Args:
        unet: Whatever its processors are.
        subject: See ``SubjectAgain``; None changes nothing.
        branches: See there.
    """
    if subject is None:
        yield
        return
    subject = subject.to(unet.device, unet.dtype)
    layers: list[Any] = [unet.get_submodule(name) for name in cross_attention(unet)]
    theirs = [layer.processor for layer in layers]
    try:
        for layer, processor in zip(layers, theirs, strict=True):
            layer.set_processor(SubjectAgain(processor, subject, branches))
        yield
    finally:
        for layer, processor in zip(layers, theirs, strict=True):
            layer.set_processor(processor)
