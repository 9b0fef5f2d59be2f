"""From a recipe and prepared features to what the loop needs."""

from dataclasses import dataclass
from pathlib import Path

from infra.errors import BadValue
from training.data import Batches
from training.features import Prepared
from training.method import Method
from training.recipes import TrainRecipe


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
    train, _ = prepared.split(recipe.data.heldout_share)
    return Job(make_method(recipe, prepared), Batches(prepared, train, recipe), prepared)


def make_method(recipe: TrainRecipe, prepared: Prepared) -> Method:
    """Make a method; each is imported only when it is asked for."""
    if recipe.method.kind == "base":
        from training.methods.base import BaseGenerator

        return BaseGenerator.make(recipe, prepared.features, prepared.folder)
    from training.methods.ip_adapter_faceid import IPAdapterFaceID

    return IPAdapterFaceID.make(recipe, prepared.features)
