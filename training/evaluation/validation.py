"""A score at every checkpoint: does a person's own vector help on people that were never seen?

And a sheet of drawings, of a few of them, for people to look at while a run goes on.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from infra.errors import BadValue
from training.build import Job
from training.checkpoints import Validate
from training.engine import HALVES
from training.group import Group
from training.method import Method
from training.settings import TrainRecipe

SHEETS = "sheets"
SHOWN = 4
"""People on a sheet: enough to see how it goes, and few enough to draw at every checkpoint."""


def validator(job: Job, recipe: TrainRecipe, out: Path | None = None) -> Validate | None:
    """Return what ``fit`` is to call at checkpoints; None where the recipe asks for nothing.

    It scores ``loss_gain``: the denoising loss with another person's vector minus with the own,
    over one photograph of each of some held-out people, the same ones every time. More is better.
    Where pictures are learnt it also draws some of them, from the same noise every time, beside
    their photographs; see ``sheet_of``.

    Args:
        job: What is trained, and on what.
        recipe: Says how many people, and how long to draw them.
        out: The run's folder; None: draw no sheet.

    Raises:
        BadValue: Fewer than two people are held out, or a picture would take less than no step.
    """
    if not recipe.validate_people:
        return None
    if recipe.validate_steps < 0:
        raise BadValue("validate_steps", recipe.validate_steps, "give 0 or more.")
    _, heldout = job.prepared.split(recipe.data.heldout_share)
    first: dict[str, int] = {}
    for sample in heldout.tolist():
        first.setdefault(job.prepared.people[sample], sample)
    samples = np.array([sample for _, sample in sorted(first.items())][: recipe.validate_people])
    if len(samples) < 2:
        cure = f"{len(samples)} people are held out, two are needed; raise data.heldout_share."
        raise BadValue("validate_people", recipe.validate_people, cure)
    half = HALVES.get(recipe.scale.precision)
    draw: Callable[[Method, int, str], None] | None = None
    if out is not None and recipe.validate_steps and not job.prepared.features.frames:
        draw = _sheets(job, recipe, out)

    def validate(method: Method, step: int) -> dict[str, float]:
        # Here: it brings encoders of pictures, which training without validation does not need.
        from training.evaluate import loss_gains

        device = next(iter(method.trainable().values())).device
        with torch.autocast(device.type, half) if half else nullcontext():
            gains = loss_gains(method, job.prepared, samples, device=str(device))
            if draw:
                draw(method, step, str(device))
        return {"loss_gain": float(gains.mean())}

    return validate


def sheet_of(checkpoint: Path) -> Path:
    """Name a checkpoint's sheet: ``sheets/step-0000500.png``, which stays when it makes room."""
    return checkpoint.parent / SHEETS / f"{checkpoint.name}.png"


def _sheets(job: Job, recipe: TrainRecipe, out: Path) -> Callable[[Method, int, str], None]:
    """Return what draws a checkpoint's sheet; all draw who validate, and rank 0 writes it."""
    from training.evaluation.drawing import Photographs, Plan, condition, draw, held_out
    from training.evaluation.sheets import Row, contact_sheet, thumbnail

    prepared, plan = job.prepared, Plan(seeds=1, steps=recipe.validate_steps)
    people = held_out(prepared, recipe.data.heldout_share, min(recipe.validate_people, SHOWN))

    def write(method: Method, step: int, device: str) -> None:
        photographs, rows = Photographs(prepared, method.codec, device), []
        for number in range(len(people.names)):  # one by one: training has filled the memory
            own = slice(number, number + 1)
            asked = condition(method, prepared, people.first[own], people.target[own])
            drawn = draw(method, asked, plan, torch.Generator().manual_seed(number))
            photo = photographs(people.first[own])
            rows.append(Row([("reference", thumbnail(photo[0]), ""),
                             ("drawn", thumbnail(drawn[0]), "")]))  # fmt: skip
        if not Group(torch.device(device)).leads:
            return
        path = sheet_of(out / f"step-{step:07d}")
        beside = path.with_name(f".{path.name}.part")
        path.parent.mkdir(exist_ok=True)
        contact_sheet(rows, f"{recipe.name}, step {step}").save(beside, "PNG")
        beside.replace(path)

    return write
