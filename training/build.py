"""From a recipe and prepared features to what the loop needs; from an export to what draws."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.errors import BadValue, nearest
from training.data import Batches
from training.exports import read_export
from training.features import Features, Prepared
from training.method import Method
from training.objective import check_company
from training.preferences import make_batches
from training.settings import TrainRecipe
from training.subject import training_samples

_log = logging.getLogger(__name__)

METHODS = {
    "base": "training.methods.base:BaseGenerator",
    "arc2face": "training.methods.arc2face:Arc2Face",
    "consistent_id": "training.methods.consistent_id:ConsistentID",
    "fast_composer": "training.methods.fast_composer:FastComposer",
    "instant_id": "training.methods.instant_id:InstantID",
    "ip_adapter_faceid": "training.methods.ip_adapter_faceid:IPAdapterFaceID",
    "photo_verse": "training.methods.photo_verse:PhotoVerse",
    "w_plus": "training.methods.w_plus:WPlusAdapter",
    "lora": "training.methods.lora:SubjectLoRA",
    "dis_booth": "training.methods.dis_booth:DisBooth",
    "pva": "training.methods.pva:PVA",
    "sefi_ide": "training.methods.sefi_ide:SefiIDE",
    "stable_identity": "training.methods.stable_identity:StableIdentity",
    "infinite_id": "training.methods.infinite_id:InfiniteID",
    "face_chain_fact": "training.methods.face_chain_fact:FaceChainFact",
    "dp_adapter": "training.methods.dp_adapter:DPAdapter",
    "uni_id": "training.methods.uni_id:UniID",
    "proteus_id": "training.methods.proteus_id:ProteusID",
    "magic_id": "training.methods.magic_id:MagicID",
    "id_animator": "training.methods.id_animator:IDAnimator",
    "personal_video": "training.methods.personal_video:PersonalVideo",
    "consis_id": "training.methods.consis_id:ConsisID",
}
"""Every kind of method, with its class; each is imported only when it is asked for."""


@dataclass(frozen=True)
class Job:
    """A method and its samples."""

    method: Method
    batches: Batches
    prepared: Prepared


def build(recipe: TrainRecipe) -> Job:
    """Make the method that a recipe names, on the CPU, and find its training samples.

    Raises:
        BadInput: The features are missing or do not fit the recipe, or its losses.
    """
    if not recipe.data.path:
        raise BadValue("data.path", "", "name the folder that `visage prepare` wrote.")
    folder = Path(recipe.data.path)
    prepared = Prepared(folder)
    train, others = training_samples(prepared, recipe)
    check_company(recipe, len({prepared.people[i] for i in (*train, *others)}))
    method = make_method(recipe, prepared)
    batches = make_batches(prepared, train, recipe, others)
    clips = getattr(getattr(method, "objective", None), "captions", {})
    if clips:
        _tell_captions(batches, clips, method, prepared)
    return Job(method, batches, prepared)


def make_method(recipe: TrainRecipe, prepared: Prepared) -> Method:
    """Make a method, untrained.

    Raises:
        BadInput: There is no such method, or it does not fit the features.
    """
    return _make(recipe, prepared.features, prepared.folder)


def load_export(folder: Path) -> Method:
    """Make the method that an export was saved from, on the CPU, in evaluation.

    Nothing but the export and its base model is needed.

    Raises:
        BadWeights: The folder is no export, or a file of it is missing, altered or a pickle; or
            the base model is not what it was.
        BadInput: The export is of a method, or has settings, that this version does not know.
    """
    export = read_export(folder)
    method = _make(export.recipe, export.features, folder)
    method.load(folder)
    return method.eval()


def method_class(kind: str) -> type[Method]:
    """Return the class of a kind of method.

    Raises:
        BadValue: There is no such kind.
    """
    if kind not in METHODS:
        raise BadValue("method.kind", kind, f"there is no such method. {nearest(kind, METHODS)}")
    module, _, name = METHODS[kind].partition(":")
    found: type[Method] = getattr(import_module(module), name)
    return found


def _tell_captions(
    batches: Batches, clips: Mapping[str, Any], method: Method, prepared: Prepared
) -> None:
    """Put what each ``Preference`` says of the samples' captions into the batches.

    Raises:
        BadValue: No sample that is trained on has a caption.
    """
    # Only here: they bring transformers.
    from training.evaluation.fidelity import captions_of
    from training.methods.on_subject import SubjectOnBase
    from training.preference import Captions

    recipe, samples = method.recipe, batches.samples
    captions = captions_of(prepared, np.arange(len(prepared)))
    if isinstance(method, SubjectOnBase):
        # All are asked for in this one prompt; CLIP knows the class, and not the placeholder.
        captions = [recipe.method.prompt.format(recipe.method.class_word)] * len(prepared)
    mute = sum(not captions[sample] for sample in samples.tolist())
    if mute == len(samples):
        clip = next(iter(clips.values()))
        cure = (
            f"no sample of {prepared.folder} that is trained on has a caption to compare pictures "
            "with; curate with a captions.backend and prepare again, or leave this empty."
        )
        raise BadValue(f"losses.{clip.setting}", clip.reference, cure)
    if mute:
        _log.warning("%d of %d samples have no caption: of what is drawn for them CLIP says "
                     "nothing.", mute, len(samples))  # fmt: skip
    if recipe.scale.use_gpu:
        for clip in clips.values():
            # Before the first step, not in it: captions are read on another thread meanwhile.
            clip.to(torch.device("cuda", torch.cuda.current_device()))
    batches.captions = Captions(clips, captions)


def _make(recipe: TrainRecipe, features: Features, folder: Path) -> Method:
    make: Any = method_class(recipe.method.kind)
    method: Method = make(recipe, features, folder)
    return method
