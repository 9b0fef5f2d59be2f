"""Does a generator of aligned faces keep people it never saw? Measured on held-out people.

Two questions. Does the right person's vector make the denoising loss smaller than another's? And
are the pictures that are drawn nearer to their own reference than to other people's?
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from stages.models.backend import load_embedder
from training.crops import chips_of_aligned
from training.features import Prepared
from training.method import Condition, Method
from training.metrics import auc, pairwise, wilcoxon_greater

_DRAWN_AT_ONCE = 50


@dataclass(frozen=True, kw_only=True)
class IdentityKept:
    """How well unseen people are kept."""

    people: int
    auc: float
    """A generated face is nearer to its own reference than to another person's."""
    own_distance: float
    other_distance: float
    same_person_share: float
    """Generated faces below the encoder's threshold to their reference."""
    ceiling_auc: float
    """The same of real second photographs of the same people."""
    floor_auc: float
    """The same with references shuffled: chance."""
    loss_gain: float
    """Denoising loss with another's vector minus with the own."""
    loss_gain_p: float
    """Wilcoxon's probability of such a gain by chance."""


@torch.no_grad()
def identity_kept(
    method: Method,
    prepared: Prepared,
    heldout: Int64[np.ndarray, " heldout"],
    *,
    people: int = 200,
    guidance: float = 3.0,
    steps: int = 30,
    seed: int = 0,
) -> IdentityKept:
    """Draw one face for each of some held-out people who have two photographs or more.

    The reference is a person's first photograph by id, the real second photograph the next one.
    """
    first, second = _two_photos(prepared, heldout, people)
    references = prepared.read("identity", first)
    rng = torch.Generator().manual_seed(seed)
    drawn = [
        method.generate(Condition(part), rng, steps=steps, guidance=guidance)
        for part in torch.split(references, _DRAWN_AT_ONCE)
    ]
    vectors, known = embedded(pictures(torch.cat(drawn)), prepared), references.numpy()
    embedder = load_embedder(prepared.features.backend, "", "cpu")
    between = pairwise(vectors, known, embedder.metric)
    own, others = _own_and_others(between)
    real = pairwise(prepared.read("identity", second).numpy(), known, embedder.metric)
    turned = np.roll(np.arange(len(known)), len(known) // 2)
    gains = loss_gains(method, prepared, first, seed)
    return IdentityKept(
        people=len(first),
        auc=auc(own, others),
        own_distance=float(own.mean()),
        other_distance=float(others.mean()),
        same_person_share=float((own < embedder.same_person_below).mean()),
        ceiling_auc=auc(*_own_and_others(real)),
        floor_auc=auc(*_own_and_others(between[:, turned])),
        loss_gain=float(gains.mean()),
        loss_gain_p=wilcoxon_greater(gains, np.zeros_like(gains)),
    )


def pictures(
    drawn: Float[torch.Tensor, "faces 3 height width"],
) -> UInt8[np.ndarray, "faces height width 3"]:
    """Turn generated tensors into pictures."""
    bytes_ = (drawn.clamp(0, 1) * 255).round().byte()
    return np.asarray(bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy(), dtype=np.uint8)


def embedded(
    faces: UInt8[np.ndarray, "faces side side 3"], prepared: Prepared
) -> Float[np.ndarray, "faces dim"]:
    """Embed aligned pictures the way their photographs were."""
    embedder = load_embedder(prepared.features.backend, "", "cpu")
    return np.asarray(embedder.embed(chips_of_aligned(faces)))


def _two_photos(
    prepared: Prepared, heldout: Int64[np.ndarray, " heldout"], people: int
) -> tuple[Int64[np.ndarray, " people"], Int64[np.ndarray, " people"]]:
    """Return the first and second photographs of the first people who have two."""
    photos: dict[str, list[int]] = {}
    for sample in heldout.tolist():
        photos.setdefault(prepared.people[sample], []).append(sample)
    pairs = [seen[:2] for _, seen in sorted(photos.items()) if len(seen) > 1][:people]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _own_and_others(
    between: Float[np.ndarray, "faces people"],
) -> tuple[Float[np.ndarray, " own"], Float[np.ndarray, " others"]]:
    """Divide distances into those to one's own reference and all the others."""
    faces, people = between.shape
    mine = np.arange(faces)[:, None] == np.arange(people)
    return between[mine], between[np.logical_not(mine)]


@torch.no_grad()
def loss_gains(
    method: Method, prepared: Prepared, samples: Int64[np.ndarray, " samples"], seed: int
) -> Float[np.ndarray, " samples"]:
    """Return, per sample, the loss with another person's vector minus with the own.

    Four times of the schedule each; noise and times are the same on both sides.
    """
    latents, own = prepared.read("latents", samples), prepared.read("identity", samples)
    other = own.roll(len(own) // 2, dims=0)
    rng = torch.Generator().manual_seed(seed)
    gains = np.zeros(len(samples))
    for time in (0.2, 0.4, 0.6, 0.8):
        noise = torch.randn(latents.shape, generator=rng)
        for i in range(len(samples)):
            at = slice(i, i + 1)
            batch = {"latents": latents[at], "noise": noise[at], "target_identity": own[at],
                     "time": torch.full((1,), time), "drop": torch.ones(1)}  # fmt: skip
            with_own = method(batch | {"identity": own[at]})["mse"]
            with_other = method(batch | {"identity": other[at]})["mse"]
            gains[i] += float(with_other - with_own) / 4
    return gains
