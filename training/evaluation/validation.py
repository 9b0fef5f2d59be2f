"""A score at every checkpoint: does a person's own vector help on people that were never seen?"""

from contextlib import nullcontext

import numpy as np
import torch

from infra.errors import BadValue
from training.build import Job
from training.checkpoints import Validate
from training.engine import HALVES
from training.method import Method
from training.settings import TrainRecipe


def validator(job: Job, recipe: TrainRecipe) -> Validate | None:
    """Return what ``fit`` is to call at checkpoints; None where the recipe asks for nothing.

    It scores ``loss_gain``: the denoising loss with another person's vector minus with the own,
    over one photograph of each of some held-out people, the same ones every time. More is better.

    Raises:
        BadValue: Fewer than two people are held out.
    """
    if not recipe.validate_people:
        return None
    _, heldout = job.prepared.split(recipe.data.heldout_share)
    first: dict[str, int] = {}
    for sample in heldout.tolist():
        first.setdefault(job.prepared.people[sample], sample)
    samples = np.array([sample for _, sample in sorted(first.items())][: recipe.validate_people])
    if len(samples) < 2:
        cure = f"{len(samples)} people are held out, two are needed; raise data.heldout_share."
        raise BadValue("validate_people", recipe.validate_people, cure)
    half = HALVES.get(recipe.scale.precision)

    def validate(method: Method, _: int) -> dict[str, float]:
        # Here: it brings encoders of pictures, which training without validation does not need.
        from training.evaluate import loss_gains

        device = next(iter(method.trainable().values())).device
        with torch.autocast(device.type, half) if half else nullcontext():
            gains = loss_gains(method, job.prepared, samples, device=str(device))
        return {"loss_gain": float(gains.mean())}

    return validate
