"""What methods of videos leave to chance, sample by sample: where to look, how much to be shown.

Drawn with the batch from the seed and the sample's place in the run, as its noise is, so that
``forward`` draws nothing and numbers of workers change nothing. A batch without ``lots``, as
scores are measured on, is shown everything as it is. Shapes: B samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.method import Batch
from training.video.settings import VideoSettings

_MASKED, _SHALLOW, _REFERENCE, _SIGMA = range(4)
"""What each of a sample's lots decides."""
LOTS = 4
LOG_SIGMA = (-3.0, 0.5)
"""Mean and deviation of the logarithm of how much noise a reference gets: CogVideoX's own."""


def chances(
    seed: int, positions: Sequence[int], reference: Float[Tensor, "B C H W"] | None
) -> dict[str, Tensor]:
    """Draw ``lots`` (B x 4) and, for a reference, ``reference_noise`` of its shape.

    Args:
        seed: Of the run.
        positions: In the run, of these samples.
        reference: Their ``reference_latents``, where these were prepared.
    """
    lots, noises = [], []
    for position in positions:
        own = np.random.SeedSequence([seed, 5, int(position)]).generate_state(1)[0]
        rng = torch.Generator().manual_seed(int(own))
        lots.append(torch.rand(LOTS, generator=rng))
        if reference is not None:
            noises.append(torch.randn(reference.shape[1:], generator=rng))
    drawn = {"lots": torch.stack(lots)}
    return drawn | ({"reference_noise": torch.stack(noises)} if noises else {})


def by_chance(batch: Batch, settings: VideoSettings) -> Batch:
    """Do to a batch what its lots say.

    * ``mask``: ones but for a ``mask_share`` of the samples, so that the loss ``masked`` is the
      plain error for the others; also where no face was found, see ``training.losses.masked``;
    * ``reference_latents``: with noise, and for ``reference_dropout`` of the samples zeros;
    * what is shallow of the face: see ``without_shallow``.
    """
    if "lots" not in batch:
        return batch
    lots, changed = batch["lots"], dict(batch)
    if "mask" in batch:
        found = batch["mask"].flatten(1).any(dim=1)
        inside = found & (lots[:, _MASKED] < settings.mask_share)
        changed["mask"] = torch.where(_like(inside, batch["mask"]), batch["mask"], 1.0)
    if "reference_latents" in batch:
        reference = batch["reference_latents"]
        if settings.reference_noise:
            mean, deviation = LOG_SIGMA
            sigma = torch.exp(mean + deviation * torch.special.ndtri(lots[:, _SIGMA]))
            reference = reference + _like(sigma, reference) * batch["reference_noise"]
        kept = lots[:, _REFERENCE] >= settings.reference_dropout
        changed["reference_latents"] = reference * _like(kept, reference)
    shown = lots[:, _SHALLOW] < settings.shallow_share
    shown &= batch["progress"] >= settings.shallow_from
    return without_shallow(changed, ~shown)


def without_shallow(batch: Batch, hidden: Bool[Tensor, " B"]) -> Batch:
    """Hide from some samples what is shallow of the reference face, so that the deep is learnt.

    Shallow are the face's latents, which are as good as its pixels, and all layers of an image
    encoder's states but the deepest. What stays is the identity vector, the encoder's vector, and
    its deepest layer. What is hidden is zeros.

    References:
        Wei et al., "EchoVideo: Identity-Preserving Human Video Generation by Multimodal Feature
        Fusion", arXiv:2501.13452: two stages, of which the second uses shallow facial information
        at random, against copying the reference. Code for training was not published: what counts
        as shallow here, and the shares, are ours.
    """
    changed = dict(batch)
    if "reference_latents" in batch:
        latents = batch["reference_latents"]
        changed["reference_latents"] = latents * _like(~hidden, latents)
    if "face_states" in batch:
        states = batch["face_states"]
        shallow = torch.arange(states.shape[1], device=states.device) < states.shape[1] - 1
        gone = hidden[:, None] & shallow
        changed["face_states"] = states * ~gone[:, :, None, None]
    return changed


def _like(per_sample: Tensor, tensor: Tensor) -> Tensor:
    return per_sample.view(-1, *[1] * (tensor.ndim - 1))
