"""A folder that diffusers' ``ConsisIDPipeline`` loads, around a trained transformer."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

from infra.weights import locate
from training.features import Features
from training.nets.references import model_folder, split_reference
from training.nets.t5 import load_t5
from training.nets.video_presets import is_video_vae, load_video_vae
from training.settings import BaseModelSettings

TRANSFORMER = "transformer"
_INDEX = "model_index.json"
_TEXT = ("text_encoder", "tokenizer")


def write_pipeline(
    folder: Path,
    network: Any,  # noqa: ANN401 - half of diffusers' methods have no types
    base: BaseModelSettings,
    features: Features,
) -> None:
    """Write the transformer, and around it what the videos were prepared with.

    Files of other folders are linked where the disk is the same, for a text encoder has gigabytes,
    and copied where it is not. Without prepared text, or with a codec of another kind, there is no
    pipeline: the transformer and its scheduler stand alone.

    Args:
        folder: Of an export.
        network: The whole transformer.
        base: What it began as: has a scheduler beside it, or says what schedule it is trained on.
        features: Name the codec and the text encoder.
    """
    network.save_pretrained(folder / TRANSFORMER, safe_serialization=True)
    _write_scheduler(folder / "scheduler", base)
    if not _write_codec(folder / "vae", features.codec) or not features.text_encoder:
        return
    tokenizer = _write_text(folder, features.text_encoder)
    encoder = json.loads((folder / "text_encoder/config.json").read_text())
    index = {
        "_class_name": "ConsisIDPipeline",
        "scheduler": ["diffusers", _class_of(folder / "scheduler/scheduler_config.json")],
        "text_encoder": ["transformers", encoder["architectures"][0]],
        "tokenizer": ["transformers", tokenizer],
        "transformer": ["diffusers", "ConsisIDTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_scheduler(into: Path, base: BaseModelSettings) -> None:
    """Write the base's own scheduler, or CogVideoX's DDIM with the schedule of training."""
    scheme, _ = split_reference(base.weights)
    if scheme == "file":
        home = locate(base.weights)
        for beside in (home / "scheduler", home.parent / "scheduler"):
            if beside.is_dir():
                _linked(beside, into)
                return
    kind: Any = CogVideoXDDIMScheduler
    scheduler = kind(
        beta_schedule=base.beta_schedule,
        prediction_type=base.prediction,
        rescale_betas_zero_snr=base.zero_snr,
        snr_shift_scale=base.snr_shift,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.save_pretrained(into)


def _write_codec(into: Path, reference: str) -> bool:
    """Write the autoencoder; say whether there is one of videos."""
    scheme, _ = split_reference(reference)
    if (scheme == "file" and locate(reference).is_file()) or not is_video_vae(reference):
        return False
    if scheme == "random":
        load_video_vae(reference).save_pretrained(into, safe_serialization=True)
    else:
        _linked(model_folder(reference, "vae"), into)
    return True


def _write_text(folder: Path, reference: str) -> str:
    """Write text encoder and tokenizer; return the tokenizer's class."""
    scheme, _ = split_reference(reference)
    if scheme == "random":
        made = load_t5(reference)
        made._model.save_pretrained(folder / "text_encoder", safe_serialization=True)
        made._tokenizer.save_pretrained(folder / "tokenizer")
    else:
        for part in _TEXT:
            _linked(locate(reference) / part, folder / part)
    told = json.loads((folder / "tokenizer/tokenizer_config.json").read_text())
    return str(told["tokenizer_class"])


def _linked(source: Path, into: Path) -> None:
    """Bring the files of a folder here; into itself is nothing."""
    if source.resolve() == into.resolve():
        return
    into.mkdir(parents=True, exist_ok=True)
    for path in sorted(each for each in source.iterdir() if each.is_file()):
        target = into / path.name
        target.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)


def _class_of(path: Path) -> str:
    return str(json.loads(path.read_text())["_class_name"])
