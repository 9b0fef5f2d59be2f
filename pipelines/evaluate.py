"""Score a training run on people it never saw, and show what it draws.

An evaluation is a folder ``<run>/evaluations/<checkpoint>-<digest>``, where the digest is of all
that decides it, so another guidance or other people overwrite nothing and the same again is found.
The newest is also copied beside the run: ``scores.json`` and ``contact.png``.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from infra.cluster import usable_cpus
from infra.errors import BadValue
from infra.released import manifest
from infra.storage import open_store
from infra.tracking import Tracker, dataset_of, spool_file
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.evaluation.subject import Subject, weights_asked
from pipelines.evaluation.tables import Bar, scores_table
from pipelines.evaluation.video import VIDEOS, evaluate_videos, load_eye, load_measures
from pipelines.job import code_version
from training.build import load_export
from training.evaluate import evaluate as score
from training.evaluation.drawing import Plan
from training.evaluation.findings import Evaluation
from training.evaluation.metrics import flattened
from training.evaluation.recognise import Recogniser
from training.evaluation.scorers import Kind, Scorer, load_scorer
from training.evaluation.sheets import contact_sheet
from training.exports import drawn_digest
from training.method import Method
from training.nets.references import weights_version

SCORES, SHEET, PEOPLE = "scores.json", "contact.png", "people.parquet"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on disk."""

    folder: Path
    about: dict[str, Any]
    """What ``scores.json`` says: ``scores`` by name with value, low, high and n; what is absent
    and why; and what makes it comparable (corpus, encoder, people, seeds, guidance, steps)."""

    @property
    def each(self) -> dict[str, np.ndarray]:
        """Scores per person, by name; ``person`` has the names."""
        table = pq.read_table(self.folder / PEOPLE)
        return {name: table[name].to_numpy() for name in table.column_names}


def evaluate(
    run: str,
    console: Console,
    settings: EvaluateSettings = EvaluateSettings(),  # noqa: B008 - frozen
) -> Evaluated:
    """Score a checkpoint of a run, or find that it has been scored this way.

    Raises:
        UnreadableSource: The folder is no training run, or has no such checkpoint.
        BadValue: Nobody is held out, or the encoder is another than at training.
        BadWeights: The checkpoint's weights, or an encoder's, are not what they should be.
    """
    subject = Subject.open(run, settings)
    done = _found(subject.target)
    if done is None:
        done = _score(subject, settings, console)
    else:
        console.print(f"Scored before, the same way: {subject.target}", markup=False)
    for name in (SCORES, SHEET):
        beside = subject.run / f".{name}.part"
        shutil.copyfile(done.folder / name, beside)
        beside.replace(subject.run / name)
    console.print(scores_table(done.about))
    for note in done.about["notes"]:
        console.print(note, markup=False)
    _record(done, subject, settings, console)
    return done


def _found(target: Path) -> Evaluated | None:
    path = target / SCORES
    return Evaluated(target, json.loads(path.read_text())) if path.exists() else None


