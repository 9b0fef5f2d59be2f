"""A video model of AnimateDiff's architecture at tiny size, its weights drawn from a seed.

It is here so that video jobs can be tried as a whole before a trained model is: what it draws is
coloured noise that moves, and depends on the prompt, the identity, the seed. The image network gets
motion modules between its layers, which look along time (``UNetMotionModel.from_unet2d``), and
DDIM's steps without noise of their own, so that nothing but the latents goes from step to step.

What differs from the paper: the identity, which AnimateDiff does not know, comes in as one more
word, the raw vector through a matrix that was drawn too.

References:
    AnimateDiff (arXiv:2307.04725); DDIM (arXiv:2010.02502).
"""

import threading
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from serving.errors import Refusal
from serving.types import RGB
from serving.videos import Frames, State, VideoDraw, VideoInfo
from training.nets.presets import load_unet, load_vae
from training.nets.references import seeded
from training.nets.text import load_text_encoder

_BASE = "random:tiny-sd"
_SEED = 0


class TinyAnimateDiff:
    """See ``serving.videos.Videos``."""

    def __init__(self, info: VideoInfo, device: str) -> None:
        """Draw the weights; they are the same in every process."""
        self._info, self._device = info, torch.device(device)
        unet: Any = load_unet(_BASE, _SEED)
        kind: Any = UNetMotionModel
        adapter = seeded(
            lambda: MotionAdapter(
                block_out_channels=unet.config.block_out_channels,
                motion_layers_per_block=unet.config.layers_per_block,
                motion_mid_block_layers_per_block=1,
                motion_num_attention_heads=4,
                motion_norm_num_groups=16,
                motion_max_seq_length=info.max_frames,
            ),
            _SEED,
        )
        network = seeded(lambda: kind.from_unet2d(unet, adapter), _SEED).eval()
        self._unet = torch.nn.Module.to(network, self._device)  # diffusers' own warns of precision
        self._vae = load_vae(_BASE, _SEED).to(self._device)
        self._text = load_text_encoder(_BASE)
        self._per_latent_px = 2 ** (len(self._vae.config["block_out_channels"]) - 1)
        # The schedulers of diffusers remember the steps they were told; so one per step is made.
        self._betas = {
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear",
            "clip_sample": False, "timestep_spacing": "trailing",
        }  # fmt: skip
        self._turn = threading.Lock()

    @property
    def info(self) -> VideoInfo:
        """Say what is drawn."""
        return self._info

    def begin(self, ask: VideoDraw) -> State:
        """Return noise.

        Raises:
            Refusal: ``invalid_value``: the prompt is longer than what the model reads.
        """
        if any(self._text.overlong([ask.prompt, ask.negative_prompt])):
            words = f"prompt: {self._info.model} reads {self._text.tokens} tokens; give fewer."
            raise Refusal("invalid_value", words, {"field": "prompt"})
        side = self._per_latent_px
        shape = (1, 4, ask.frames, ask.height_px // side, ask.width_px // side)
        rng = torch.Generator().manual_seed(ask.seed)  # on the CPU: the same on every device
        return State(next_step=0, arrays={"latents": torch.randn(shape, generator=rng).numpy()})

    @torch.inference_mode()
    def step(self, ask: VideoDraw, state: State) -> State:
        """Take one step of DDIM, with guidance."""
        scheduler: Any = DDIMScheduler(**self._betas)
        scheduler.set_timesteps(ask.steps)
        time = scheduler.timesteps[state.next_step]
        latents = self._tensor(state.arrays["latents"])
        both = torch.cat([latents, latents])
        states = self._states(ask).repeat_interleave(ask.frames, dim=0)
        with self._turn:
            noise = self._unet(both, time, encoder_hidden_states=states).sample
        without, with_ = noise.chunk(2)
        guided = without + ask.guidance * (with_ - without)
        after = scheduler.step(guided, time, latents).prev_sample
        return State(next_step=state.next_step + 1, arrays={"latents": after.cpu().numpy()})

    def preview(self, ask: VideoDraw, state: State) -> RGB:
        """Decode the frame in the middle, noise and all."""
        middle = ask.frames // 2
        preview: RGB = self._decoded(state.arrays["latents"][:, :, middle : middle + 1])[0]
        return preview

    def frames(self, ask: VideoDraw, state: State) -> Frames:  # noqa: ARG002 - of the protocol
        """Decode the latents, one frame after the other."""
        return self._decoded(state.arrays["latents"])

    @torch.inference_mode()
    def _decoded(self, drawn: np.ndarray) -> Frames:
        latents = self._tensor(drawn)[0].transpose(0, 1)
        scale = self._vae.config["scaling_factor"]
        decoder: Any = self._vae
        with self._turn:
            decoded = [decoder.decode(one[None] / scale).sample[0] for one in latents]
        pixels = torch.stack(decoded).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        frames: Frames = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return frames

    def _states(self, ask: VideoDraw) -> Float[Tensor, "both words width"]:
        """Return what is said without and with prompt and identity, one word longer than text."""
        text, _ = self._text.encode([ask.negative_prompt, ask.prompt])
        who = torch.zeros(2, 1, text.shape[-1])
        if ask.reference is not None:
            vector = torch.from_numpy(np.ascontiguousarray(ask.reference.vector))
            rng = torch.Generator().manual_seed(_SEED)
            matrix = torch.randn(text.shape[-1], len(vector), generator=rng)
            unit = torch.nn.functional.normalize(vector, dim=0)
            who[1, 0] = ask.identity_scale * (matrix @ unit)
        return torch.cat([text.cpu(), who], dim=1).to(self._device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)
