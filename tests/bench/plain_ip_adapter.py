"""The loop that people start from: IP-Adapter's tutorial, from diffusers' parts, one process.

Every picture is decoded, encoded by the autoencoder and described by the text encoder in each step,
the frozen base stays in float32, and the loss is read off the device each time. Two things are
better than in the script, in the script's favour: attention is diffusers', not a softmax of its
own, and the adapter's modules are those that we train, so that both sides train the same weights.

References:
    Ye et al., "IP-Adapter", arXiv:2308.06721;
    https://github.com/tencent-ailab/IP-Adapter, tutorial_train_faceid.py (rank 128, batch 8,
    `vae` and `text_encoder` in the loop, `unet.to(dtype)` commented out) and, for the second text
    encoder, the sizes and the autoencoder in float32, tutorial_train_sdxl.py.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from training.nets.faceid import FaceIDAdapter
from training.nets.presets import load_unet, load_vae
from training.nets.text import load_text_encoder

PROMPT = "a photograph of a person who looks into the camera, 35 mm"


def write_pictures(folder: Path, size_px: int, count: int = 24) -> list[Path]:
    """Write JPEGs that are smooth, as photographs are: noise alone would be slower to decode."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        coarse = rng.integers(0, 256, (size_px // 16, size_px // 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC).save(path)
    return paths


def read_picture(path: Path) -> torch.Tensor:
    """Return 3 x height x width, RGB in 0 to 1."""
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255


class Faces(Dataset):
    """Pictures from disk, each with a prompt and an identity vector."""

    def __init__(self, paths: list[Path], identity_dim: int) -> None:
        self.paths, self.identity_dim = paths, identity_dim

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        identity = torch.randn(self.identity_dim, generator=torch.Generator().manual_seed(number))
        draw = float(torch.rand(()))  # 5 % each without identity, without text, without both
        return {
            "picture": read_picture(self.paths[number]) * 2 - 1,
            "identity": identity * (draw >= 0.05 and not 0.10 <= draw < 0.15),
            "prompt": "" if 0.05 <= draw < 0.15 else PROMPT,
        }


class PlainLoop:
    """The script's models, optimiser and step.

    Args:
        reference: ``random:sd15``, ``random:sdxl``, ...: unet, autoencoder and text encoders.
        paths: Of the pictures.
        batch: Pictures per step.
        lora_rank: 128 as published; 0 for none.
        identity_dim: Of the identity vectors.
        device: Where it trains.
        workers: Processes that read pictures; the script's default is 0.
    """

    def __init__(
        self,
        reference: str,
        paths: list[Path],
        *,
        batch: int,
        lora_rank: int,
        identity_dim: int,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.unet: Any = load_unet(reference)
        adapter = FaceIDAdapter(
            self.unet, reference, identity_dim=identity_dim, tokens=4, lora_rank=lora_rank, seed=0
        )
        self.unet.to(device).train()
        self.trained = adapter.weights()
        self.vae: Any = load_vae(reference).requires_grad_(False).to(device)
        self.text = load_text_encoder(reference, device=str(device))
        self.noise = DDPMScheduler(beta_schedule="scaled_linear", beta_start=85e-5, beta_end=0.012)
        self.optimiser = torch.optim.AdamW(self.trained.values(), lr=1e-4, weight_decay=1e-2)
        faces = Faces(paths, identity_dim)
        self.loader = DataLoader(faces, batch, shuffle=True, drop_last=True, num_workers=workers)
        self.device = device
        self._batches = iter(self.loader)

    def next_batch(self) -> dict[str, Any]:
        """Read a batch; another epoch begins where one ends."""
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.loader)
            batch = next(self._batches)
        held: dict[str, Any] = batch
        return held

    def step(self, batch: dict[str, Any], half: torch.dtype | None = None) -> float:
        """Take one step and return its loss.

        Args:
            batch: From ``next_batch``.
            half: What accelerate's ``mixed_precision`` would say; None is the script's default.
        """
        autocast = torch.autocast(self.device.type, half) if half else nullcontext()
        sdxl = bool(self.text.pooled_dim)
        with torch.no_grad(), nullcontext() if sdxl else autocast:  # SDXL's overflows in half
            latents = self.vae.encode(batch["picture"].to(self.device)).latent_dist.sample().float()
            latents = latents * self.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        times = torch.randint(0, 1000, (len(latents),), device=self.device)
        noisy = self.noise.add_noise(latents, noise, times)
        with autocast:
            text, pooled = self.text.encode(batch["prompt"])
            added = {"image_embeds": [batch["identity"][:, None].to(self.device)]}
            if pooled is not None:
                side = float(batch["picture"].shape[-1])
                sizes = noisy.new_tensor([[side, side, 0, 0, side, side]] * len(noisy))
                added |= {"text_embeds": pooled.clone(), "time_ids": sizes}
            # Cloned: what inference mode made cannot be kept for a backward pass.
            pred = self.unet(noisy, times, text.clone(), added_cond_kwargs=added).sample
        loss = functional.mse_loss(pred.float(), noise)
        told = loss.item()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return told
