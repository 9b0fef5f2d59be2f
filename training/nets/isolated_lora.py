"""A LoRA that motion does not feel: on attention within frames, as strong as each call says.

Shapes: B samples of T frames, which layers see as rows.
"""

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from training.nets.lora import NAME, TARGETS, AttentionLoRA


class IsolatedLoRA(AttentionLoRA):
    """A LoRA on all attention of an AnimateDiff but that of its motion modules.

    How strong it is comes with each call, sample by sample, and not from the layers' state. So the
    base can be asked at one time of the drawing and the subject at another in one call, and what
    checkpointing computes again is what was computed.

    References:
        The isolated identity adapter of PersonalVideo, arXiv:2411.17048.
    """

    def __init__(self, network: Any, *, rank: int, seed: int) -> None:  # noqa: ANN401 - half untyped
        """Put it into a ``UNetMotionModel``."""
        self._plain = dict(network.attn_processors)
        within = [name for name in self._plain if "motion_modules" not in name]
        layers = [name.removesuffix(".processor") for name in within]
        targets = [f"{layer}.{part}" for layer in layers for part in TARGETS]
        super().__init__(network, rank=rank, seed=seed, targets=targets)
        network.set_attn_processor(self._plain | {name: _AsStrongAsTold() for name in within})

    def told(self, strength: Float[Tensor, " B"], *, frames: int) -> dict[str, Any]:
        """Return what the network's ``forward`` is told; without, the LoRA is at its strongest."""
        rows = strength.repeat_interleave(frames).view(-1, 1, 1)
        return {"cross_attention_kwargs": {"lora_strength": rows}}

    def eject(self) -> nn.Module:
        """Take it out and return the network as it was."""
        self.network.set_attn_processor(dict(self._plain))
        return super().eject()


class _AsStrongAsTold(AttnProcessor2_0):  # type: ignore[misc]  # has no types
    """Diffusers' own attention, in which the LoRA is as strong as the call says."""

    def __call__(
        self,
        attn: Any,  # noqa: ANN401
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        lora_strength: Any = 1.0,  # noqa: ANN401 - a number, or one for each row
    ) -> Tensor:
        """Attend."""
        for layer in (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]):
            if isinstance(layer, LoraLayer):
                layer.set_scale(NAME, lora_strength)
        out: Tensor = super().__call__(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb
        )
        return out
