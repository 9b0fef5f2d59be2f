"""The loop that people start from for videos: CogVideoX's LoRA script, from diffusers' parts.

What ``visage prepare`` does once is done here before the loop too, as there: videos and prompts are
encoded. One thing is better than in the script, in the script's favour: our batches are read ahead,
and its videos lie in memory.

References:
    https://github.com/huggingface/diffusers, examples/cogvideo/train_cogvideox_lora.py (rank 128 on
    to_q, to_k, to_v, to_out.0; the error of the clean video weighed by 1 / (1 - alphas_cumprod);
    the loss read off the device in each step).
"""

from contextlib import nullcontext
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler
from jaxtyping import Float, Int64
from torch import Tensor

from training.nets.lora import AttentionLoRA
from training.nets.video_base import rotary
from training.nets.video_presets import load_video_network
from training.settings import BaseModelSettings


class PlainVideoLoop:
    """The script's model, optimiser and step.

    Args:
        base: Of CogVideoX.
        lora_rank: 128 as published.
        device: Where it trains.
        half: What the frozen base is kept in, and accelerate computes in; None: float32.
        checkpointed: Whether layers are computed again on the way back.
    """

    def __init__(
        self,
        base: BaseModelSettings,
        *,
        lora_rank: int,
        device: torch.device,
        half: torch.dtype | None = None,
        checkpointed: bool = False,
    ) -> None:
        self.network: Any = load_video_network(base).requires_grad_(False)
        if half:
            self.network.to(half)
        lora = AttentionLoRA(self.network, rank=lora_rank, seed=0)
        self.network.to(device).train()
        if checkpointed:
            self.network.enable_gradient_checkpointing()
        self.trained = lora.weights()
        for weight in self.trained.values():
            weight.data = weight.data.float()
        self.noise = CogVideoXDPMScheduler(
            snr_shift_scale=base.snr_shift, rescale_betas_zero_snr=base.zero_snr,
            prediction_type=base.prediction,
        )  # fmt: skip
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=1e-4, weight_decay=1e-2)
        self.device, self.half = device, half

    def step(self, latents: Float[Tensor, "B C T H W"], text: Float[Tensor, "B L E"]) -> float:
        """Take one step and return its loss."""
        latents = latents.to(self.device)
        noise = torch.randn_like(latents)
        times = torch.randint(0, 1000, (len(latents),), device=self.device)
        loss = self.loss(latents, text.to(self.device), noise, times)
        told = loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return told

    def loss(
        self,
        latents: Float[Tensor, "B C T H W"],
        text: Float[Tensor, "B L E"],
        noise: Float[Tensor, "B C T H W"],
        times: Int64[Tensor, " B"],
    ) -> Float[Tensor, ""]:
        """Return the script's loss."""
        dtype = self.half or torch.float32
        clean, noise = latents.transpose(1, 2), noise.transpose(1, 2)
        noisy = self.noise.add_noise(clean, noise, times)
        _, frames, _, rows, columns = clean.shape
        turns = rotary(self.network, frames, rows, columns, self.device)
        autocast = torch.autocast(self.device.type, dtype) if self.half else nullcontext()
        with autocast:
            output = self.network(
                noisy.to(dtype), text.to(dtype), times, image_rotary_emb=turns, return_dict=False
            )[0]
        pred = self.noise.get_velocity(output.float(), noisy, times)
        weight = 1 / (1 - self.noise.alphas_cumprod.to(self.device)[times])
        while weight.ndim < pred.ndim:
            weight = weight[..., None]
        each = (weight * (pred - clean) ** 2).flatten(1).mean(dim=1)
        loss: Tensor = each.mean()
        return loss
