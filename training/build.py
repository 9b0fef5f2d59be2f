"""From a recipe and prepared features to what the loop needs; from an export to what draws."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from infra.errors import BadValue, nearest
from training.data import Batches
from training.exports import read_export
from training.features import Features, Prepared
from training.method import Method
from training.preferences import make_batches
from training.settings import TrainRecipe
from training.subject import training_samples

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
        BadInput: The features are missing or do not fit the recipe.
    """
    if not recipe.data.path:
        raise BadValue("data.path", "", "name the folder that `visage prepare` wrote.")
    folder = Path(recipe.data.path)
    prepared = Prepared(folder)
    train, others = training_samples(prepared, recipe)
    method = make_method(recipe, prepared)
    return Job(method, make_batches(prepared, train, recipe, others), prepared)


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


def _make(recipe: TrainRecipe, features: Features, folder: Path) -> Method:
    make: Any = method_class(recipe.method.kind)
    method: Method = make(recipe, features, folder)
    return method
