"""Does a person's own vector help to denoise them, more than another person's?"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from training.data import OF_REFERENCE, OF_TARGET
from training.evaluation.drawing import Progress
from training.features import Prepared
from training.method import Method

_TIMES = (0.2, 0.4, 0.6, 0.8)


@torch.no_grad()
def loss_gains(
    method: Method,
    prepared: Prepared,
    samples: Int64[np.ndarray, " samples"],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Float[np.ndarray, " samples"]:
    """Return, per sample, the denoising loss with another person's vector minus with the own.

    The own vector is that of another photograph of the person, so that nothing helps which only
    the photograph that is denoised shows, as its pose and its light; where there is no other, it is
    of that photograph. Four times of the schedule each; noise, times and text are the same on both
    sides. What a method reads of the reference's picture goes with the vector.
    """
    target = [name for name in OF_TARGET if name in prepared.names]
    reference = [name for name in OF_REFERENCE if name in prepared.names]
    own = _another_photograph(prepared, samples)
    strangers = np.roll(own, len(own) // 2)
    rng = torch.Generator().manual_seed(seed)
    gains = np.zeros(len(samples))
    progress("losses", 0, len(_TIMES) * len(samples))
    for number, time in enumerate(_TIMES):
        for i, sample in enumerate(samples.tolist()):
            this = np.array([sample])
            read = {name: prepared.read(name, this) for name in target}
            read["target_identity"] = prepared.read("identity", this)
            noise = torch.randn(read["latents"].shape, generator=rng)
            batch = read | {
                "noise": noise, "time": torch.full((1,), time), "drop": torch.ones(1),
            }  # fmt: skip
            with_own, with_other = (
                method(_placed(batch | {n: prepared.read(n, who[i : i + 1]) for n in reference},
                               device))["mse"]
                for who in (own, strangers)
            )  # fmt: skip
            gains[i] += float(with_other - with_own) / len(_TIMES)
        progress("losses", (number + 1) * len(samples), len(_TIMES) * len(samples))
    return gains


def _another_photograph(
    prepared: Prepared, samples: Int64[np.ndarray, " samples"]
) -> Int64[np.ndarray, " samples"]:
    """Return, for each sample, the first other one of its person; itself where it is alone.

    Of people who are held out that is ``HeldOut.second``.
    """
    wanted = {prepared.people[sample] for sample in samples.tolist()}
    photographs: dict[str, list[int]] = {name: [] for name in wanted}
    for sample, name in enumerate(prepared.people):
        if name in wanted:
            photographs[name].append(sample)
    return np.array(
        [next((s for s in photographs[prepared.people[sample]] if s != sample), sample)
         for sample in samples.tolist()],
        dtype=np.int64,
    )  # fmt: skip


def _placed(batch: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
