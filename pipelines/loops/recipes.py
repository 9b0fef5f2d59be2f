"""Whole loops that we stand behind: a curation, features, a training, scores, a model, an endpoint.

Each is made of recipes that exist; ``--train.steps 500`` changes one setting of one step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from infra.configuration import named
from infra.errors import BadValue
from pipelines import recipes as curations
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.features import recipes as prepare_recipes
from pipelines.features.recipes import PrepareRecipe
from pipelines.recipes import Recipe
from serving.recipes import ImageSettings, ServeRecipe, local
from stages.people.settings import PairSettings
from training import recipes as trainings
from training.settings import OptimiserSettings, Scale, TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class PairingSettings:
    """Whether and how photos of one person are brought together."""

    make: bool = False
    """Write pairs, triplets and groups, and train on the pairs: a photograph is drawn from the face
    on one that it is paired with, and people are the identities that curation found."""
    recipe: Annotated[PairSettings, tyro.conf.arg(name="")] = field(default_factory=PairSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseSettings:
    """What becomes of the trained model."""

    model: str = ""
    """Its name in the registry; empty: the loop's."""
    metric: str = "auc"
    """The score that decides whether it becomes champion; more is better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeploySettings:
    """Whether and how the released model is served."""

    serve: bool = False
    """Serve it: on the Ray cluster, or where there is none on this machine until Ctrl-C."""
    recipe: Annotated[ServeRecipe, tyro.conf.arg(name="")] = field(default_factory=local)

    def __post_init__(self) -> None:
        if self.recipe.model:
            cure = "leave it out: what is released is served."
            raise BadValue("deploy.model", self.recipe.model, cure)
        if self.recipe.store != local().store:
            raise BadValue("deploy.store", self.recipe.store, "leave it out: it is the loop's.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRecipe:
    """All that decides a loop, from pictures to a released model or an endpoint."""

    name: str
    curate: Recipe = field(default_factory=curations.photos)
    pairs: PairingSettings = field(default_factory=PairingSettings)
    prepare: PrepareRecipe = field(default_factory=prepare_recipes.lfw64)
    train: TrainRecipe = field(default_factory=trainings.lfw64)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)
    deploy: DeploySettings = field(default_factory=DeploySettings)

    def __post_init__(self) -> None:
        if self.prepare.corpus:
            raise BadValue("prepare.corpus", self.prepare.corpus, "leave it out: it is curated.")
        if self.prepare.pairs:
            raise BadValue("prepare.pairs", self.prepare.pairs, "give --pairs.make instead.")
        if self.pairs.make and self.prepare.people in ("self", "embedding"):
            cure = "pairs are of the identities that curation found: leave it out."
            raise BadValue("prepare.people", self.prepare.people, cure)
        if self.train.data.path:
            raise BadValue("train.data.path", self.train.data.path, "leave it out: it is prepared.")
        measured, served = self.curate.faces.backend, self.deploy.recipe.faces.backend
        if self.deploy.serve and served != measured:
            cure = f"the model will know faces as {measured} measures them; give that."
            raise BadValue("deploy.faces.backend", served, cure)


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


def quickstart() -> LoopRecipe:
    """What `visage quickstart` does: learn the sample photographs by heart, and serve that.

    Eight people, two of them held out: enough to see every step at work, not to judge a model.
    """
    base = tiny()
    return replace(
        base,
        name="quickstart",
        curate=curations.quickstart(),
        train=replace(
            base.train,
            data=replace(base.train.data, heldout_share=0.35),
            drop=replace(base.train.drop, identity=0.0),
            optimiser=OptimiserSettings(
                learning_rate=3e-3, warmup_steps=20, schedule="linear", ema_decay=0.98
            ),
            # Steps this small gain little from a second thread, and lose much where CPUs are busy.
            scale=Scale(threads=1),
            steps=400,
            batch=8,
            microbatch=8,
            save_every=200,
            log_every=50,
        ),
        evaluate=EvaluateSettings(people=8, seeds=2, steps=20, guidance=1.0),
        # Two faces may both go unseen, and then there is no AUC; there always is a loss.
        release=ReleaseSettings(metric="loss_gain"),
        deploy=DeploySettings(
            serve=True, recipe=replace(local(), images=ImageSettings(guidance=1.0, steps=20))
        ),
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
    make.__name__: make for make in (quickstart, tiny, lfw64, faceid_sd15)
}


def recipe(name: str) -> LoopRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
