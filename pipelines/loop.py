"""From pictures to a released model as one run: curate, prepare, train, evaluate, release.

A loop is a folder of its store with ``recipe.yaml``, ``loop.json`` and ``report.html``; the runs of
its steps lie beside it and are those of the single commands. A step is not done again while what
decides it is the same: its settings, and what came out of the steps before.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.configuration import digest, to_dict, to_yaml
from infra.errors import BadValue, VisageError
from infra.storage import Folder, open_store
from pipelines.job import code_version, locked, utc_now
from pipelines.loop_recipes import LoopRecipe
from pipelines.loop_report import write_report

STEPS = ("curate", "prepare", "train", "evaluate", "release")
RECORD = "loop.json"


class StepFailed(VisageError):
    """A step of a loop ended too early; those before it are done and stay done."""

    def __init__(self, step: str, why: str, command: str, exit_code: int = 1) -> None:
        self.step, self.why, self.command = step, why, command
        self.exit_code = exit_code
        super().__init__(step, why, command, exit_code)

    def __str__(self) -> str:
        return f"The step {self.step!r} ended: {self.why}\nMend that, then go on: {self.command}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, as ``loop.json`` has it."""

    fingerprint: str
    seconds: float
    finished_at: str
    result: dict[str, Any]
    """What the single command prints with ``--json``, or the part of it that a person reads."""
    reused: bool = False
    """Whether this call found it done."""


@dataclass(frozen=True, kw_only=True)
class Looped:
    """How a loop ended; ``--json`` prints it."""

    run: str
    path: str
    seconds: float
    steps: dict[str, Step]
    deploy: str
    """The command that serves the model."""


@dataclass
class _Loop:
    """A loop at work."""

    recipe: LoopRecipe
    folder: Folder
    command: str
    console: Console
    steps: dict[str, Step] = field(default_factory=dict)

    def do(
        self,
        step: str,
        settings: object,
        inputs: Mapping[str, str],
        work: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:
        """Do a step, or find it done; return what came of it.

        Args:
            step: Its name.
            settings: All of the recipe that decides it.
            inputs: What came out of the steps before.
            work: Does it. The result's ``path``, if any, is looked for when it is found done.
        """
        fingerprint = digest(step, settings, inputs, version("visage"))
        found = self._before(step)
        if found and found.fingerprint == fingerprint and _exists(found.result):
            self.console.print(f"{step}: done at {found.finished_at}, not done again", markup=False)
            self.steps[step] = replace(found, reused=True)
            return found.result
        self.console.rule(step, style="dim")
        began = time.monotonic()
        try:
            result = work()
        except VisageError as error:
            self.record("failed", step, str(error))
            raise StepFailed(step, str(error), self.command, error.exit_code) from error
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            self.record("stopped" if stopped else "failed", step, repr(error))
            raise
        self.steps[step] = Step(
            fingerprint=fingerprint, seconds=round(time.monotonic() - began, 1),
            finished_at=utc_now(), result=result,
        )  # fmt: skip
        self.record("done" if step == STEPS[-1] else "running", step)
        return result

    def record(self, state: str, step: str, error: str = "") -> None:
        """Write down where the loop is, whole, after every step."""
        about = {
            "run": self.folder.name, "recipe": self.recipe.name, "state": state, "step": step,
            "error": error, "code": code_version(), "at": utc_now(), "next": self.command,
            "done": list(self.steps),
            "steps": self._held() | {name: asdict(done) for name, done in self.steps.items()},
        }  # fmt: skip
        self.folder.write_json(RECORD, about)

    def _held(self) -> dict[str, Any]:
        """Return the steps that earlier calls did."""
        return dict((self.folder.read_json(RECORD) or {}).get("steps", {}))

    def _before(self, step: str) -> Step | None:
        held = self._held()
        return Step(**held[step]) if step in held else None


def _exists(result: Mapping[str, Any]) -> bool:
    return Path(result["path"]).exists() if "path" in result else True


def loop(recipe: LoopRecipe, store: str, console: Console, address: str = "") -> Looped:
    """Carry out all steps of ``recipe``; do only what is not done.

    Args:
        recipe: Everything that decides the result.
        store: Local folder for this run and those of its steps.
        console: Where progress is shown.
        address: A Ray cluster; empty: RAY_ADDRESS, or embedded ones.

    Raises:
        StepFailed: A step ended with an error; it says which, and what goes on.
        BadInput: The source cannot be read, or the store cannot be written.
    """
    from pipelines.curate import curate, plan

    began = time.monotonic()
    listing, _ = plan(recipe.curate)  # refuses a bad source before anything heavy is imported
    from pipelines.evaluate import evaluate
    from pipelines.prepare import prepare
    from pipelines.release import CHAMPION, release
    from pipelines.train import train

    home = open_store(store)
    if not home.is_local:
        raise BadValue("store", store, "features and checkpoints need a local folder.")
    curation = {k: v for k, v in to_dict(recipe.curate).items() if k != "workers"}
    # Of a name and a source: with another setting it goes on at the first step that this decides.
    folder = (home / f"{recipe.name}-loop-{listing.digest[:8]}").make()
    again = f"visage loop {folder.path}/recipe.yaml --store {home.path}"
    with locked(folder):
        folder.write("recipe.yaml", to_yaml(recipe))
        work = _Loop(recipe, folder, again, console)
        console.print(f"run {folder.name}, {len(STEPS)} steps: {', '.join(STEPS)}", markup=False)
        corpus = work.do(
            "curate", curation, {"source": listing.digest},
            lambda: asdict(curate(recipe.curate, home.path, console, address)),
        )  # fmt: skip
        asked = replace(recipe.prepare, corpus=corpus["path"])
        features = f"{home.path}/{asked.name}-features-{digest(to_dict(asked))[:8]}"
        gpus = 1.0 if recipe.train.scale.use_gpu else 0.0
        prepared = work.do(
            "prepare", recipe.prepare, {"corpus": corpus["path"]},
            lambda: asdict(prepare(asked, features, console, address, gpus)),
        )  # fmt: skip
        data = replace(recipe.train.data, path=prepared["path"])
        training = replace(recipe.train, data=data)

        def train_to_the_end() -> dict[str, Any]:
            done = train(training, home.path, console, address)
            if done.step < training.steps:  # it was told to stop, after a checkpoint
                raise KeyboardInterrupt
            return asdict(done)

        inputs = {"features": prepared["path"]}
        trained = work.do("train", recipe.train, inputs, train_to_the_end)

        def scored() -> dict[str, Any]:
            done = evaluate(trained["path"], console, recipe.evaluate)
            told = {name: done.about[name] for name in ("scores", "people", "absent")}
            return {"path": str(done.folder)} | told

        scores = work.do("evaluate", recipe.evaluate, {"export": trained["export"]}, scored)
        name, metric = recipe.release.model or recipe.name, recipe.release.metric
        which = recipe.evaluate.checkpoint
        work.do(
            "release", recipe.release, {"evaluation": scores["path"]},
            lambda: asdict(
                release(trained["path"], name, console, metric=metric, checkpoint=which)
            ),
        )  # fmt: skip
        work.record("done", STEPS[-1])
        deploy = f"visage deploy --model {name}@{CHAMPION} --store {home.path} --local"
        seconds = round(time.monotonic() - began, 1)
        looped = Looped(
            run=folder.name, path=folder.path, seconds=seconds, steps=work.steps, deploy=deploy
        )
        write_report(looped, to_yaml(recipe))
    return looped
