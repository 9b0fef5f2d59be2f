"""Losses, one value per sample, in float32 whatever the network computed in.

Per sample, because what follows needs to know whose loss it is: weights by noise level, gates,
records. Shapes: B samples, C channels, T frames of videos, H rows, W columns of latents.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def mse(
    pred: Float[Tensor, "B C *rest"], target: Float[Tensor, "B C *rest"]
) -> Float[Tensor, " B"]:
    """Return the mean of (pred - target)² over each sample.

    References:
        Ho et al., "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, equation 14.
    """
    return _squares(pred, target).flatten(1).mean(dim=1)


def masked(
    pred: Float[Tensor, "B C *T H W"],
    target: Float[Tensor, "B C *T H W"],
    mask: Shaped[Tensor, "B *T H W"],
) -> Float[Tensor, " B"]:
    """Return sum(l * m) / sum(m) over each sample, where l is (pred - target)² over its channels.

    A small face counts as much as a large one, and a mask of ones gives ``mse``. An empty mask
    gives 0 and no gradient. The mask is 1, or True, on the face; values between weigh.

    References:
        The masked loss of Yuan et al., "Identity-Preserving Text-to-Video Generation by Frequency
        Decomposition" (ConsisID), arXiv:2411.17440, here normalised by the mask's area.
    """
    m_BTHW = mask.float()
    total_B = (_squares(pred, target).mean(dim=1) * m_BTHW).flatten(1).sum(dim=1)
    area_B = m_BTHW.flatten(1).sum(dim=1)
    # An empty mask has a total of 0, so that what it is divided by matters only in not being 0.
    return total_B / torch.where(area_B > 0, area_B, 1.0)


def weighted_mean(
    per_sample: Float[Tensor, " B"], weight: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Return sum(weight * per_sample) / B.

    Divided by the number of samples and not by the sum of weights: the mean over microbatches of
    one size is then the mean over the batch, on any number of workers.

    References:
        Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy",
        arXiv:2303.09556.
    """
    return (per_sample.float() * weight.float()).mean()


def _squares(
    pred: Float[Tensor, "B C *rest"], target: Float[Tensor, "B C *rest"]
) -> Float[Tensor, "B C *rest"]:
    return (pred.float() - target.float()).square()
