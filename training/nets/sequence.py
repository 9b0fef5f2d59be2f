"""Ulysses: several workers share the tokens of each sample of a transformer of CogVideoX.

Every layer but attention looks at one token at a time, so each worker has its part of the tokens;
for attention workers exchange tokens for heads, each then has all tokens of some heads. Text is
divided as the video is. What is predicted is brought together again on every worker, so losses see
whole videos; and since all of a group then descend the same loss, the mean of the workers'
gradients, which every engine takes, is the gradient of one worker with all tokens.

DeepSpeed's ``DistributedAttention`` does the same exchange for parts of one length; here lengths
may differ by one, for 226 tokens of text are no multiple of 4.

Shapes: B samples, H heads, N tokens of width D.

References:
    Jacobs et al., "DeepSpeed Ulysses", arXiv:2309.14509.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.consisid_transformer_3d import ConsisIDTransformer3DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from infra.errors import BadValue


def divide(network: Any, group: dist.ProcessGroup) -> None:  # noqa: ANN401 - half untyped
    """Let the workers of a group share the tokens of every sample; weights stay as they are.

    Every worker of the group must then ask the network equally often, and the same.

    Args:
        network: Of CogVideoX, or ConsisID's.
        group: The workers.

    Raises:
        BadValue: It is another network, or has no multiple of as many heads.
    """
    size = dist.get_world_size(group)
    if type(network) not in (CogVideoXTransformer3DModel, ConsisIDTransformer3DModel):
        cure = "tokens are shared in CogVideoX and ConsisID alone; set it to 1."
        raise BadValue("scale.sequence", size, cure)
    heads = int(network.config.num_attention_heads)
    if heads % size:
        raise BadValue("scale.sequence", size, f"give a divisor of the network's {heads} heads.")
    tokens = _Tokens(group)
    network.register_forward_pre_hook(tokens.before, with_kwargs=True)
    network.patch_embed.register_forward_pre_hook(tokens.before_embedding)
    network.patch_embed.register_forward_hook(tokens.after_embedding)
    network.proj_out.register_forward_hook(tokens.after_all)
    for block in network.transformer_blocks:
        block.attn1.set_processor(_SharedAttention(tokens))


class _Tokens:
    """Which tokens are whose, in the forward that is under way."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self._text: Tensor = torch.empty(0)
        self.counts: list[int] = []
        """Tokens of each worker, text and video."""
        self._of_video: list[int] = []

    def before(
        self,
        _: Any,  # noqa: ANN401
        args: tuple[Any, ...],
        given: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Leave this worker's text and places to the layers."""
        latents, text, *rest = args
        self._text = text
        if given.get("image_rotary_emb") is not None:
            turns = given["image_rotary_emb"]
            given = {**given, "image_rotary_emb": tuple(self._own(each, 0) for each in turns)}
        return (latents, self._own(text), *rest), given

    def before_embedding(self, _: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ANN401
        """Embed all text: learned places are of all of it."""
        return (self._text, *args[1:])

    def after_embedding(self, _: Any, __: Any, embedded: Tensor) -> Tensor:  # noqa: ANN401
        """Leave this worker's tokens to the layers."""
        length = self._text.shape[1]
        text, video = embedded[:, :length], embedded[:, length:]
        self._of_video = self._counts(video.shape[1])
        both = zip(self._counts(length), self._of_video, strict=True)
        self.counts = [words + patches for words, patches in both]
        return torch.cat([self._own(text), self._own(video)], dim=1)

    def after_all(self, _: Any, __: Any, answer: Float[Tensor, "B own D"]) -> Tensor:  # noqa: ANN401
        """Bring the answers for all tokens of the video together."""
        batch, _own, width = answer.shape
        shapes = [(batch, count, width) for count in self._of_video]
        return torch.cat(self.exchanged([answer] * self.size, shapes), dim=1)

    def exchanged(self, sent: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send one tensor to each worker, and return what each sent here, of known shapes."""
        flat = torch.cat([each.flatten() for each in sent])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        exchange: Any = _Exchange
        came = exchange.apply(flat, sizes, [each.numel() for each in sent], self.group)
        parts = zip(came.split(sizes), shapes, strict=True)
        return [part.view(shape) for part, shape in parts]

    def _own(self, tensor: Tensor, axis: int = 1) -> Tensor:
        return tensor.tensor_split(self.size, dim=axis)[self.rank]

    def _counts(self, whole: int) -> list[int]:
        return [len(part) for part in torch.arange(whole).tensor_split(self.size)]


class _Exchange(torch.autograd.Function):
    """Sends numbers to each worker, and gradients back the same way."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own
        sent: Float[Tensor, " sent"],
        came_sizes: list[int],
        sent_sizes: list[int],
        group: dist.ProcessGroup,
    ) -> Float[Tensor, " came"]:
        """Return what came, from worker after worker."""
        ctx.sizes, ctx.group = (sent_sizes, came_sizes), group
        came = sent.new_empty(sum(came_sizes))
        dist.all_to_all_single(came, sent, came_sizes, sent_sizes, group=group)
        return came

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:  # noqa: ANN401 - torch's own
        """Return the gradient of what was sent."""
        came_sizes, sent_sizes = ctx.sizes
        back = gradients[0].new_empty(sum(came_sizes))
        given = gradients[0].contiguous()
        dist.all_to_all_single(back, given, came_sizes, sent_sizes, group=ctx.group)
        return back, None, None, None


class _SharedAttention:
    """CogVideoX's attention of text and video to one another, over all workers' tokens."""

    def __init__(self, tokens: _Tokens) -> None:
        self._tokens = tokens

    def __call__(
        self,
        attn: Any,  # noqa: ANN401 - diffusers' layer
        hidden_states: Float[Tensor, "B video width"],
        encoder_hidden_states: Float[Tensor, "B text width"],
        attention_mask: None = None,  # noqa: ARG002 - as diffusers calls it
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B video width"], Float[Tensor, "B text width"]]:
        """Return what attention makes of video and text."""
        words = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (
            project(both).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = (attn.norm_q(q), attn.norm_k(k)) if attn.norm_q is not None else (q, k)
        if image_rotary_emb is not None:
            q, k = (
                torch.cat(
                    [each[:, :, :words], apply_rotary_emb(each[:, :, words:], image_rotary_emb)],
                    dim=2,
                )
                for each in (q, k)
            )
        q, k, v = (self._by_heads(each.to(v)) for each in (q, k, v))
        attended = scaled_dot_product_attention(q, k, v)
        answer = self._by_tokens(attended).transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            answer = layer(answer)
        return answer[:, words:], answer[:, :words]

    def _by_heads(self, own: Float[Tensor, "B H own D"]) -> Float[Tensor, "B heads N D"]:
        """Exchange this worker's tokens of all heads for all tokens of its heads."""
        tokens = self._tokens
        batch, heads, _, width = own.shape
        shapes = [(batch, heads // tokens.size, count, width) for count in tokens.counts]
        return torch.cat(tokens.exchanged(own.chunk(tokens.size, dim=1), shapes), dim=2)

    def _by_tokens(self, whole: Float[Tensor, "B heads N D"]) -> Float[Tensor, "B H own D"]:
        """Undo ``_by_heads``."""
        tokens = self._tokens
        batch, heads, _, width = whole.shape
        shapes = [(batch, heads, tokens.counts[tokens.rank], width)] * tokens.size
        return torch.cat(tokens.exchanged(torch.split(whole, tokens.counts, dim=2), shapes), dim=1)
