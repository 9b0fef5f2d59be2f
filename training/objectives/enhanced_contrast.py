"""Whatever else is asked for, the person stays the one that identity alone gives.

Shapes: B samples.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from training.objectives.identity import embedded, see
from training.objectives.step import Step, Tools, signal


def enhanced_contrast(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Compare the person painted with all conditions with the one painted from identity alone.

    L = 1/B sum_i s_i d(E(x0_i), stop(E(x0'_i))), s = snr / (1 + snr)

    x0 is the one-step clean picture, x0' the same asked with neither prompt nor what the method is
    shown beside identity; of samples that ``identity`` counts.

    References:
        ID-enhanced contrast alignment of EmojiDiff, arXiv:2412.01254: it aligns the identity of
        pictures with and without expression control, which here is any condition beside identity.
        Its rapid reconstruction is the one-step estimate here; its supervision of identity itself
        is the loss ``identity``, with a weight of its own; that of expression is left out.
    """
    assert step.ask is not None
    assert tools.identity is not None
    noised = step.noised
    seen = see(tools, step)
    with torch.no_grad():
        clean = tools.clean(noised.z_t, noised.t, step.ask(drop="rest"))[seen.rows]
        whom = embedded(tools, step, clean, seen.rows)
    far = tools.identity.apart(seen.vectors, whom)
    return (far * signal(noised)[seen.rows] * seen.counted).sum() / len(step.pred)
