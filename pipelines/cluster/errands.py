"""What is asked of a cluster: a verb's words, read and checked here before they are sent there."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import tyro

from infra.cluster import SPARE_CPUS
from infra.errors import BadValue, nearest
from serving.recipes import ServeRecipe

VERBS = ("curate", "prepare", "train", "evaluate", "release", "deploy", "loop")
_WITH_RECIPE = ("curate", "prepare", "train", "loop", "deploy")
_PATHS: dict[str, tuple[str, ...]] = {
    "curate": ("recipe.source.path", "store"),
    "prepare": ("recipe.corpus", "recipe.pairs", "out"),
    "train": ("recipe.data.path", "out"),
    "evaluate": (),
    "release": (),
    "deploy": ("recipe.store",),
    "loop": ("recipe.curate.source.path", "store"),
}
"""Settings that are places, the first one to read from: they must not depend on where we stand."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run reserves on a cluster."""

    cpus: float = 0.0
    """At least, all together."""
    gpus: float = 0.0
    at_once_cpus: float = 1.0
    """Of the largest task, which one node must have."""
    at_once_gpus: float = 0.0
    driver_cpus: float = 0.0
    """Of the program itself, where it does the work."""
    driver_gpus: float = 0.0

    def __str__(self) -> str:
        return f"CPUs: {self.cpus:g}, GPUs: {self.gpus:g}"


@dataclass(frozen=True, kw_only=True)
class Errand:
    """A verb with all that it needs."""

    words: tuple[str, ...]
    """What follows ``visage`` there."""
    recipe: str
    wanted: Wanted
    data: tuple[str, ...]
    """What is known here of what it reads."""
    store: str
    files: tuple[Path, ...] = ()
    """To be taken along."""


def errand(verb: str, words: Sequence[str]) -> Errand:
    """Read a verb's words as the verb itself will, and make its places absolute.

    Raises:
        BadInput: The verb would refuse them too.
    """
    if verb not in VERBS:
        raise BadValue("the command to submit", verb, nearest(verb, VERBS))
    subject = words[0] if words and not words[0].startswith("-") else ""
    if not subject and verb != "deploy":
        what = "a recipe" if verb in _WITH_RECIPE else "a training run"
        raise BadValue(f"visage submit {verb}", "", f"name {what} after it.")
    rest = list(words[1:] if subject else words)
    asked = _read(verb, subject, rest)
    if getattr(asked, "local", False):
        raise BadValue("--local", True, "that is this machine; leave it out, or do not submit.")
    files: tuple[Path, ...] = ()
    places: list[str] = []
    for dotted in _PATHS[verb]:
        if value := _get(asked, dotted):
            places += [f"--{dotted.removeprefix('recipe.').replace('_', '-')}", _absolute(value)]
    name = subject or "local"
    if verb not in _WITH_RECIPE:
        name, subject = Path(subject).name, _absolute(subject)
    elif Path(subject).suffix in (".yaml", ".yml"):
        files, subject = (Path(subject).resolve(),), Path(subject).name
        name = asked.recipe.name
    reads = _get(asked, _PATHS[verb][0]) if _PATHS[verb] else subject
    return Errand(
        words=(verb, *([subject] if subject else []), *rest, *places, "--json"),
        recipe=name,
        wanted=_WANTED.get(verb, _nothing)(asked),
        data=(_about(reads), *_lengths(verb, asked, reads)) if reads else (),
        store=_get(asked, _PATHS[verb][-1]) if _PATHS[verb] else str(Path(subject).parent),
        files=files,
    )


def _read(verb: str, subject: str, rest: Sequence[str]) -> Any:  # noqa: ANN401 - each verb's own
    """Parse words with the verb's own arguments."""
    from pipelines.commands.flags import parse, starting_recipe

    module = importlib.import_module(f"pipelines.commands.{verb}")
    kind: Callable[..., Any] = module.Arguments
    prog = f"visage {verb} {subject}".rstrip()
    if verb == "release":  # its --as is no field's name
        return tyro.cli(kind, args=list(rest), prog=prog)
    if verb not in _WITH_RECIPE:
        return parse(kind, kind(), list(rest), prog)  # type: ignore[arg-type]
    if verb == "curate":  # whose recipes are of two kinds
        default = module.starting(subject)
        return parse(type(default), default, list(rest), prog)
    recipe = get_type_hints(kind)["recipe"]
    base = starting_recipe(subject or "local", module.recipe, lambda name: recipe(name=name))
    return parse(kind, kind(recipe=base), list(rest), prog)  # type: ignore[arg-type]