def _score(subject: Subject, settings: EvaluateSettings, console: Console) -> Evaluated:
    """Carry an evaluation out, and write it, whole or not at all."""
    torch.set_num_threads(subject.recipe.scale.threads or usable_cpus())
    device = "cuda" if subject.recipe.scale.use_gpu and torch.cuda.is_available() else "cpu"
    prepared = subject.prepared
    recogniser = Recogniser(
        prepared.features, aligned=subject.aligned, pack=settings.pack, device=device
    )
    asked, measures = weights_asked(prepared, settings), None
    if subject.of_videos:
        measures = load_measures(prepared.features, settings, device)
    else:
        kinds: tuple[Kind, ...] = ("clip", "dino")
        scorers: dict[str, Scorer] = {
            kind: load_scorer(kind, asked[kind], device) for kind in kinds if kind in asked
        }
        inception = load_eye(prepared.features, settings, device)
    method = _method(subject).to(device).eval()
    plan = Plan(
        people=settings.people, seeds=settings.seeds, steps=settings.steps,
        guidance=settings.guidance,
    )  # fmt: skip
    beside = _beside(subject)
    with Bar(console) as bar:
        if measures is not None:
            found = evaluate_videos(
                method, prepared, subject.people, plan, recogniser, measures,
                folder=beside, device=device, progress=bar.show,
            )  # fmt: skip
        else:
            found = score(
                method, prepared, subject.people, plan, recogniser,
                scorers=scorers, inception=inception, device=device, progress=bar.show,
            )  # fmt: skip
    about = {
        "scores": flattened(found.scores),
        "absent": found.absent,
        "p_values": found.p_values,
        "notes": found.notes,
        "run": subject.run.resolve().name,
        "checkpoint": subject.checkpoint.name,
        "evaluation": subject.target.name,
        "export": drawn_digest(manifest(subject.checkpoint / "export")),
        "corpus": prepared.features.corpus,
        "encoder": recogniser.encoder,
        "facesim_of": recogniser.similarity_of,
        "aligned": recogniser.aligned,
        "scorers": {kind: {"weights": weights_version(reference, ()), "reference": reference}
                    for kind, reference in asked.items()},
        "people": len(subject.people.names),
        "people_digest": subject.people.digest,
        "seeds": list(range(plan.seeds if measures is None else 1)),
        "guidance": plan.guidance,
        "steps": plan.steps,
        "code": code_version(),
    }  # fmt: skip
    if measures is not None:
        about |= {"fps": measures.fps, "flow": measures.flow.weights}
    return _write(subject, beside, found, about)


def _method(subject: Subject) -> Method:
    """Load the checkpoint, and see that it was trained on these features."""
    method = load_export(subject.checkpoint / "export")
    trained, here = method.features, subject.prepared.features
    for name in ("corpus", "embedder"):
        if (then := getattr(trained, name)) != (now := getattr(here, name)):
            raise BadValue(
                "data.path",
                subject.recipe.data.path,
                f"the run was trained on features with {name} {then}, and these have {now}. "
                "Prepare the corpus of the training there again.",
            )
    return method


def _beside(subject: Subject) -> Path:
    """Make the folder that becomes the evaluation's when it is whole."""
    beside = subject.target.with_name(f".{subject.target.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    return beside


def _write(subject: Subject, beside: Path, found: Evaluation, about: dict[str, Any]) -> Evaluated:
    """Write the rest of the folder and move it to its place."""
    below = "frame: FaceSim" if subject.of_videos else "drawing: distance to the reference"
    title = (
        f"{about['run']}, {about['checkpoint']}, guidance {about['guidance']:g}; below each "
        f"{below} by {about['encoder']}"
    )
    contact_sheet(found.rows, title).save(beside / SHEET)
    columns = {"person": subject.people.names, **{n: v.tolist() for n, v in found.each.items()}}
    pq.write_table(pa.table(columns), beside / PEOPLE)
    (beside / SCORES).write_text(json.dumps(about, indent=2, allow_nan=False) + "\n")
    beside.replace(subject.target)
    return Evaluated(subject.target, about)


def _record(
    done: Evaluated, subject: Subject, settings: EvaluateSettings, console: Console
) -> None:
    """Tell MLflow, in the store that the run is in."""
    about = done.about
    store = open_store(str(done.folder.parents[2]))
    name = f"{about['run']}-{about['evaluation']}"
    tracker = Tracker(store, "evaluate", name, spool=spool_file(store, "evaluate", name))
    params = asdict(settings) | {"checkpoint": about["checkpoint"]}
    tags = {"visage.trained": about["run"], "visage.corpus": about["corpus"],
            "visage.people": about["people_digest"], "visage.code": about["code"]}  # fmt: skip
    of = dataset_of(about["corpus"], subject.recipe.data.path)
    tracker.begin(params, tags, of | {"context": "evaluation"})
    tracker.finish(
        params, {name: score["value"] for name, score in about["scores"].items()}, {}, tags,
        files={name: done.folder / name for name in (SCORES, SHEET, *_videos(done.folder))},
    )  # fmt: skip
    if tracker.problem:
        console.print(f"{tracker.problem}. The scores are in {done.folder}.", markup=False)


def _videos(folder: Path) -> list[str]:
    """Name the MP4s of an evaluation; none of pictures."""
    return [f"{VIDEOS}/{path.name}" for path in sorted((folder / VIDEOS).glob("*.mp4"))]
