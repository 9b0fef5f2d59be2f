"""Encoders of whole pictures, for CLIP-T, CLIP-I, DINO and the Fréchet distance.

References as elsewhere: ``file:<folder>`` in the layout of transformers, safetensors only, or
``random:tiny-clip`` and ``random:tiny-dino``, which show that the code runs and nothing else.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from infra.errors import BadWeights
from training.nets.clip_presets import TEXTS, VISIONS, Marks, byte_tokenizer
from training.nets.references import (
    Settings,
    model_folder,
    preset,
    read_transformer,
    seeded,
    split_reference,
    weights_version,
)

Kind = Literal["clip", "dino"]
FID_SOUND = 2048
"""Pictures below which a Fréchet distance is mostly bias, after Heusel et al."""
_AT_ONCE = 32
_CLIPS: dict[str, Settings] = {
    "tiny-clip": {
        "text_config": TEXTS["tiny-sd"][0],
        "vision_config": VISIONS["tiny-clip"],
        "projection_dim": 32,
    }
}
_DINOS: dict[str, Settings] = {
    "tiny-dino": {
        key: VISIONS["tiny-clip"][key]
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers",
                    "num_attention_heads", "image_size", "patch_size")
    }
}  # fmt: skip
_NORMALISED: dict[Kind, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dino": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and deviation of the pictures that each was trained on."""


