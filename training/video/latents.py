"""Were a folder's latents made by the autoencoder that a base of videos knows?"""

import hashlib
import json
from pathlib import Path

from infra.errors import BadValue
from infra.weights import locate
from training.features import Features
from training.nets.codec import BESIDE
from training.nets.references import CODEC_PARTS, split_reference, weights_version
from training.nets.video_presets import VIDEO_VAES
from training.settings import BaseModelSettings


def check_latents(features: Features, base: BaseModelSettings, folder: Path) -> None:
    """See that latents were made by the base's own autoencoder, which is still what it was.

    Latents of another one, or of the same at another scale (CogVideoX 2B and 5B share weights, not
    their scale), have the right shape, and a run that learns from them ends in noise. A base that
    has no autoencoder beside it, and AnimateDiff, whose pictures' autoencoder is often exchanged
    for one that decodes better, are believed.

    Args:
        features: What was prepared.
        base: What is to learn from it.
        folder: Of the features, for the message.

    Raises:
        BadValue: They were made by another.
    """
    codec, made_by = features.codec, features.weights.get("codec")
    if codec != BESIDE and made_by and weights_version(codec, CODEC_PARTS) != made_by:
        cure = f"{codec} has other weights than its latents were made with; prepare them anew."
        raise BadValue("data.path", str(folder), cure)
    theirs, ours = _identified(base.weights), _identified(codec)
    if theirs and ours and theirs != ours:
        cure = (
            f"its latents were made by {codec}, and {base.weights} knows those of another "
            "autoencoder, or of another scale; prepare them anew, or take that base."
        )
        raise BadValue("data.path", str(folder), cure)


def _identified(reference: str) -> str:
    """Return what two references to one autoencoder of videos have in common; empty: no such."""
    scheme, name = split_reference(reference)
    if scheme == "random":
        return json.dumps(VIDEO_VAES[name], sort_keys=True) if name in VIDEO_VAES else ""
    if reference == BESIDE:
        return ""
    home = locate(reference)
    home = home / "vae" if (home / "vae").is_dir() else home
    path = home / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("_class_name") != "AutoencoderKLCogVideoX":
        return ""
    digests = sorted(_sha256(file) for file in home.glob("*.safetensors"))
    return json.dumps([config.get("scaling_factor"), digests])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
