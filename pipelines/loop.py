"""From pictures to an endpoint as one run; ``STEPS`` is its table of contents.

A loop is a folder of its store with ``recipe.yaml``, ``loop.json`` and ``report.html``; the runs of
its steps lie beside it and are those of the single commands. A step is not done again while what
decides it is the same: its settings, and what came out of the steps before.
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from typing import Any

from rich.console import Console

from infra.configuration import digest, flat, to_dict, to_yaml
from infra.errors import BadValue
from infra.storage import open_store
from pipelines.job import locked
from pipelines.loops.recipes import LoopRecipe
from pipelines.loops.record import Looping, Step, StepFailed
from pipelines.loops.report import write_report
from serving.recipes import ServeRecipe, local

__all__ = ["STEPS", "Looped", "StepFailed", "loop"]


@dataclass(frozen=True, kw_only=True)
class Looped:
    """How a loop ended; ``--json`` prints it."""

    run: str
    path: str
    report: str
    seconds: float
    steps: dict[str, Step]
    deploy: str
    """The command that serves the model on this machine."""
    url: str = ""
    """Where it is served now; empty: nowhere."""
    is_local: bool = False
    """Whether it is served by this process, as long as that lasts."""


@contextmanager
def loop(
    recipe: LoopRecipe, store: str, console: Console, address: str = "", again: str = ""
) -> Iterator[Looped]:
    """Carry out all steps of ``recipe``; do only what is not done.

    What is deployed on this machine is served as long as the ``with`` lasts; a cluster goes on
    serving.

    Args:
        recipe: Everything that decides the result.
        store: Local folder for this run and those of its steps.
        console: Where progress is shown.
        address: A Ray cluster; empty: RAY_ADDRESS, or embedded ones.
        again: The command that goes on with it; empty: ``visage loop``.

    Raises:
        StepFailed: A step ended with an error; it says which, and what goes on.
        BadInput: The source cannot be read, or the store cannot be written.
    """
    from pipelines.curate import plan

    began = time.monotonic()
    listing, _ = plan(recipe.curate)  # refuses a bad source before anything heavy is imported
    home = open_store(store)
    if not home.is_local:
        raise BadValue("store", store, "features and checkpoints need a local folder.")
    # Of a name and a source: with another setting it goes on at the first step that this decides.
    folder = (home / f"{recipe.name}-loop-{listing.digest[:8]}").make()
    asked = {"pairs": recipe.pairs.make, "deploy": recipe.deploy.serve}
    planned = tuple(step for step in STEPS if asked.get(step, True))
    with ExitStack() as stack:
        with locked(folder):
            folder.write("recipe.yaml", to_yaml(recipe))
            work = Looping(
                recipe=recipe, home=home, folder=folder, source=listing.digest, planned=planned,
                command=again or f"visage loop {folder.path}/recipe.yaml --store {home.path}",
                console=console, address=address, stack=stack,
            )  # fmt: skip
            told = f"run {folder.name}, {len(planned)} steps: {', '.join(planned)}"
            console.print(told, markup=False, soft_wrap=True)
            for step in planned:
                STEPS[step](work)
            work.record("done", planned[-1])
            served = work.steps["deploy"].result if "deploy" in work.steps else {}
            looped = Looped(
                run=folder.name, path=folder.path, report=f"{folder.path}/report.html",
                seconds=round(time.monotonic() - began, 1), steps=work.steps,
                deploy=_command(_deployment(work)), url=served.get("url", ""),
                is_local=served.get("is_local", False),
            )  # fmt: skip
            write_report(looped, to_yaml(recipe))
        yield looped


def _curate(work: Looping) -> None:
    recipe = work.recipe.curate

    def curated() -> dict[str, Any]:
        from pipelines.curate import curate

        return asdict(curate(recipe, work.home.path, work.console, work.address))

    settings = {key: value for key, value in to_dict(recipe).items() if key != "workers"}
    work.do("curate", settings, {"source": work.source}, curated)


def _pairs(work: Looping) -> None:
    settings, corpus = work.recipe.pairs.recipe, work.of("curate", "path")
    out = f"{work.home.path}/{work.recipe.name}-pairs-{digest(to_dict(settings), corpus)[:8]}"

    def paired() -> dict[str, Any]:
        from pipelines.pairs import pairs

        return asdict(pairs(corpus, out, settings, work.console))

    work.do("pairs", settings, {"corpus": corpus}, paired)


def _prepare(work: Looping) -> None:
    asked = replace(work.recipe.prepare, corpus=work.of("curate", "path"))
    inputs = {"corpus": asked.corpus}
    if "pairs" in work.steps:
        asked = replace(asked, people="identity", pairs=work.of("pairs", "path"))
        inputs["pairs"] = asked.pairs
    features = f"{work.home.path}/{asked.name}-features-{digest(to_dict(asked))[:8]}"

    def prepared() -> dict[str, Any]:
        from pipelines.prepare import prepare

        gpus = 1.0 if work.recipe.train.scale.use_gpu else 0.0
        return asdict(prepare(asked, features, work.console, work.address, gpus))

    work.do("prepare", work.recipe.prepare, inputs, prepared)


def _train(work: Looping) -> None:
    features = work.of("prepare", "path")
    recipe = work.recipe.train

    def trained() -> dict[str, Any]:
        from pipelines.train import train

        asked = replace(recipe, data=replace(recipe.data, path=features))
        done = train(asked, work.home.path, work.console, work.address)
        if done.step < recipe.steps:  # it was told to stop, after a checkpoint
            raise KeyboardInterrupt
        return asdict(done)

    work.do("train", recipe, {"features": features}, trained)


def _evaluate(work: Looping) -> None:
    def scored() -> dict[str, Any]:
        from pipelines.evaluate import evaluate

        done = evaluate(work.of("train", "path"), work.console, work.recipe.evaluate)
        told = {name: done.about[name] for name in ("scores", "people", "absent")}
        return {"path": str(done.folder)} | told

    work.do("evaluate", work.recipe.evaluate, {"export": work.of("train", "export")}, scored)


def _release(work: Looping) -> None:
    recipe = work.recipe

    def released() -> dict[str, Any]:
        from pipelines.release import release

        return asdict(
            release(
                work.of("train", "path"), _model(recipe), work.console,
                metric=recipe.release.metric, checkpoint=recipe.evaluate.checkpoint,
            )
        )  # fmt: skip

    work.do("release", recipe.release, {"evaluation": work.of("evaluate", "path")}, released)


def _deploy(work: Looping) -> None:
    """Serve the champion: on the cluster, or here until the loop's ``with`` ends."""
    from pipelines.deploy import plan, up
    from pipelines.endpoints import deployed

    is_local = not (work.address or os.environ.get("RAY_ADDRESS", ""))
    with work.noted("deploy"):
        made = plan(_deployment(work))
        work.stack.enter_context(_ray(work.address, made.asked if is_local else None))

        def served() -> dict[str, Any]:
            with work.console.status("loading models, warming up"):
                url = up(made)
            return {"url": url, "version": made.reference, "is_local": is_local}

        def is_up() -> bool:
            now = deployed.state()
            return now.status == "RUNNING" and now.served.get("model") == made.reference

        work.do("deploy", work.recipe.deploy, {"version": made.reference}, served, stands=is_up)