# A subclass of Any to mypy, as transformers has no types.
class _ViT(ViTModel):  # type: ignore[misc]
    """DINO's transformer: its class token is read, and a pooler was never trained."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


_KINDS: dict[str, Any] = {"clip": CLIPModel, "vit": _ViT, "dinov2": Dinov2Model}


@dataclass(frozen=True)
class Scorer:
    """A frozen encoder of pictures, and of words if it is CLIP."""

    kind: Kind
    weights: str
    """What stood behind the reference, see ``weights_version``."""
    network: Any
    """transformers' own, whose calls have no types."""
    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: Any = None

    @torch.inference_mode()
    def pictures(
        self, pictures: UInt8[np.ndarray, "pictures height width 3"]
    ) -> Float32[np.ndarray, "pictures dim"]:
        """Embed pictures: CLIP's projected vector, DINO's class token; not normalised.

        The shorter side is brought to the network's size and the middle cut out, as both were
        trained.
        """
        parts = []
        for start in range(0, len(pictures), _AT_ONCE):
            pixels = self._pixels(pictures[start : start + _AT_ONCE])
            if self.kind == "clip":
                vectors = self.network.get_image_features(pixel_values=pixels).pooler_output
            else:
                vectors = self.network(pixels).last_hidden_state[:, 0]
            parts.append(vectors.float().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def prompts(self, prompts: list[str]) -> tuple[Float32[np.ndarray, "prompts dim"], int]:
        """Embed prompts with CLIP; also say how many were longer than it reads, and were cut."""
        most = int(self.network.config.text_config.max_position_embeddings)
        lengths = [len(ids) for ids in self.tokenizer(prompts, verbose=False)["input_ids"]]
        parts = []
        for start in range(0, len(prompts), _AT_ONCE):
            ids = self.tokenizer(
                prompts[start : start + _AT_ONCE],
                padding="max_length",
                truncation=True,
                max_length=most,
                return_tensors="pt",
            ).to(self.network.device)
            vectors = self.network.get_text_features(**ids).pooler_output
            parts.append(vectors.float().cpu().numpy())
        return np.concatenate(parts), sum(length > most for length in lengths)

    def _pixels(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Tensor:
        device = self.network.device
        return self.ready(torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255)

    def ready(self, pixels: Float[Tensor, "B 3 height width"]) -> Float[Tensor, "B 3 side side"]:
        """Bring pictures, RGB in 0 to 1, to what the network takes; differentiable."""
        scale = self.size_px / min(pixels.shape[2:])
        high, wide = (round(side * scale) for side in pixels.shape[2:])
        pixels = nn.functional.interpolate(
            pixels, (high, wide), mode="bicubic", antialias=True
        ).clamp(0, 1)
        top, left = (high - self.size_px) // 2, (wide - self.size_px) // 2
        pixels = pixels[:, :, top : top + self.size_px, left : left + self.size_px]
        mean, std = (torch.tensor(each, device=pixels.device) for each in (self.mean, self.std))
        return (pixels - mean[:, None, None]) / std[:, None, None]


def load_scorer(kind: Kind, reference: str, device: str = "cpu") -> Scorer:
    """Load an encoder of pictures.

    Args:
        kind: ``clip`` (any CLIPModel with its tokenizer) or ``dino`` (ViT or DINOv2).
        reference: ``file:<folder>``, ``random:tiny-clip`` or ``random:tiny-dino``.
        device: ``cpu`` or ``cuda``.

    Raises:
        BadValue: The reference has no known scheme, or names no preset.
        BadWeights: The folder has no safetensors, or holds another model.
    """
    scheme, _ = split_reference(reference)
    (mean, std), tokenizer = _NORMALISED[kind], None
    if scheme == "random":
        network, tokenizer = _random(kind, reference)
    else:
        folder = model_folder(reference, kind)
        network = read_transformer(_maker(kind, folder), folder)
        mean, std = _said(folder, mean, std)
        tokenizer = _tokenizer(folder) if kind == "clip" else None
    network = network.eval().requires_grad_(False).to(device)
    config = network.config.vision_config if kind == "clip" else network.config
    version = weights_version(reference, ())
    return Scorer(kind, version, network, int(config.image_size), mean, std, tokenizer)


def _random(kind: Kind, reference: str) -> tuple[Any, Any]:
    """Make a network of a preset, and a tokenizer for it if it is CLIP."""
    maker: Any = _KINDS["clip" if kind == "clip" else "vit"]
    if kind == "dino":
        config: Any = ViTConfig(**preset(_DINOS, reference))
        return seeded(lambda: maker(config), 0), None
    settings = preset(_CLIPS, reference)
    words = settings["text_config"]["vocab_size"]
    marks = Marks.of(words)
    ends = {"bos_token_id": marks.begin, "eos_token_id": marks.end, "pad_token_id": marks.end}
    config = CLIPConfig(**settings | {"text_config": settings["text_config"] | ends})
    return seeded(lambda: maker(config), 0), byte_tokenizer(words, fills_with_zero=False)


def _maker(kind: Kind, folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Return the class that reads a folder, by what its configuration says."""
    path = folder / "config.json"
    if not path.exists():
        raise BadWeights(str(path), "does not exist", "Give a folder as transformers saves it.")
    told = str(json.loads(path.read_text()).get("model_type", "nothing"))
    fit = ("clip",) if kind == "clip" else ("vit", "dinov2")
    if told not in fit:
        why = f"describes a model of type {told!r}, not {' or '.join(fit)}"
        raise BadWeights(str(path), why, f"Give the folder of a {kind.upper()} model.")
    return _KINDS[told]


def _said(
    folder: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and deviation that the folder itself names, if it does."""
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    return tuple(said.get("image_mean", mean)), tuple(said.get("image_std", std))


def _tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").exists():
        cure = "Put the model's tokenizer files (vocab.json, merges.txt) there."
        raise BadWeights(str(folder), "has no tokenizer beside it", cure)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def frechet(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"]) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets, in double.

    With vectors of Inception-v3 this is FID; with others it is named after them, and only compared
    with its own kind at the same number of pictures: small sets make it too large.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium", arXiv:1706.08500; Chong and Forsyth, arXiv:1911.07023, for the bias.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b))
    root = _root(cov_a)
    # Of the product of two covariances the root has the trace of this symmetric matrix's root.
    between = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
    away = a.mean(axis=0) - b.mean(axis=0)
    return float(away @ away + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(between).sum())


def _root(matrix: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)
