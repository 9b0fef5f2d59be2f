"""Does a model keep people it never saw, and does it draw what it is told? On held-out people.

Who is drawn is measured by the encoder that the corpus was measured with. That encoder's vectors
are also what the model is conditioned on, so a part of every score may be features that only it
sees.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from training.evaluation.drawing import (
    HeldOut,
    Photographs,
    Plan,
    Progress,
    condition,
    draw,
    parts,
    takes_text,
)
from training.evaluation.fidelity import Eye, Views, fidelity
from training.evaluation.findings import Evaluation
from training.evaluation.gains import loss_gains as loss_gains
from training.evaluation.metrics import (
    auc_score,
    diversity,
    face_sim,
    lowest_tenth,
    mean_score,
    nearest,
    own_and_others,
    pairwise,
    wilcoxon_greater,
)
from training.evaluation.recognise import Recogniser, Seen
from training.evaluation.scorers import Scorer
from training.evaluation.sheets import SHOWN, Row, thumbnail
from training.features import Prepared
from training.method import Condition, Method

_READ_AT_ONCE = 4096
_ALONE = "one person has nobody to be told from"
_FACELESS = "no face was seen in any picture"


@dataclass
class _Task:
    """What every part of an evaluation needs."""

    method: Method
    prepared: Prepared
    people: HeldOut
    plan: Plan
    recogniser: Recogniser
    progress: Progress
    found: Evaluation
    references: Float[np.ndarray, "people dim"]


@torch.no_grad()
def evaluate(
    method: Method,
    prepared: Prepared,
    people: HeldOut,
    plan: Plan,
    recogniser: Recogniser,
    *,
    scorers: Mapping[str, Scorer],
    inception: Eye | None = None,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Draw every held-out person once, the shown ones with every seed, and score the pictures.

    All first pictures come from one stream of noise, seed 0, so two runs draw the same person from
    the same noise.

    Args:
        method: In evaluation, on ``device``.
        prepared: What it was trained on, and the held-out people.
        people: Whom to draw.
        plan: How.
        recogniser: Who tells people apart.
        scorers: Encoders of whole pictures by kind, ``clip`` and ``dino``; scores that lack theirs
            are absent.
        inception: Inception-v3, for FID.
        device: ``cpu`` or ``cuda``.
        progress: Told how it goes.
    """
    references = prepared.read("identity", people.first).numpy()
    task = _Task(method, prepared, people, plan, recogniser, progress, Evaluation(), references)
    photographs = Photographs(prepared, method.codec, device)
    _show_photographs(task, photographs)
    eyes: dict[str, Eye] = {kind: scorer.pictures for kind, scorer in scorers.items()}
    eyes |= {} if inception is None else {"inception": inception}
    seen, views = _draw_everybody(task, eyes)
    _score_identity(task, seen)
    _score_leakage(task, seen.vectors)
    _draw_again(task, seen.vectors)
    gains = loss_gains(method, prepared, people.first, device=device, progress=progress)
    task.found.mean("loss_gain", gains)
    task.found.p_values["loss_gain"] = wilcoxon_greater(gains, np.zeros_like(gains))
    fidelity(
        task.found,
        prepared,
        people,
        photographs,
        scorers,
        views,
        worded=takes_text(method, prepared),
        inception=inception,
    )
    return task.found


def _show_photographs(task: _Task, photographs: Photographs) -> None:
    """Begin the sheet with photographs of those who are shown."""
    people, rows = task.people, task.found.rows
    for picture in photographs(people.first[:SHOWN]):
        rows.append(Row([("reference", thumbnail(picture), "")]))
    if people.second is not None:
        for row, picture in zip(rows, photographs(people.second[:SHOWN]), strict=True):
            row.append(("real second", thumbnail(picture), ""))


def _draw_everybody(task: _Task, eyes: Mapping[str, Eye]) -> tuple[Seen, Views]:
    """Draw each person once; keep vectors, and thumbnails of the shown."""
    rng = torch.Generator().manual_seed(0)
    looks: list[Seen] = []
    views: dict[str, list[Float[np.ndarray, "part dim"]]] = {kind: [] for kind in eyes}
    total = len(task.people.names)
    task.progress("drawing", 0, total)
    for part in parts(total, task.prepared.features.image_px):
        drawn = draw(task.method, _asked(task, part), task.plan, rng)
        looks.append(task.recogniser.look(drawn))
        for kind, eye in eyes.items():
            views[kind].append(eye(drawn))
        own = np.diag(pairwise(looks[-1].vectors, task.references[part], task.recogniser.metric))
        for row, picture, away in zip(task.found.rows[part], drawn, own, strict=False):
            row.append(("seed 0", thumbnail(picture), f"{away:.2f}"))
        task.progress("drawing", part.stop, total)
    vectors = np.concatenate([look.vectors for look in looks])
    found = np.concatenate([look.found for look in looks])
    return Seen(vectors, found), {kind: np.concatenate(each) for kind, each in views.items()}


