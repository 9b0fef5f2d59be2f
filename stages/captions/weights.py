"""Models that are a folder: where they are and what they are."""

import hashlib
import json
from pathlib import Path

from infra.errors import BadWeights
from infra.weights import locate, sha256
from stages.models.faces import ModelCard

_CURE = "Give the folder of a model that transformers can load, with config.json and safetensors."


def folder(reference: str) -> Path:
    """Return the folder of a model by reference.

    Raises:
        BadValue: The reference has no known scheme.
        BadWeights: There is no such folder, or it holds no weights as safetensors.
    """
    path = locate(reference)
    if not (path / "config.json").is_file():
        raise BadWeights(str(path), "has no config.json in it", _CURE)
    if not any(path.glob("*.safetensors")):
        raise BadWeights(str(path), "has no *.safetensors in it", _CURE)
    return path


def card(reference: str) -> ModelCard:
    """Say what a model is: one hash over its configuration and all files of weights.

    Raises:
        BadInput: There is no such model.
    """
    path = folder(reference)
    parts = [path / "config.json", *sorted(path.glob("*.safetensors"))]
    whole = hashlib.sha256("".join(sha256(part) for part in parts).encode()).hexdigest()
    license_ = "unknown: see the model's card"
    about = path / "README.md"
    if about.is_file():
        for line in about.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                license_ = line.partition(":")[2].strip() or license_
    name = str(json.loads((path / "config.json").read_text()).get("_name_or_path") or path.name)
    return ModelCard(name.rpartition("/")[2] or path.name, whole, license_, reference)
