"""Release a trained model: into MLflow's registry with its lineage, and to champion if it is best.

A version is an export, known by the SHA-256 of its files: the same export again is the same
version. Its tags say what it is from and how good it is; serving checks the files against them.
The first release of an export also puts scores and licences into its card; see ``complete_card``.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from infra.configuration import digest, from_yaml, to_dict
from infra.errors import BadValue, UnreadableSource, nearest
from infra.registry import Registry
from infra.released import ModelVersion, manifest
from infra.storage import open_folder
from pipelines.evaluation.subject import chosen
from pipelines.job import code_version
from training.build import load_export
from training.card import card
from training.exports import complete_card, drawn_digest, read_export
from training.settings import TrainRecipe

CHAMPION = "champion"
SCORE_TAG = "visage.score."
DRAWING_TAG = "visage.drawing"
RANKING = (
    "auc", "facesim", "facesim_p10", "facesim_frames_p10", "facesim_published",
    "facesim_published_p10", "same_person_share", "face_share", "loss_gain", "clip_t", "clip_i",
    "dino", "diversity",
)  # fmt: skip
"""Scores of which more is better."""
COMPARED = {
    "visage.people": "held-out people",
    "visage.corpus": "corpus",
    "visage.encoder": "identity encoder",
}
"""What must be equal before two scores say which model is better."""


@dataclass(frozen=True)
class Decision:
    """Whether the alias moves."""

    moves: bool
    why: str
    forced: bool = False
    """Moved although the scores do not say so."""


@dataclass(frozen=True)
class Released:
    """How a release ended; ``--json`` prints it."""

    model: str
    """``NAME/version``."""
    is_new: bool
    champion: str
    """The version that the alias points to now."""
    moved: bool
    why: str
    forced: bool
    metric: str
    score: float
    export: str
    registry: str


def release(
    run: str,
    name: str,
    console: Console,
    *,
    metric: str = "auc",
    checkpoint: str = "latest",
    force: bool = False,
) -> Released:
    """Register a checkpoint's export as a version of a model; move ``champion`` if it is better.

    Args:
        run: The folder of a training run.
        name: The model's name in the registry.
        console: Where it is told what was decided, and why.
        metric: A score of which more is better.
        checkpoint: ``latest``, ``best``, or a checkpoint's name.
        force: Move the alias whatever the scores say; the version's tags keep that.

    Raises:
        UnreadableSource: The folder is no training run, or the checkpoint was not evaluated.
        BadValue: There is no such score, or the name cannot be one.
        BadWeights: The export cannot be loaded, or holds a pickle.
        UnreachableRegistry: MLflow cannot be used.
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").exists():
        raise UnreadableSource(run, "it has no recipe.yaml", "Name a run of `visage train`.")
    step = chosen(folder, checkpoint)
    export = step / "export"
    about = scores_of(folder, step)
    if metric not in RANKING or metric not in about["scores"]:
        known = [score for score in RANKING if score in about["scores"]]
        cure = f"give a score of which more is better. {nearest(metric, known)}"
        raise BadValue("metric", metric, cure)
    load_export(export)
    tags, description = lineage(folder, step, about)
    registry = Registry(open_folder(str(folder.resolve().parent)))
    versions, files = registry.versions(name), manifest(export)
    before = {version.version for version in versions}
    # Scores that were recorded of an export together with its card are of no other card.
    if about["export"] == drawn_digest(files) and all(files != each.files for each in versions):
        complete_card(export, description)
    version = registry.register(
        name, export, tags, description=description, run=folder.resolve().name
    )
    present = registry.alias(name, CHAMPION)
    decision = decide(version, present, metric, force=force)
    if decision.moves:
        words = {"visage.decision": decision.why}
        words |= {"visage.forced": decision.why} if decision.forced else {}
        registry.move(name, CHAMPION, version.version, words)
    champion = version if decision.moves or present is None else present
    result = Released(
        model=version.reference,
        is_new=version.version not in before,
        champion=champion.reference,
        moved=decision.moves,
        why=decision.why,
        forced=decision.forced,
        metric=metric,
        score=about["scores"][metric]["value"],
        export=str(export),
        registry=registry.uri,
    )
    _tell(result, version, console)
    return result