def _asked(task: _Task, part: slice) -> Condition:
    return condition(task.method, task.prepared, task.people.first[part], task.people.target[part])


def _score_identity(task: _Task, seen: Seen) -> None:
    """Compare everybody with the own reference and everybody else's, and with photographs."""
    found, recogniser, references = task.found, task.recogniser, task.references
    between = pairwise(seen.vectors, references, recogniser.metric)
    score, wins = auc_score(between)
    alone = len(references) < 2
    found.put("auc", score, _ALONE if alone else _FACELESS, wins)
    turned = np.roll(np.arange(len(references)), len(references) // 2)
    found.put("auc_floor", auc_score(between[:, turned])[0], _ALONE if alone else _FACELESS)
    own, others = own_and_others(between)
    found.mean("own_distance", own, _FACELESS)
    found.mean("other_distance", others, _ALONE if alone else _FACELESS)
    # A comparison with nan is False: who is not seen is not the same person.
    found.mean("same_person_share", (own < recogniser.same_person_below).astype(np.float64))
    found.mean("face_share", seen.found.astype(np.float64))
    similar = recogniser.similarity(seen.vectors, references)
    similar = np.where(seen.found, similar, np.nan)
    counted, published = face_sim(similar), face_sim(similar, published=True)
    found.mean("facesim", counted)
    found.put("facesim_p10", mean_score(counted, statistic=lowest_tenth), _FACELESS)
    found.mean("facesim_published", published, _FACELESS)
    found.put("facesim_published_p10", mean_score(published, statistic=lowest_tenth), _FACELESS)
    if task.people.second is None:
        why = "held-out people have one photograph each"
        names = ("auc_ceiling", "facesim_ceiling", "diversity_real", "leakage_real")
        found.absent |= dict.fromkeys(names, why)
        return
    real = task.prepared.read("identity", task.people.second).numpy()
    far = pairwise(real, references, recogniser.metric)
    found.put("auc_ceiling", auc_score(far)[0], _ALONE)
    found.mean("facesim_ceiling", face_sim(recogniser.similarity(real, references)))
    found.mean("diversity_real", np.diag(far).copy())


def _score_leakage(task: _Task, vectors: Float[np.ndarray, "people dim"]) -> None:
    """Ask who is nearer: the person asked for, or somebody whom the model was trained on.

    The same question of real second photographs says how often that happens by itself, which it
    does the more, the more people there are.
    """
    metric, training = task.recogniser.metric, task.people.training
    if len(training) == 0:
        why = "there is nobody that it was trained on"
        task.found.absent |= dict.fromkeys(("leakage", "leakage_real"), why)
        return
    asked = {"leakage": vectors}
    if task.people.second is not None:
        asked["leakage_real"] = task.prepared.read("identity", task.people.second).numpy()
    for name, faces in asked.items():
        own = np.diag(pairwise(faces, task.references, metric))
        away = nearest(faces, _vectors(task.prepared, training), metric)
        nearer = np.where(np.isnan(own), np.nan, (away < own).astype(np.float64))
        task.found.mean(name, nearer, _FACELESS)


def _vectors(
    prepared: Prepared, samples: Int64[np.ndarray, " samples"]
) -> Iterator[Float[np.ndarray, "part dim"]]:
    for start in range(0, len(samples), _READ_AT_ONCE):
        yield prepared.read("identity", samples[start : start + _READ_AT_ONCE]).numpy()


def _draw_again(task: _Task, vectors: Float[np.ndarray, "people dim"]) -> None:
    """Draw the shown people with the other seeds, and without identity; score diversity."""
    rows, plan = task.found.rows, task.plan
    shown, px = len(rows), task.prepared.features.image_px
    seeds, total = [vectors[:shown]], shown * plan.seeds
    task.progress("drawing again", 0, total)
    for seed in range(1, plan.seeds):
        rng = torch.Generator().manual_seed(seed)
        looks = []
        for part in parts(shown, px):
            drawn = draw(task.method, _asked(task, part), plan, rng)
            look = task.recogniser.look(drawn)
            looks.append(look.vectors)
            own = np.diag(pairwise(look.vectors, task.references[part], task.recogniser.metric))
            for row, picture, away in zip(rows[part], drawn, own, strict=True):
                row.append((f"seed {seed}", thumbnail(picture), f"{away:.2f}"))
            task.progress("drawing again", (seed - 1) * shown + part.stop, total)
        seeds.append(np.concatenate(looks))
    values = np.full(len(vectors), np.nan)
    values[:shown] = diversity(np.stack(seeds, axis=1), task.recogniser.metric)
    task.found.mean("diversity", values, "fewer than two seeds of a person show a face")
    rng = torch.Generator().manual_seed(0)
    for part in parts(shown, px):
        drawn = draw(task.method, _asked(task, part), plan, rng, without_identity=True)
        for row, picture in zip(rows[part], drawn, strict=True):
            row.append(("identity off", thumbnail(picture), ""))
        task.progress("drawing again", (plan.seeds - 1) * shown + part.stop, total)