def _get(asked: Any, dotted: str) -> str:  # noqa: ANN401
    for name in dotted.split("."):
        asked = getattr(asked, name, "")
    return str(asked)


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().resolve())


def _about(place: str) -> str:
    """Say what is seen of a place from here."""
    if "://" in place:
        return place
    path = Path(place).expanduser().resolve()
    if not path.exists():
        return f"{path}, not on this machine: every node must have it"
    if path.is_file():
        return f"{path}, {path.stat().st_size / 2**20:,.1f} MiB; every node must see it"
    return f"{path}, a folder; every node must see it"


def _lengths(verb: str, asked: Any, reads: str) -> tuple[str, ...]:  # noqa: ANN401
    """Say how long sequences are and what memory they need, of videos that are seen from here."""
    if verb != "train" or "://" in reads or not (Path(reads) / "features.json").is_file():
        return ()
    from training.features import Prepared
    from training.video.plan import plan_video

    prepared = Prepared(Path(reads))
    plan = plan_video(asked.recipe, prepared) if prepared.features.frames else None
    return (plan.told(),) if plan else ()


def _curate(asked: Any) -> Wanted:  # noqa: ANN401
    hands = asked.recipe.workers
    lookers = hands.lookers or 1
    return Wanted(
        cpus=max(1.0, lookers * hands.cpus_per_looker),
        gpus=lookers * hands.gpus_per_looker,
        at_once_cpus=max(1.0, hands.cpus_per_looker),
        at_once_gpus=hands.gpus_per_looker,
    )


def _prepare(asked: Any) -> Wanted:  # noqa: ANN401
    return Wanted(cpus=1, gpus=asked.gpus_per_task, at_once_gpus=asked.gpus_per_task)


def _train(asked: Any) -> Wanted:  # noqa: ANN401
    scale = getattr(asked.recipe, "train", asked.recipe).scale
    gpu = 1.0 if scale.use_gpu else 0.0
    if scale.workers == 1 and not scale.zero_stage:
        return Wanted(cpus=1, gpus=gpu, at_once_gpus=gpu, driver_cpus=1, driver_gpus=gpu)
    each = 1 if scale.use_gpu else max(scale.threads, 1)
    spare = 0 if scale.use_gpu else SPARE_CPUS
    return Wanted(
        cpus=scale.workers * each + spare,
        gpus=scale.workers * gpu,
        at_once_cpus=each,
        at_once_gpus=gpu,
    )


def _loop(asked: Any) -> Wanted:  # noqa: ANN401
    training = _train(asked)
    # The other steps need every CPU; while the driver holds a GPU, features need another.
    gpus = training.gpus + (1.0 if training.driver_gpus else 0.0)
    wanted = replace(training, driver_cpus=0.0, gpus=gpus)
    if not asked.recipe.deploy.serve:
        return wanted
    # By then the training has given back what it had.
    served = _serving(asked.recipe.deploy.recipe, draws=True)
    most = {f.name: max(getattr(wanted, f.name), getattr(served, f.name)) for f in fields(Wanted)}
    return Wanted(**most)


def _driver(_: Any) -> Wanted:  # noqa: ANN401
    return Wanted(cpus=1, driver_cpus=1)


def _deploy(asked: Any) -> Wanted:  # noqa: ANN401
    return _serving(asked.recipe, draws=bool(asked.recipe.model))


def _serving(recipe: ServeRecipe, *, draws: bool) -> Wanted:
    replicas = recipe.replicas
    drawers = replicas.images_min if draws else 0
    return Wanted(
        cpus=replicas.gateway_min * replicas.cpus_per_gateway + drawers * replicas.cpus_per_images,
        gpus=drawers * replicas.gpus_per_images,
        at_once_cpus=max(replicas.cpus_per_gateway, replicas.cpus_per_images if drawers else 0),
        at_once_gpus=replicas.gpus_per_images if drawers else 0,
    )


def _nothing(_: Any) -> Wanted:  # noqa: ANN401
    return Wanted()


_WANTED: dict[str, Callable[[Any], Wanted]] = {
    "curate": _curate, "prepare": _prepare, "train": _train, "evaluate": _driver,
    "deploy": _deploy, "loop": _loop,
}  # fmt: skip
