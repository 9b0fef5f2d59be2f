"""Models by reference: where their weights are, and which weights exactly.

A reference says where a model comes from:

* ``random:<preset>``: the preset's architecture, its weights drawn from a seed; for tests, plans
  and timings, on machines that have no weights;
* ``file:<folder>``: a diffusers folder, of a whole pipeline or of the one model, safetensors only.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from infra.errors import BadValue, BadWeights, nearest
from infra.weights import locate

Settings = dict[str, Any]
Named = TypeVar("Named")
Model = TypeVar("Model")
TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""Folders of a pipeline that decide what its captions become."""
IMAGE_PARTS = ("image_encoder",)
"""Folders of a pipeline that decide what its image encoder sees."""
CODEC_PARTS = ("vae",)
"""Folders of a pipeline that decide what its latents are."""
_PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
_WEIGHED = (".safetensors", ".json", ".txt")
"""Files that decide what a model does: weights, configuration, vocabulary."""


def split_reference(reference: str) -> tuple[str, str]:
    """Divide a reference into its scheme, ``random`` or ``file``, and the rest.

    Raises:
        BadValue: The scheme is neither.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "hub":
        raise BadValue(
            "weights", reference, "models are not fetched yet; download it, give 'file:<folder>'."
        )
    if scheme not in ("random", "file"):
        raise BadValue("weights", reference, "begin with 'random:' or 'file:'.")
    return scheme, rest


def preset(presets: Mapping[str, Named], reference: str) -> Named:
    """Look up what a ``random:`` reference names.

    Raises:
        BadValue: No preset has that name; the message offers the nearest.
    """
    _, name = split_reference(reference)
    if name not in presets:
        raise BadValue("weights", reference, f"no preset has that name. {nearest(name, presets)}")
    return presets[name]


def seeded(make: Callable[[], Model], seed: int) -> Model:
    """Make a model with weights drawn from ``seed``; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def model_folder(reference: str, part: str) -> Path:
    """Find the folder of one model, and see that it holds safetensors.

    Args:
        reference: ``file:<folder>``, of the model itself or of a pipeline.
        part: The model's name in a pipeline: ``unet``, ``vae``, ``text_encoder``, ...

    Raises:
        BadWeights: There is no such folder, or it holds pickles, or no weights.
    """
    folder = locate(reference)
    if (folder / part).is_dir():
        folder /= part
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
        if pickled:
            raise BadWeights(
                str(folder / pickled[0]),
                "is a pickle, which can run code when it is read",
                "Convert it to safetensors.",
            )
        raise BadWeights(
            str(folder),
            "is no diffusers folder with safetensors in it",
            "Give the folder that holds config.json and *.safetensors.",
        )
    return folder


def read_transformer(kind: Any, folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    """Read a model of transformers, all of its weights.

    Raises:
        BadWeights: A file is damaged, or weights are missing, which transformers would draw at
            random and only warn of.
    """
    try:
        model, told = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadWeights(str(folder), f"cannot be read: {error}") from error
    if missing := sorted(told["missing_keys"]):
        raise BadWeights(
            str(folder), f"lacks {len(missing)} weights of {kind.__name__}, such as {missing[0]!r}"
        )
    return model.eval()


def weights_version(reference: str, parts: tuple[str, ...], seed: int = 0) -> str:
    """Say which weights a reference stands for now.

    Args:
        reference: ``random:`` or ``file:``, of a folder or a single file.
        parts: Subfolders of a pipeline that matter; those that exist are digested, the folder
            itself where none does.
        seed: What the weights of ``random:`` are drawn from.

    Returns:
        ``random:<preset>#<seed>``; for files 64 hex digits that change with the bytes of any
        weight, configuration or vocabulary: the SHA-256 of a ``sha256sum`` listing.
    """
    scheme, name = split_reference(reference)
    if scheme == "random":
        return f"random:{name}#{seed}"
    home = locate(reference)
    if home.is_file():
        return _sha256(home)
    folders = [home / part for part in parts if (home / part).is_dir()] or [home]
    files = sorted(p for f in folders for p in f.iterdir() if p.suffix in _WEIGHED)
    listing = [f"{_sha256(path)}  {path.relative_to(home).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(listing).encode()).hexdigest()


def _sha256(path: Path) -> str:
    """Digest a file as it is now: within one process weights may be exchanged."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
