"""Proteus-ID's transformer: CogVideoX with a person among its words and between its blocks.

Shapes: B samples; L text tokens of width E; P patches of width V in each of S layers of an image
encoder; C channels, T frames, H rows, W columns of latents.

References:
    Zhang et al., "Proteus-ID: ID-Consistent and Motion-Coherent Video Customization",
    arXiv:2506.23729, and its models/transformer_proteusid.py, whose names are kept.
"""

from inspect import signature
from typing import Any

import torch
from diffusers.models.transformers.consisid_transformer_3d import ConsisIDTransformer3DModel
from jaxtyping import Float, Int64
from torch import Tensor, nn

from training.features import Features
from training.nets.consis_id import CrossAttention
from training.nets.proteus_fusion import Adapter, Fusion, Sizes
from training.nets.proteus_injection import Injection
from training.nets.references import seeded

ADDED = ("fuse_token_former", "fuse_token_adapter", "fuse_facital_attention",
         "perceiver_cross_attention")  # fmt: skip
"""What is put into the base, by its published names."""
EVERY = 2
"""Cross-attentions stand after every so many blocks, from the first on."""


class ProteusTransformer(ConsisIDTransformer3DModel):  # type: ignore[misc]  # has no types
    """CogVideoX's blocks, told a person.

    What adds after every second block is ConsisID's loop; what it adds is Proteus-ID's.

    Attributes:
        strength: How much of the person is told; 0: the base, and nothing is computed beside it.
    """

    strength = 1.0
    _repeated_blocks = ("CogVideoXBlock",)
    """What ``compile_repeated_blocks`` compiles; neither of the originals says."""

    def forward(
        self,
        hidden_states: Float[Tensor, "B T C H W"],
        encoder_hidden_states: Float[Tensor, "B L E"],
        timestep: Int64[Tensor, " B"],
        *,
        words: Float[Tensor, "B more E"],
        face: Float[Tensor, "B face"],
        states: Float[Tensor, "B S P V"],
        **how: Any,  # noqa: ANN401 - of the base's forward
    ) -> Any:  # noqa: ANN401
        """Return what the base's ``forward`` does; nobody, a face of zeros, is the base itself.

        The person's tokens stand before the prompt, and as many fall off its end, as published:
        the base keeps its length. What falls off are states of what prompts are filled with, or
        the last words of one that leaves no room for them. The original leaves out the filling,
        and fills with zeros after the prompt, which CogVideoX never saw.

        Args:
            hidden_states: Noisy latents.
            encoder_hidden_states: The prompt.
            timestep: Of the latents.
            words: The identity prompt.
            face: The reference face's vectors.
            states: The image encoder's states of it.
            how: What else the base's ``forward`` takes.
        """
        self.is_train_face, asked = self.strength > 0, encoder_hidden_states
        if self.is_train_face:
            like = self.fuse_token_former.latents
            face, states = face.to(like), states.to(like)
            anybody = face.any(dim=1)[:, None, None]
            self.local_face_scale = (self.strength * anybody).to(hidden_states)
            tokens = self._again(self.fuse_token_former, words.to(like), face, states)
            tokens = self.fuse_token_adapter(tokens)
            how["id_cond"] = self._again(
                self.fuse_facital_attention, tokens, face, states, timestep
            )
            how["id_vit_hidden"] = []
            joined = torch.cat([(self.strength * tokens).to(asked), asked], dim=1)
            asked = torch.where(anybody, joined[:, : asked.shape[1]], asked)
        return super().forward(hidden_states, asked, timestep, **how)

    def _again(self, part: nn.Module, *given: Tensor) -> Tensor:
        """Call a part that computes itself again in the backward, if the blocks do."""
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            found: Tensor = self._gradient_checkpointing_func(part, *given)
            return found
        now: Tensor = part(*given)
        return now


class _AsTold(nn.Module):
    """Stands where ConsisID extracts a face: here that was done before."""

    def forward(self, tokens: Tensor, _: list[Tensor]) -> Tensor:
        return tokens


def grown(base: Any, features: Features, seed: int = 0) -> ProteusTransformer:  # noqa: ANN401
    """Put a person into CogVideoX 1.0, whose weights are taken over, not copied.

    Args:
        base: A ``CogVideoXTransformer3DModel``; of no use after.
        features: What was prepared: how wide what is told of a person is.
        seed: What the new weights are drawn from.
    """
    config, like = base.config, ConsisIDTransformer3DModel
    known = {n: v for n, v in config.items() if n in signature(like.__init__).parameters}
    kind: Any = ProteusTransformer
    with torch.device("meta"):
        network: Any = kind(**known)
    for name, part in base.named_children():
        setattr(network, name, part)
    sizes = Sizes.of(config, features)
    told = sizes.inner * 2 // 3  # as ConsisID has it: 2048 of the 5B's 3072

    def make() -> None:
        network.cross_attn_interval = EVERY
        network.local_facial_extractor = _AsTold()
        network.fuse_token_former = Fusion(sizes)
        network.fuse_token_adapter = Adapter(sizes)
        network.fuse_facital_attention = Injection(sizes, told)
        size = (sizes.inner, sizes.cross_head, sizes.cross_heads, told)
        injecting = [CrossAttention(*size) for _ in range(0, config.num_layers, EVERY)]
        for attention in injecting:
            nn.init.zeros_(attention.to_out.weight)
        network.perceiver_cross_attention = nn.ModuleList(injecting)

    seeded(make, seed)
    made: ProteusTransformer = network.eval()
    return made
