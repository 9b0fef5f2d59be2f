"""What runs there are, and how each is: read from what they left on disk, MLflow not needed.

Each kind of run has one function, which looks at a folder and returns a ``Seen`` or None. What was
submitted to a cluster is a ``Seen`` too: see ``pipelines.cluster.remote``.
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from infra.errors import UnreadableSource, nearest

DEFAULT_STORES = ("store", "features", "trained")
QUIET_S = 120.0
"""How long a run without a lock may write nothing and still count as running."""
_KINDS = {False: (5, "lfw64"), True: (8, "video_tiny")}  # jobs, and what to prepare: of videos too

Kind = Literal["curate", "prepare", "train", "evaluate", "release", "deploy", "loop"]
State = Literal["done", "waiting", "running", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run as it is now."""

    kind: Kind
    name: str
    path: str
    recipe: str
    state: State
    """stopped: not at work and not at its end; the command in ``next`` goes on with it. waiting:
    for a cluster's resources."""
    progress: str
    result: str
    """What came of it so far: rows kept, loss, score."""
    age_s: float
    """Since it last wrote anything."""
    next: str
    """The command that a person would type now."""
    detail: dict[str, Any] = field(default_factory=dict)


def find(stores: Iterable[str]) -> list[Seen]:
    """List the runs of some stores, the newest first.

    Args:
        stores: Folders that hold runs, or are one (as prepared features are).

    Raises:
        UnreadableSource: There is no such folder.
    """
    found: list[Seen] = []
    for store in stores:
        home = Path(store).expanduser()
        if not home.is_dir():
            cure = "Name the folder that was given to a command with --store or --out."
            raise UnreadableSource(store, "there is no such folder", cure)
        for folder in (home, *sorted(path for path in home.iterdir() if path.is_dir())):
            found += look(folder)
    return sorted(found, key=lambda seen: seen.age_s)


def look(folder: Path) -> list[Seen]:
    """Return what a folder is: a run, a training run with its evaluations, or nothing."""
    for kind in KINDS:
        if seen := kind(folder):
            return [seen, *_evaluated(folder)]
    return []


def named(run: str, stores: Iterable[str]) -> Seen:
    """Find one run by its path or its name.

    Raises:
        UnreadableSource: There is no such run.
    """
    folder = Path(run).expanduser()
    if folder.is_dir():
        if there := look(folder):
            return there[0]
        raise UnreadableSource(run, "it is no run", "Name a run that `visage runs` lists.")
    every = find(stores)
    for seen in every:
        if seen.name == run:
            return seen
    known = {seen.name for seen in every}
    cure = nearest(run, known) if known else "Give the right folder with --store."
    raise UnreadableSource(run, "there is no such run", cure)


def _curated(folder: Path) -> Seen | None:
    """Look at a run of ``visage curate``."""
    recipe = _recipe(folder)
    if "source" not in recipe:
        return None
    jobs = {p.parent.name: _json(p) for p in folder.glob("*/job.json")}
    ended = [name for name, job in jobs.items() if job.get("finished_at")]
    record = _json(folder / "run.json")
    state: State = "done" if record.get("finished_at") else _unfinished(folder)
    under_way = [name for name in jobs if name not in ended]
    rows, (in_all, features) = record.get("rows"), _KINDS["video" in recipe]
    progress = f"{rows:,} rows" if rows is not None else f"{len(ended)} of {in_all} jobs"
    if under_way and state != "done":
        progress += f", in {under_way[0]}"
    result = f"{record['keep']:,} kept" if "keep" in record else ""
    again = f"visage curate {folder}/recipe.yaml --store {folder.parent}"
    follow = {
        "done": f"visage prepare {features} --corpus {folder} --out features",
        "running": f"visage runs {folder} --follow",
    }
    return Seen(
        kind="curate", name=folder.name, path=str(folder), recipe=str(recipe.get("name", "")),
        state=state, progress=progress, result=result,
        age_s=_age_s([folder / "run.json", *folder.glob("*/job.json")]),
        next=follow.get(state, again),
        detail={key: record[key] for key in ("reject", "error", "seconds", "report")
                if key in record},
    )  # fmt: skip


def _prepared(folder: Path) -> Seen | None:
    """Look at a folder of ``visage prepare``."""
    about = _json(folder / "prepare.json")
    if not about:
        return None
    recipe = about.get("recipe", {})
    features = folder / "features.json"
    state: State = "done" if features.exists() else _unfinished(folder)
    shards = sorted(folder.glob("shards/shard-*.safetensors"))
    again = f"visage prepare {recipe.get('name')} --corpus {recipe.get('corpus')} --out {folder}"
    follow = {
        "done": f"visage train lfw64 --data.path {folder}",
        "running": f"visage runs {folder} --follow",
    }
    return Seen(
        kind="prepare", name=folder.name, path=str(folder), recipe=str(recipe.get("name", "")),
        state=state, progress=f"{len(shards)} shards", result="",
        age_s=_age_s([folder / "prepare.json", features, *shards]),
        next=follow.get(state, again), detail={"corpus": about.get("corpus", "")},
    )  # fmt: skip