@contextmanager
def _ray(address: str, here: ServeRecipe | None) -> Iterator[None]:
    """Join a cluster, or start a Ray for what is served ``here``, which ends with it."""
    from pipelines.deploy import joined
    from pipelines.endpoints import deployed

    with ExitStack() as stack:
        stack.enter_context(joined(address, here))
        if here:
            stack.callback(deployed.shutdown)
        try:
            yield
        finally:
            # Ray tells the terminal that Serve's controller, which has just ended, is dead.
            with redirect_stdout(StringIO()):
                stack.close()


STEPS: dict[str, Callable[[Looping], None]] = {
    "curate": _curate,
    "pairs": _pairs,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "release": _release,
    "deploy": _deploy,
}
"""What a loop does, in this order; ``pairs`` and ``deploy`` only where the recipe says so."""


def _model(recipe: LoopRecipe) -> str:
    return recipe.release.model or recipe.name


def _deployment(work: Looping) -> ServeRecipe:
    """Return what is to be deployed: whatever is the best of that name by now."""
    settings = work.recipe.deploy.recipe
    return replace(settings, model=f"{_model(work.recipe)}@champion", store=work.home.path)


def _command(asked: ServeRecipe) -> str:
    """Return the command that deploys this on this machine."""
    usual = dict(flat(to_dict(local())))
    words = ["visage", "deploy", "--model", asked.model, "--store", asked.store, "--local"]
    for key, value in flat(to_dict(asked)):
        if key in ("name", "model", "store") or value == usual[key]:
            continue
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            group, dot, name = flag.removeprefix("--").rpartition(".")
            words.append(flag if value else f"--{group}{dot}no-{name}")
        else:
            words += [flag, *(map(str, value) if isinstance(value, list) else [str(value)])]
    return shlex.join(words)
