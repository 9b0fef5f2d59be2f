"""What a network keeps of a step on videos for the way back, counted without any memory.

The network is on torch's meta device, where tensors have shapes and no numbers; autograd says what
it would keep.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def longest(method: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Return the latent shape of the longest of the prepared videos: C, T, H, W."""
    features = method.features
    channels, *sides = features.latent_shape
    shapes = features.latent_shapes or ((channels, features.frames, *sides),)
    return max(shapes, key=lambda shape: shape[1] * shape[2] * shape[3])


def activations_bytes(method: Any, dtype: torch.dtype) -> int:  # noqa: ANN401
    """Return what one sample's way there keeps, and what is made anew on the way back.

    Args:
        method: On a base of videos, on the meta device; its weights become ``dtype``.
        dtype: What it computes in.

    Raises:
        RuntimeError: It reads numbers, of which there are none on the meta device.
    """
    features = method.features
    for held in (*method.parameters(), *method.buffers()):
        if held.is_floating_point():
            held.data = held.data.to(dtype)
    kept = _Kept({weight.untyped_storage()._cdata for weight in method.parameters()})

    def empty(*shape: int) -> Tensor:
        return torch.empty(1, *shape, dtype=dtype, device="meta")

    shape = longest(method)
    given = {
        "identity": empty(features.identity_dim),
        "text": empty(*(features.text_shape if features.text_shape[0] else (1, 1))),
        "image": empty(*features.image_shape),
        "reference_latents": empty(shape[0], *shape[2:]),
        "face_states": empty(*features.face_states_shape),
        "face_pooled": empty(features.face_pooled_dim),
        "attributes_text": empty(*features.text_shape),
    }
    if not features.text_shape[0]:
        del given["text"]
    if getattr(method.network, "is_gradient_checkpointing", False):
        method.network.enable_gradient_checkpointing(kept.made_anew)
    times = torch.zeros(1, dtype=torch.long, device="meta")
    with _Attention(), torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda held: held):
        method._predict(empty(*shape), times, method.conditions.whole(given))
    return sum(kept.held.values()) + kept.anew_bytes


class _Kept:
    """Counts storages, each once, but for those of weights.

    Args:
        weights: Their storages.
    """

    def __init__(self, weights: set[int]) -> None:
        self.weights, self.held, self.anew_bytes = weights, dict[int, int](), 0
        # What is counted must live on: a storage that is freed gives its number to another.
        self._alive: list[Tensor] = []

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.held[storage._cdata] = storage.nbytes()
            self._alive.append(tensor)
        return tensor

    def made_anew(self, part: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401 - as diffusers calls it
        """Stand for checkpointing: only what a part is given is kept, the rest made anew later."""
        for tensor in given:
            if isinstance(tensor, Tensor):
                self.keep(tensor)
        within = _Kept(self.weights)
        with torch.autograd.graph.saved_tensors_hooks(within.keep, lambda held: held):
            answer = part(*given)
        self.anew_bytes = max(self.anew_bytes, sum(within.held.values()))
        return answer


class _Attention(TorchFunctionMode):
    """Attention in one kernel, which keeps no scores: without memory torch would write them out."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Put the stand-in in the place of torch's function."""
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        fused: Any = _Fused
        return fused.apply(named["query"], named["key"], named["value"])


class _Fused(torch.autograd.Function):
    """Keeps queries, keys, values, the answer and one number per query, as FlashAttention does."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
        """Return something of the answer's shape."""
        answer = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, answer, sums)
        return answer