def _trained(folder: Path) -> Seen | None:
    """Look at a run of ``visage train``."""
    recipe = _recipe(folder)
    if "steps" not in recipe or "method" not in recipe:
        return None
    reported = reports(folder)
    record, scores = _json(folder / "run.json"), _json(folder / "scores.json")
    whole = checkpoints(folder)
    total = int(recipe["steps"])
    step = max([r["step"] for r in reported[-1:]] + [int(p.name[5:]) for p in whole[-1:]] + [0])
    reached = bool(whole) and int(whole[-1].name[5:]) >= total
    state: State = "done" if reached else _unfinished(folder, _beat_s(recipe, reported))
    if state == "stopped" and record.get("error"):
        state = "failed"
    losses = reported[-1]["losses"] if reported else record
    said = [f"loss {losses['loss']:.4f}"] if "loss" in losses else []
    if auc := _value(scores, "auc"):
        said.append(f"AUC {auc:.3f}")
    scored = bool(whole) and scores.get("checkpoint") == whole[-1].name and "scores" in scores
    follow = {
        "done": f"visage release {folder} --as NAME" if scored else f"visage evaluate {folder}",
        "running": f"visage runs {folder} --follow",
    }
    return Seen(
        kind="train", name=folder.name, path=str(folder), recipe=str(recipe.get("name", "")),
        state=state, progress=f"step {step:,} of {total:,}", result=", ".join(said),
        age_s=_age_s([folder / "reports.jsonl", folder / "run.json", folder / "recipe.yaml",
                      *(path / "done.json" for path in whole)]),
        next=follow.get(state, f"visage train {folder}/recipe.yaml --out {folder.parent}"),
        detail={"checkpoints": [path.name for path in whole], "scores": scores.get("scores", {}),
                "best": _json(folder / "best.json"), "error": str(record.get("error", "")),
                "reports": reported[-5:]},
    )  # fmt: skip


def _looped(folder: Path) -> Seen | None:
    """Look at a run of ``visage loop``."""
    about = _json(folder / "loop.json")
    if not about:
        return None
    state: State = about["state"]
    if state == "running" and _unfinished(folder) != "running":
        state = "stopped"
    done = about["done"]
    planned = about.get("planned", range(5))
    model = about["steps"].get("release", {}).get("result", {}).get("model", "")
    return Seen(
        kind="loop", name=folder.name, path=str(folder), recipe=about["recipe"], state=state,
        progress=f"{len(done)} of {len(planned)} steps, {about['step']}", result=model,
        age_s=_age_s([folder / "loop.json"]),
        next=f"visage deploy --model {model.rpartition('/')[0]}@champion --store {folder.parent} "
        "--local" if state == "done" else about["next"],
        detail={"error": about["error"], "steps": done},
    )  # fmt: skip


KINDS: tuple[Callable[[Path], Seen | None], ...] = (_curated, _prepared, _trained, _looped)


def _evaluated(folder: Path) -> Iterator[Seen]:
    """Look at the evaluations of a training run."""
    for path in sorted(folder.glob("evaluations/[!.]*/scores.json")):
        about = _json(path)
        told = [f"{n} {v:.3f}" for n in ("auc", "facesim") if (v := _value(about, n)) is not None]
        yield Seen(
            kind="evaluate", name=path.parent.name, path=str(path.parent), recipe=folder.name,
            state="done", progress=f"{about.get('people', 0)} people", result=", ".join(told),
            age_s=_age_s([path]), next=f"visage release {folder} --as NAME",
            detail={"scores": about.get("scores", {}), "absent": about.get("absent", {})},
        )  # fmt: skip


def reports(folder: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a training run's ``reports.jsonl``."""
    path = folder / "reports.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # The last one may be under way, or cut short by a crash.
    return [json.loads(line) for line in lines if line.endswith("\n")]


def checkpoints(folder: Path) -> list[Path]:
    """List a training run's whole checkpoints, oldest first."""
    return sorted(done.parent for done in folder.glob("step-[0-9]*/done.json"))


def changed(folder: Path) -> dict[str, tuple[object, object]]:
    """Return the settings of a run that its recipe's function does not give: (given, usual)."""
    from infra.configuration import flat, to_dict
    from pipelines import recipes as pictures
    from pipelines.video import recipes as videos
    from training.recipes import RECIPES as TRAININGS
    from training.settings import TrainRecipe

    given = dict(flat(_recipe(folder)))
    name = str(given.get("name", ""))
    usual: Any = TRAININGS.get(name, lambda: TrainRecipe(name=name))()
    if "source.path" in given:
        usual = (pictures.RECIPES | videos.RECIPES).get(name, lambda: pictures.Recipe(name=name))()
    base = dict(flat(to_dict(usual)))
    return {k: (v, base.get(k)) for k, v in given.items() if v != base.get(k)}


def _value(about: dict[str, Any], name: str) -> float | None:
    score = about.get("scores", {}).get(name)
    return float(score["value"]) if score else None


def _unfinished(folder: Path, quiet_s: float = QUIET_S) -> State:
    """Say whether somebody is at work on a run that has not ended."""
    lock = folder / ".lock"
    if lock.exists():
        return "running" if _held(lock) else "stopped"
    wrote = _age_s(path for path in folder.glob("**/*") if path.is_file())
    return "running" if wrote < quiet_s else "stopped"


def _held(lock: Path) -> bool:
    """Whether a process holds a lock; a shared one is asked for, and given back at once."""
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def _beat_s(recipe: dict[str, Any], reported: list[dict[str, Any]]) -> float:
    """Return how long a training run may be silent: some reports' worth at its own rate."""
    rate = reported[-1]["images_per_s"] if reported else 0.0
    usual = recipe["log_every"] * recipe["batch"] / rate if rate > 0 else 0.0
    return max(QUIET_S, 3 * usual)


def _age_s(paths: Iterable[Path]) -> float:
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return max(0.0, time.time() - max(times, default=0.0))


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except yaml.YAMLError:  # somebody else's file of that name
        return {}
    return held if isinstance(held, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return held