def scores_of(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Return what the newest evaluation of a checkpoint's export says.

    Raises:
        UnreadableSource: It was not evaluated as it is now.
    """
    files = manifest(checkpoint / "export")
    export = drawn_digest(files), digest(files)  # the latter as evaluations had it before
    found = [run / "scores.json", *run.glob(f"evaluations/{checkpoint.name}-*/scores.json")]
    found = sorted((p for p in found if p.exists()), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in found:
        about: dict[str, Any] = json.loads(path.read_text())
        if about.get("export") in export:
            return about
    why = f"its {checkpoint.name} was not evaluated, or was changed since"
    cure = f"Run `visage evaluate {run} --checkpoint {checkpoint.name}` first."
    raise UnreadableSource(str(run), why, cure)


def lineage(run: Path, checkpoint: Path, about: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Return the tags of a version, and its model card with scores and licences."""
    export = read_export(checkpoint / "export")
    recipe = from_yaml(run / "recipe.yaml", TrainRecipe(name="unnamed"))
    record = run / "run.json"
    trained: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    features = export.features
    rights = features.licences or licences(Path(recipe.data.path), features.corpus)
    scores = about["scores"]
    tags = {
        "visage.run": run.resolve().name,
        "visage.checkpoint": checkpoint.name,
        "visage.recipe": recipe.name,
        "visage.recipe_digest": digest(to_dict(recipe)),
        "visage.method": recipe.method.kind,
        "visage.base": f"{recipe.base.weights} {export.base}".strip(),
        "visage.corpus": features.corpus,
        "visage.licences": json.dumps(rights) if rights else "not stated",
        "visage.encoder": about["encoder"],
        "visage.people": about["people_digest"],
        "visage.evaluation": about["evaluation"],
        DRAWING_TAG: f"guidance {about['guidance']:g}, {about['steps']} steps",
        "visage.code": str(trained.get("code", "not stated")),
        "visage.released_by": code_version(),
        **{f"{SCORE_TAG}{name}": json.dumps(score) for name, score in scores.items()},
    }
    said = {name: _said(score) for name, score in scores.items()}
    return tags, card(recipe, features, licences=rights, scores=said)


def licences(features: Path, corpus: str) -> dict[str, int]:
    """Count the licences of the pictures behind features; nothing where they cannot be seen.

    Args:
        features: The folder that ``visage prepare`` wrote.
        corpus: Digest of the corpus that is meant.
    """
    marker = features / "prepare.json"
    about: dict[str, Any] = json.loads(marker.read_text()) if marker.exists() else {}
    if about.get("corpus") != corpus:
        return {}
    home = Path(about["recipe"]["corpus"]).expanduser()
    counted: Counter[str] = Counter()
    for folder in (home / "export/parquet", home / "parquet", home):
        for path in sorted(folder.glob("part-*.parquet")):
            counted.update(pq.read_table(path, columns=["license"])["license"].to_pylist())
        if counted:
            break
    return {name or "not stated": count for name, count in sorted(counted.items())}


def decide(
    new: ModelVersion, present: ModelVersion | None, metric: str, *, force: bool = False
) -> Decision:
    """Say whether a version becomes champion: only when its score is greater, on the same people.

    Args:
        new: The version in question.
        present: Today's champion.
        metric: The score that decides.
        force: Move in any case.
    """
    if present is None:
        return Decision(True, "there was no champion")
    if present.version == new.version:
        return Decision(False, "it is the champion already")
    other = [words for tag, words in COMPARED.items() if new.tags.get(tag) != present.tags.get(tag)]
    mine, theirs = _score(new, metric), _score(present, metric)
    if other or mine is None or theirs is None:
        what = f"other {', '.join(other)}" if other else f"no {metric}"
        why = f"not comparable with {present.reference}, which has {what}"
    else:
        better = mine["value"] > theirs["value"]
        why = (
            f"{metric} {_said(mine)} {'beats' if better else 'does not beat'} {_said(theirs)} of "
            f"{present.reference}"
        )
        drawn = new.tags.get(DRAWING_TAG), present.tags.get(DRAWING_TAG)
        why += f", drawn with {drawn[0]} against {drawn[1]}" if drawn[0] != drawn[1] else ""
        if better:
            return Decision(True, why)
    return Decision(True, f"forced, though {why}", forced=True) if force else Decision(False, why)


def _score(version: ModelVersion, metric: str) -> dict[str, float] | None:
    held = version.tags.get(f"{SCORE_TAG}{metric}")
    return dict(json.loads(held)) if held else None


def _said(score: Mapping[str, float]) -> str:
    """Write a score with its interval."""
    return f"{score['value']:.4g} ({score['low']:.4g} to {score['high']:.4g})"


def _tell(result: Released, version: ModelVersion, console: Console) -> None:
    """Say what was decided, and what comes next."""
    name = version.name
    new = "a new version" if result.is_new else "released before, the same files"
    if result.moved:
        alias = f"{name}@{CHAMPION} is {result.model} now: {result.why}"
    else:
        alias = f"{name}@{CHAMPION} stays {result.champion}: {result.why}"
        if result.why.startswith("not comparable"):
            alias += (
                f". Evaluate both on the same people, or move it with --force; "
                f"`{result.model}` can be deployed by that name as it is"
            )
    store = Path(result.export).resolve().parents[2]
    console.print(
        f"model     {result.model} ({new}, files: {len(version.files)})\n"
        f"from      {result.export}\n"
        f"champion  {alias}\n"
        f"registry  {result.registry}\n\n"
        f"Next: visage deploy --model {name}@{CHAMPION} --store {store} --local",
        markup=False, soft_wrap=True,
    )  # fmt: skip
