"""Infinite-ID in a diffusers UNet: identity learnt with text off, and both streams put together.

Shapes: B samples, N positions of C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection, IPAdapterFullImageProjection
from jaxtyping import Float
from torch import Tensor, nn

from training.features import Features
from training.nets.cross_attention import CrossAttention, attended, finished
from training.nets.face_states import Faces, together
from training.nets.identity_processor import COPIES, IdentityProcessor
from training.nets.merging import Merge, Told, adain_mean, decoupled, plain


class FaceTokens(nn.Module):
    """CLIP's states of a face and its identity vector, each mapped to the text's width.

    One token for each state, and ``tokens`` of the vector. The paper names a CLIP mapper and a face
    mapper and does not draw them: here they are IP-Adapter's, a small MLP and a norm each.

    References:
        Wu et al., "Infinite-ID", arXiv:2403.11781, section 3.2.
    """

    def __init__(self, features: Features, tokens: int, width: int) -> None:
        super().__init__()
        self.features = features
        clip: Any = IPAdapterFullImageProjection
        face: Any = IPAdapterFaceIDImageProjection
        self.clip_mapper: nn.Module = clip(features.image_shape[1], width)
        self.face_mapper: nn.Module = face(features.identity_dim, width, num_tokens=tokens)

    def forward(self, packed: Float[Tensor, "B F values"]) -> Float[Tensor, "B tokens width"]:
        """Return the tokens of all faces of a sample, after one another."""
        faces = Faces.of(packed, self.features)
        seen, known = self.clip_mapper(faces.image), self.face_mapper(faces.identity)
        return together(torch.cat([seen, known], dim=1), packed)


class InfiniteProcessor(IdentityProcessor):
    """Cross-attention to identity alone; or, while streams are mixed, what each stream asks.

    Of mixed streams the first half of the samples is the text's, which asks text and identity, and
    the second half identity's, which is as it was in training.
    """

    mixes = False

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Told,
        attention_mask: None = None,
        **_: object,
    ) -> Float[Tensor, "B N C"]:
        """Return what the layer adds to the picture's states."""
        text, tokens = encoder_hidden_states[0], encoder_hidden_states[1][0].flatten(1, -2)
        if self.scale == [0]:
            told: Tensor = plain(attn, hidden_states, text, attention_mask)
            return told
        if not self.mixes:
            return self._identity(attn, hidden_states, tokens)
        worded, shown = hidden_states.chunk(2)
        half = text.chunk(2)[0], [tokens.chunk(2)[0]]
        merged = decoupled(attn, self, worded, half, self.merge)
        return torch.cat([merged, self._identity(attn, shown, tokens.chunk(2)[1])])

    def _identity(self, attn: Any, states: Tensor, tokens: Tensor) -> Tensor:  # noqa: ANN401 - untyped
        key, value = self.to_k_ip[0](tokens), self.to_v_ip[0](tokens)
        return finished(attn, attended(attn, attn.to_q(states), key, value))


class _MixedSelfAttention:
    """Self-attention in which the text's stream also sees identity's.

    Attn(Q_t, [K_id, K_t], [V_id, V_t]) for the first half of the samples, the text's; identity's
    own, in the second half, is as it was.
    """

    def __init__(self, merge: Merge, scale: float) -> None:
        self.merge, self.scale = merge, scale

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' Attention has no types
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: None = None,  # noqa: ARG002 - it is self-attention
        attention_mask: None = None,  # noqa: ARG002 - there is none
        **_: object,
    ) -> Float[Tensor, "B N C"]:
        query, key, value = (f(hidden_states) for f in (attn.to_q, attn.to_k, attn.to_v))
        apart = attended(attn, query, key, value)
        (key_t, key_id), (value_t, value_id) = key.chunk(2), value.chunk(2)
        if self.merge.adain_mean:
            key_id, value_id = adain_mean(key_id, key_t), adain_mean(value_id, value_t)
        keys, values = torch.cat([key_id, key_t], dim=1), torch.cat([value_id, value_t], dim=1)
        own, identity = apart.chunk(2)
        mixed = attended(attn, query.chunk(2)[0], keys, values)
        return finished(attn, torch.cat([torch.lerp(own, mixed, self.scale), identity]))


class InfiniteAdapter(CrossAttention):
    """The processors of both streams.

    Attributes:
        mixes: Whether the network is asked for both streams at once.
    """

    mixes = False

    def __init__(self, unet: Any, reference: str) -> None:  # noqa: ANN401 - untyped
        super().__init__(unet, reference, InfiniteProcessor, COPIES)

    @contextmanager
    def mixed(self, merge: Merge, scale: float) -> Iterator[None]:
        """Mix the streams while the context lasts: for drawing; training has one stream."""
        own = {name: self.unet.get_submodule(name.removesuffix(".processor"))
               for name in self.attention[::2]}  # fmt: skip
        try:
            self._mix(True)
            for attn in own.values():
                attn.set_processor(_MixedSelfAttention(merge, scale))
            yield
        finally:
            self._mix(False)
            for name, attn in own.items():
                attn.set_processor(self._plain[name])

    def _mix(self, mixes: bool) -> None:
        self.mixes = mixes
        for processor in self.unet.attn_processors.values():
            if isinstance(processor, InfiniteProcessor):
                processor.mixes = mixes
