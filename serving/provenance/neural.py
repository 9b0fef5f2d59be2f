"""The strong mark: VideoSeal or PixelSeal, networks by Meta, as TorchScript.

TorchScript is code. So the file's SHA-256 is named by whoever names the file, and it is checked on
the very bytes that are then loaded; nothing else in this project reads such files.

Of the 256 bits that these networks carry, our 32 are sent eight times, under a mask made of the
secret: so a detector's own leaning to some bits looks like noise, and others cannot read ours.

References:
    Fernandez et al., "Video Seal: Open and Efficient Video Watermarking", arXiv:2412.09492;
    "Pixel Seal", arXiv:2512.16874. https://github.com/facebookresearch/videoseal, whose
    docs/torchscript.md says how exports are called: ``embed(images, bits)`` and
    ``detect(images)``, whose first channel is not a bit.
"""

import hashlib
from io import BytesIO
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.errors import BadWeights
from infra.weights import locate
from serving.provenance.watermark import FOUND_SIGMA, PAYLOAD_BITS, Reading
from serving.types import RGB

_LEAST_BITS = 2 * PAYLOAD_BITS
_PROBE_PX = 256


class NeuralMark:
    """Marks and reads on the CPU; see the module."""

    strong = True
    least_px = 128

    def __init__(self, reference: str, sha256: str, secret: bytes) -> None:
        """Load a TorchScript export.

        Args:
            reference: ``file:<path>``.
            sha256: Of the file, as its publisher or whoever examined it has it.
            secret: What its mask is made of.

        Raises:
            BadWeights: It is not there, another file than was named, or no such network.
        """
        path = locate(reference)
        blob = path.read_bytes()
        found = hashlib.sha256(blob).hexdigest()
        if found != sha256:
            why = f"has SHA-256 {found}, not the {sha256 or 'one that must be named'}"
            cure = "It is code: name the hash of a file that you trust in weights_sha256."
            raise BadWeights(str(path), why, cure)
        self.method = f"torchscript@{found[:12]}"
        try:
            self._network: Any = torch.jit.load(BytesIO(blob), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            with torch.inference_mode():
                blank = torch.full((1, 3, _PROBE_PX, _PROBE_PX), 0.5)
                bits = self._network.detect(blank).reshape(-1).shape[0] - 1
                marked = self._network.embed(blank, torch.zeros(1, bits))
        except (RuntimeError, AttributeError) as error:
            why = f"is no watermark as TorchScript ({str(error).strip().splitlines()[0]})"
            raise BadWeights(str(path), why) from None
        if bits < _LEAST_BITS or marked.shape != blank.shape:
            raise BadWeights(str(path), f"carries {bits} bits, where {_LEAST_BITS} are needed")
        self._times, self._bits = bits // PAYLOAD_BITS, bits
        pad = hashlib.shake_256(b"visage-neural" + secret).digest(bits)
        self._mask = np.frombuffer(pad, np.uint8)[: self._times * PAYLOAD_BITS] & 1

    def embed(self, picture: RGB, payload: int) -> RGB:
        """Return the picture with 32 bits in it."""
        sent = np.zeros((1, self._bits), np.float32)
        sent[0, : len(self._mask)] = np.tile(_bits(payload), self._times) ^ self._mask
        with torch.inference_mode():
            marked = self._network.embed(_tensor(picture), torch.from_numpy(sent))[0]
        levels = (marked.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())

    def read(self, picture: RGB) -> Reading:
        """Say what a picture carries, and how well its copies agree."""
        with torch.inference_mode():
            answer = self._network.detect(_tensor(picture)).reshape(-1).numpy()
        signs = np.where(answer[1 : 1 + len(self._mask)] > 0, 1, -1) * (
            1 - 2 * self._mask.astype(int)
        )
        votes = signs.reshape(self._times, PAYLOAD_BITS).sum(axis=0)
        mean, variance = _by_chance(self._times)
        sigma = float(np.abs(votes).sum() - PAYLOAD_BITS * mean) / (PAYLOAD_BITS * variance) ** 0.5
        payload = int.from_bytes(np.packbits(votes > 0).tobytes(), "big")
        found = sigma >= FOUND_SIGMA
        return Reading(payload=payload if found else None, confidence_sigma=round(sigma, 2))


def _bits(payload: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.unpackbits(np.frombuffer(payload.to_bytes(4, "big"), np.uint8))


def _tensor(picture: RGB) -> Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def _by_chance(times: int) -> tuple[float, float]:
    """Return mean and variance of how far ``times`` tossed coins are from a draw."""
    chances = [comb(times, heads) / 2**times for heads in range(times + 1)]
    gaps = [abs(2 * heads - times) for heads in range(times + 1)]
    mean = sum(c * g for c, g in zip(chances, gaps, strict=True))
    return mean, sum(c * g * g for c, g in zip(chances, gaps, strict=True)) - mean**2
