"""Pictures are drawn, scored, and the score sent back through the last steps of the drawing.

Shapes: B samples, C channels, H rows, W columns of latents.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.method import Batch
from training.noise import STEPS
from training.objectives.step import Reward, Step, Tools, needed

FROM_T = 800
"""Where drawing begins: at the target with this much noise."""
TO_T = 250
"""Drawing ends at a time drawn from 0 up to this: ReFL's steps 30 to 39 of 40."""


def reward(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Draw each sample over several steps, and let what is seen be the person, and look well.

    L = 1/B sum_i [d(E(x_i), e_i) - a R(x_i)]

    x_i is the decoded clean estimate at a time drawn per sample from 0 to 250, reached in
    ``reward_steps`` calls of the network, without guidance, of which the last
    ``reward_gradient_steps`` keep gradients. R is ``Tools.aesthetic``, a its weight
    ``reward_aesthetic``. ``Tools.watch`` is measured beside it and never descended: identity
    rewards are known to be hacked (ID-Aligner's CLIP-T falls from 22.0 to 20.6), so record CLIP-T
    (``clip_t``) and stop where it falls. Recorded: ``reward_identity``, ``reward_aesthetic``, and
    ``reward_`` with each watched name.

    References:
        ID-Aligner, arXiv:2404.15449 (weights 0.2 and 0.001: set ``losses.reward`` to 0.2 and
        ``reward_aesthetic`` to 0.005); ReFL of ImageReward, arXiv:2304.05977. Both begin from
        noise, and ID-Aligner then detects the face. Here the target with noise of time 800 is
        begun from: the face stays where its landmarks are, and no detector runs.

    Raises:
        BadValue: Looks are to count, and nothing scores them.
    """
    share = tools.settings.reward_aesthetic
    if share > 0 and tools.aesthetic is None:
        raise BadValue(
            "losses.reward_aesthetic", share, "set Objective.tools.aesthetic, or set it to 0."
        )
    assert tools.identity is not None
    pictures = tools.pictures(_drawn(tools, step))
    vectors = tools.identity.vectors(pictures, step.batch["landmarks"])
    far = tools.identity.apart(vectors, step.batch["target_identity"])
    step.record["reward_identity"] = -far.detach().mean()
    if share > 0 and tools.aesthetic is not None:
        looks = tools.aesthetic(pictures, step.batch)
        step.record["reward_aesthetic"] = looks.detach().mean()
        far = far - share * looks
    for name, score in tools.watch.items():
        with torch.no_grad():
            step.record[f"reward_{name}"] = score(pictures.detach(), step.batch).mean()
    return (far * step.asked).mean()


def clip_t(scorer: Any) -> Reward:  # noqa: ANN401 - importing ``Scorer`` brings transformers
    """Score pictures by CLIP against the batch's ``clip_text``: to be watched, without gradients.

    Args:
        scorer: A ``training.scorers.Scorer`` of the kind ``clip``, which made ``clip_text`` (width
            of CLIP) of the prompts.
    """

    def score(pictures: Float[Tensor, "B 3 H W"], batch: Batch) -> Float[Tensor, " B"]:
        cure = "put CLIP's vectors of the prompts there, or watch something else."
        wanted = needed(batch, "clip_text", "reward", 0.0, cure)
        bytes_ = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        vectors = torch.from_numpy(scorer.pictures(bytes_.cpu().numpy())).to(wanted)
        return nn.functional.cosine_similarity(vectors, wanted, dim=1)

    return score


def _drawn(tools: Tools, step: Step) -> Float[Tensor, "B C H W"]:
    """Draw by DDIM (arXiv:2010.02502) and return the last clean estimate."""
    assert step.ask is not None
    calls, kept = tools.settings.reward_steps, tools.settings.reward_gradient_steps
    times = _times(step.batch["time"], calls)
    batch, schedule = step.batch, tools.schedule
    z_t = schedule.noised(batch["latents"], batch["noise"], times[0] / STEPS).z_t
    clean = z_t
    for call, t in enumerate(times):
        with torch.set_grad_enabled(call >= calls - kept):
            clean = schedule.clean(z_t, t, step.ask(z_t=z_t, t=t))
            if call + 1 < calls:
                z_t = schedule.moved(z_t, t, clean, times[call + 1])
    return clean


def _times(draw: Float[Tensor, " B"], calls: int) -> list[Int64[Tensor, " B"]]:
    """Return the times of each call: evenly from 800 to each sample's own end."""
    end = (draw * TO_T).clamp(max=TO_T - 1)
    shares = torch.linspace(0, 1, calls).tolist()
    return [(FROM_T + (end - FROM_T) * share).long() for share in shares]
