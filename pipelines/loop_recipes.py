"""Whole loops that we stand behind: a curation, features, a training, scores, a released model.

Each is made of recipes that exist; ``--train.steps 500`` changes one setting of one step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from infra.configuration import named
from infra.errors import BadValue
from pipelines import prepare_recipes
from pipelines import recipes as curations
from pipelines.evaluate_settings import EvaluateSettings
from pipelines.prepare_recipes import PrepareRecipe
from pipelines.recipes import Recipe
from training import recipes as trainings
from training.recipes import TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseSettings:
    """What becomes of the trained model."""

    model: str = ""
    """Its name in the registry; empty: the loop's."""
    metric: str = "auc"
    """The score that decides whether it becomes champion; more is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRecipe:
    """All that decides a loop, from pictures to a released model."""

    name: str
    curate: Recipe = field(default_factory=curations.photos)
    prepare: PrepareRecipe = field(default_factory=prepare_recipes.lfw64)
    train: TrainRecipe = field(default_factory=trainings.lfw64)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)

    def __post_init__(self) -> None:
        if self.prepare.corpus:
            raise BadValue("prepare.corpus", self.prepare.corpus, "leave it out: it is curated.")
        if self.train.data.path:
            raise BadValue("train.data.path", self.train.data.path, "leave it out: it is prepared.")


def lfw64() -> LoopRecipe:
    """From Labeled Faces in the Wild to a generator of 64 px faces, on a CPU."""
    return LoopRecipe(name="lfw64", curate=curations.lfw())


def tiny() -> LoopRecipe:
    """As `lfw64`, with a small network and few steps: minutes, and faces one can only guess."""
    base = lfw64()
    return replace(
        base,
        name="tiny",
        train=replace(
            base.train,
            method=replace(base.train.method, width=32),
            data=replace(base.train.data, heldout_share=0.3),
            steps=60,
            batch=16,
            microbatch=16,
            save_every=30,
            log_every=10,
        ),
        evaluate=EvaluateSettings(people=20, seeds=2, steps=8),
    )


def faceid_sd15() -> LoopRecipe:
    """From a URL table to IP-Adapter-FaceID on Stable Diffusion 1.5; give your weights as file:."""
    return LoopRecipe(
        name="faceid_sd15",
        curate=curations.faceid_6m(),
        prepare=prepare_recipes.sd15(),
        train=trainings.ip_adapter_faceid_sd15(),
    )


RECIPES: dict[str, Callable[[], LoopRecipe]] = {
    make.__name__: make for make in (tiny, lfw64, faceid_sd15)
}


def recipe(name: str) -> LoopRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
