"""What an export holds, whatever the method: all that drawing needs, but for the base model.

* ``config.json``: kind of method, recipe, encoder, version of the base, SHA-256 of each file below;
* ``features.json``: what the method was prepared for; see ``training.features``;
* ``codec.safetensors``: the codec, where it is a file beside the features;
* ``empty.safetensors``: what stands for dropped conditions, where there are text or image states;
* the method's own weights, as safetensors;
* ``README.md``: a model card, which is completed when the export is released.

So an export is a folder of features without samples, and a method is made from either.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infra.configuration import digest, overlay, to_dict
from infra.errors import BadWeights
from training.card import NOT_MEASURED, card
from training.features import EMPTY_FILE, Features
from training.nets.codec import Codec, save_codec
from training.settings import LossSettings, Scale, TrainRecipe

CONFIG = "config.json"
CARD = "README.md"
FORMAT = "visage-export-1"
_PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl")
_NAME_IT = "Name the export of a checkpoint: <run>/step-<number>/export."


@dataclass(frozen=True)
class Export:
    """A whole export."""

    recipe: TrainRecipe
    features: Features
    base: str
    """Which weights the base model had, as ``weights_version`` says it; empty: it needs none."""


def write_export(
    folder: Path,
    recipe: TrainRecipe,
    features: Features,
    codec: Codec,
    empty: Mapping[str, Tensor],
    base: str = "",
) -> None:
    """Write what surrounds a method's weights, which are there already; ``config.json`` is last."""
    features.write(folder)
    save_codec(codec, features.codec, folder)
    if empty:
        save_tensors(folder / EMPTY_FILE, empty)
    (folder / CARD).write_text(card(recipe, features))
    about = {
        "format": FORMAT,
        "kind": recipe.method.kind,
        "base": base,
        "embedder": {
            "name": features.embedder,
            "backend": features.backend,
            "dim": features.identity_dim,
            "norm": recipe.method.identity_norm,
        },
        "recipe": to_dict(recipe),
        "files": {
            path.relative_to(folder).as_posix(): _sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path not in (folder / CONFIG, folder / CARD)
        },
    }
    beside = folder / f"{CONFIG}.part"
    beside.write_text(json.dumps(about, indent=2) + "\n")
    beside.replace(folder / CONFIG)


def drawn_digest(files: Mapping[str, str]) -> str:
    """Digest an export by all that decides what it draws: its files but the card.

    Args:
        files: Hashes by name, as ``infra.released.manifest`` makes them.
    """
    return digest({name: hash_ for name, hash_ in files.items() if name != CARD})


def complete_card(folder: Path, text: str) -> bool:
    """Put a card with scores in the place of one that has none yet; say if that was done.

    Whole or not at all, and once: released versions are known by the hashes of all their files, so
    newer scores of the same weights belong beside a version and not into its card.
    """
    path = folder / CARD
    if not path.is_file() or NOT_MEASURED not in path.read_text():
        return False
    # Not inside: a file too many there is no part of an export.
    beside = folder.with_name(f".{folder.name}-{CARD}.part")
    beside.write_text(text)
    beside.replace(path)
    return True


def read_export(folder: Path) -> Export:
    """Read what surrounds a method's weights, and see that every file is as it was written.

    The recipe comes back as drawing needs it: its losses and its scale are of no use there.

    Raises:
        BadWeights: The folder is no export, or a file of it is missing, altered or a pickle.
        UnknownKey: The recipe is of another version of Visage.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLES:
            raise BadWeights(
                str(path),
                "is a pickle, which can run code when it is read",
                "Convert it to safetensors, or take it away.",
            )
    path = folder / CONFIG
    if not path.is_file():
        raise BadWeights(str(path), "does not exist", _NAME_IT)
    try:
        about: dict[str, Any] = json.loads(path.read_text())
        stated, files = about["format"], dict(about["files"])
        held, base = about["recipe"], str(about["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadWeights(str(path), f"is no export's: {error!r}", _NAME_IT) from None
    if stated != FORMAT:
        raise BadWeights(str(path), f"has the format {stated!r}, not {FORMAT!r}", _NAME_IT)
    for name, stated_hash in files.items():
        _check(folder, name, stated_hash)
    recipe = overlay(TrainRecipe(name="unnamed"), held, str(path))
    plain = replace(recipe, losses=LossSettings(), scale=Scale())
    return Export(plain, Features.read(folder), base)


def read_matching(folder: Path, recipe: TrainRecipe, features: Features, base: str) -> Export:
    """Read an export whose weights are to go into a method that is there already.

    Raises:
        BadWeights: See ``read_export``; or it was made for another method, base or encoder.
    """
    export = read_export(folder)
    theirs, ours = _contract(export.recipe, export.features, export.base), _contract(
        recipe, features, base
    )  # fmt: skip
    for name, value in ours.items():
        if theirs[name] != value:
            raise BadWeights(
                str(folder / CONFIG),
                f"is of an export with {name} {_short(theirs[name])}, "
                f"and the model here has {_short(value)}",
                "Load it by itself, or with its own recipe and features.",
            )
    return export


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, from whatever device, as safetensors."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(held, path, {"format": "pt"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors.

    Raises:
        BadWeights: The file is missing, or something else.
    """
    if not path.is_file():
        raise BadWeights(str(path), "does not exist", "Export the run again.")
    try:
        held: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise BadWeights(
            str(path), f"is not safetensors: {error}", "Convert it to safetensors."
        ) from error
    return held


def read_empty(folder: Path) -> dict[str, Tensor]:
    """Return what stands for dropped conditions in a folder of features, or an export.

    Returns:
        ``text`` (tokens x width), ``pooled`` (width) of the empty prompt, ``image`` (patches x
        width) of an empty picture: those that were prepared, as float32.
    """
    path = folder / EMPTY_FILE
    if not path.exists():
        return {}
    return {name: tensor.float() for name, tensor in read_tensors(path).items()}


def _contract(recipe: TrainRecipe, features: Features, base: str) -> dict[str, object]:
    """List what weights can only be used with."""
    method = {f"method.{name}": value for name, value in to_dict(recipe.method).items()}
    standard = recipe.method.identity_norm == "standard"
    return method | {
        "base": base,
        "base.prediction": recipe.base.prediction,
        "base.beta_schedule": recipe.base.beta_schedule,
        "base.zero_snr": recipe.base.zero_snr,
        "base.snr_shift": recipe.base.snr_shift,
        "embedder": features.embedder,
        "identity_dim": features.identity_dim,
        "identity_mean": features.identity_mean if standard else (),
        "identity_std": features.identity_std if standard else (),
        "latent channels": features.latent_shape[0],
        "text_shape": features.text_shape,
        "image_shape": features.image_shape,
        "face_states_shape": features.face_states_shape,
        "face_pooled_dim": features.face_pooled_dim,
    }


def _check(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadWeights(str(folder / CONFIG), f"lists {name!r}, which is outside", _NAME_IT)
    if not path.is_file():
        raise BadWeights(str(path), "does not exist", "Export the run again.")
    if _sha256(path) != digest:
        raise BadWeights(str(path), "was altered after it was exported", "Export the run again.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:57]}..."
