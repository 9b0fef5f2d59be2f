"""Score a training run on people it never saw, and show what it draws."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from infra.cluster import usable_cpus
from infra.configuration import from_yaml
from infra.errors import BadValue, UnreadableSource
from training.build import build
from training.evaluate import IdentityKept, identity_kept, pictures
from training.features import Prepared
from training.loop import latest
from training.method import Condition, Method
from training.methods.base import BaseGenerator
from training.nets.codec import load_codec
from training.recipes import TrainRecipe

SHEET_PEOPLE = 16
SHEET_DRAWS = 4


def evaluate(
    run: str, console: Console, *, people: int = 200, guidance: float = 3.0
) -> IdentityKept:
    """Score the newest checkpoint of a run; write ``scores.json`` and ``contact.png`` beside it.

    Raises:
        UnreadableSource: The folder is no training run, or has no whole checkpoint.
        BadValue: The run's method cannot be scored this way yet.
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").exists():
        raise UnreadableSource(run, "it has no recipe.yaml", "Name a run of `visage train`.")
    newest = latest(folder)
    if newest is None:
        raise UnreadableSource(run, "it has no whole checkpoint", "Train it further first.")
    recipe = from_yaml(folder / "recipe.yaml", TrainRecipe(name="unnamed"))
    torch.set_num_threads(recipe.scale.threads or usable_cpus())
    job = build(recipe)
    if not isinstance(job.method, BaseGenerator):
        raise BadValue(
            "run",
            run,
            "only methods of kind `base` can be scored so far: others draw whole photos.",
        )
    job.method.load(newest / "export")
    job.method.eval()
    _, heldout = job.prepared.split(recipe.data.heldout_share)
    if len(heldout) == 0:
        raise BadValue(
            "data.heldout_share",
            recipe.data.heldout_share,
            "no person is held out: train with more.",
        )
    scores = identity_kept(job.method, job.prepared, heldout, people=people, guidance=guidance)
    contact_sheet(job.method, job.prepared, heldout, guidance).save(folder / "contact.png")
    words = asdict(scores) | {"checkpoint": newest.name, "guidance": guidance}
    (folder / "scores.json").write_text(json.dumps(words, indent=2) + "\n")
    console.print(table(scores))
    return scores


def table(scores: IdentityKept) -> Table:
    """Lay the scores out for a terminal."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    rows.add_column(f"{scores.people} people held out")
    rows.add_column("", justify="right")
    for what, value in (
        ("AUC, generated faces", f"{scores.auc:.3f}"),
        ("AUC, real second photographs (ceiling)", f"{scores.ceiling_auc:.3f}"),
        ("AUC, shuffled references (floor)", f"{scores.floor_auc:.3f}"),
        ("distance to own reference", f"{scores.own_distance:.3f}"),
        ("distance to others", f"{scores.other_distance:.3f}"),
        ("called the same person", f"{scores.same_person_share:.0%}"),
        ("loss with another's vector minus own", f"{scores.loss_gain:+.4f}"),
        ("by chance with probability", f"{scores.loss_gain_p:.1g}"),
    ):
        rows.add_row(what, value)
    return rows


def contact_sheet(
    method: Method, prepared: Prepared, heldout: np.ndarray, guidance: float
) -> Image.Image:
    """Draw some held-out people: the reference on the left, generated faces to its right."""
    first: dict[str, int] = {}
    for sample in heldout.tolist():
        first.setdefault(prepared.people[sample], sample)
    chosen = np.array([sample for _, sample in sorted(first.items())][:SHEET_PEOPLE])
    codec = load_codec(prepared.features.codec, prepared.folder)
    columns = [pictures(codec.decode(prepared.read("latents", chosen)))]
    condition = Condition(prepared.read("identity", chosen))
    for seed in range(SHEET_DRAWS):
        rng = torch.Generator().manual_seed(seed)
        columns.append(pictures(method.generate(condition, rng, guidance=guidance)))
    rows = [np.concatenate(row, axis=1) for row in zip(*columns, strict=True)]
    half = (len(rows) + 1) // 2
    sides = [np.concatenate(part, axis=0) for part in (rows[:half], rows[half:]) if part]
    height = max(len(side) for side in sides)
    padded = [np.pad(s, [(0, height - len(s)), (0, 0), (0, 0)], constant_values=255) for s in sides]
    return Image.fromarray(np.concatenate(padded, axis=1)).resize(
        (2 * sum(side.shape[1] for side in sides), 2 * height), Image.Resampling.NEAREST
    )
