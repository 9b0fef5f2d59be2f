"""A prompt changes the face as it would without the adapter.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.objectives.step import Step, Tools, needed

FROM_T, TO_T = 100, 350
"""Between these times a prompt decides details of the face (MasterWeaver)."""
_STILL = 1e-3
"""Share of the base's change below which the adapter's is none: it costs 1, without gradient."""


def edit_direction(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Make a change of prompt move the prediction in the base's direction.

    L = 1/B sum_i [1 - cos(M (p(edit) - p(own)), M (q(edit) - q(own)))]

    over samples with identity and prompt at times 100 to 350; p is the prediction, q the base's
    without the adapter, M the face mask. The edit is ``edit_text`` of the batch (with
    ``edit_pooled``), or the next sample's prompt: ``training.objective.check_company`` refuses
    microbatches of one, which have no next. The network is asked three times more, twice of it
    without gradients.

    References:
        MasterWeaver, arXiv:2405.05806, weight 0.02: directions of UNet features, up to six calls
        outside of what was wrapped for many workers, so that no gradient was ever exchanged. Here
        all calls are inside the one forward, and directions are of predictions: the features that
        decide the picture, with nothing else to name.

    Raises:
        BadValue: There are no prompts.
    """
    weight = tools.settings.edit_direction
    cure = "prepare the features with a text encoder, or set it to 0."
    own = needed(step.batch, "text", "edit_direction", weight, cure)
    edit = {"text": step.batch.get("edit_text", own.roll(-1, dims=0))}
    if "pooled" in step.batch:
        edit["pooled"] = step.batch.get("edit_pooled", step.batch["pooled"].roll(-1, dims=0))
    assert step.ask is not None
    assert step.prompted is not None
    ours = step.ask(changed=edit) - step.pred
    theirs = step.ask(base=True, changed=edit) - step.ask(base=True)
    mask = step.batch["mask"][:, None]
    ours, theirs = (ours * mask).flatten(1), (theirs * mask).flatten(1)
    t = step.noised.t
    counts = step.asked & step.prompted & (t >= FROM_T) & (t <= TO_T)
    # What an edit hardly moves has no direction, and its cosine a gradient without bounds.
    reach, base_reach = ours.detach().norm(dim=1), theirs.norm(dim=1)
    moves = reach > _STILL * base_reach
    away = 1 - nn.functional.cosine_similarity(ours, theirs, dim=1, eps=1e-12)
    return torch.where(counts & (base_reach > 0), torch.where(moves, away, 1.0), 0.0).mean()
