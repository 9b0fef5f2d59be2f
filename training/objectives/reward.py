"""Pictures are drawn, scored, and the score sent back through the last steps of the drawing.

Shapes: B samples, C channels, T frames of videos, H rows, W columns of latents; K frames that are
looked at of each video, 1 of a picture; N pictures, B x K.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.method import Batch
from training.noise import STEPS
from training.objectives.step import Reward, Step, Tools
from training.objectives.video_identity import frames_at, spread_over

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
    rewards are known to be hacked (ID-Aligner's CLIP-T falls from 22.0 to 20.6), so name a CLIP in
    ``reward_watch``, and stop where ``reward_clip_t`` falls (``training.hacking`` says so).
    Recorded: ``reward_identity``, ``reward_aesthetic``, and ``reward_`` with each watched name. A
    sample that cannot be scored (NaN), as nothing was said of it, has its d alone in L, and is in
    no mean that is recorded.

    Of a video d and R are means over ``video_identity_frames`` of the frames in which the target's
    face is seen. With c = ``reward_semantic``

    L = 1/B sum_i [d_i - a R_i + c KL(softmax_k R(y_ik) || softmax_k R(x_ik))]

    where k are these frames, and y_i is what the frozen base draws of the same noise: the tuned
    model may not change which moments look best, so that it keeps the base's motion. Recorded:
    ``reward_semantic``.

    References:
        ID-Aligner, arXiv:2404.15449 (weights 0.2 and 0.001: set ``losses.reward`` to 0.2 and
        ``reward_aesthetic`` to 0.005); ReFL of ImageReward, arXiv:2304.05977. Both begin from
        noise, and ID-Aligner then detects the face. Here the target with noise of time 800 is
        begun from: the face stays where its landmarks are, and no detector runs. PersonalVideo,
        arXiv:2411.17048: both rewards on videos, R its HPSv2. Which way its divergence goes is not
        published: here what the base prefers may not be lost.

    Raises:
        BadValue: Looks are to count, and nothing scores them; or those of pictures are to be like a
            base's; or this method has none.
    """
    share, semantic = tools.settings.reward_aesthetic, tools.settings.reward_semantic
    scored = {"reward_aesthetic": share, "reward_semantic": semantic}
    for name, weight in scored.items():
        if weight > 0 and tools.aesthetic is None:
            cure = "name losses.reward_scorer, or set Objective.tools.aesthetic, or set it to 0."
            raise BadValue(f"losses.{name}", weight, cure)
    if semantic > 0 and (step.pred.ndim != 5 or not tools.gives.base):
        cure = "it compares the frames of a video with the frozen base's; set it to 0."
        raise BadValue("losses.reward_semantic", semantic, cure)
    assert tools.identity is not None
    looked = _looked_at(step, tools.settings.video_identity_frames)
    pictures = _pictures(tools, _drawn(tools, step), looked)
    vectors = tools.identity.vectors(pictures, looked.landmarks)
    far = looked.mean(tools.identity.apart(vectors, looked.batch["target_identity"]))
    step.record["reward_identity"] = -far.detach().mean()
    if tools.aesthetic is not None and max(scored.values()) > 0:
        looks = tools.aesthetic(pictures, looked.batch)
        rated = looked.of(looks)
        step.record["reward_aesthetic"] = rated.tally(looks.detach())
        far = far - share * rated.mean(looks)
        if semantic > 0:
            drift = _drift(tools, step, rated, tools.aesthetic, looks)
            step.record["reward_semantic"] = -drift.detach().mean()
            far = far + semantic * drift
    for name, score in tools.watch.items():
        with torch.no_grad():
            found = score(pictures.detach(), looked.batch)
        step.record[f"reward_{name}"] = looked.of(found).tally(found)
    return (far * step.asked).mean()


@dataclass(frozen=True)
class _Looked:
    """Which pictures are scored."""

    batch: Batch
    """The microbatch, each sample as often as it is looked at."""
    landmarks: Float[Tensor, "N 5 2"]
    there: Float[Tensor, "B K"]
    """1 for each that counts."""
    at: Int64[Tensor, "B K"] | None = None
    """Latent frames of videos."""

    def mean(self, scores: Float[Tensor, " N"]) -> Float[Tensor, " B"]:
        """Return each sample's mean over what counts of it; 0 where nothing does."""
        return self._counted(scores).sum(dim=1) / self.there.sum(dim=1).clamp(min=1)

    def of(self, scores: Float[Tensor, " N"]) -> "_Looked":
        """Leave out what has no score."""
        return replace(self, there=self.there * ~scores.detach().isnan().view_as(self.there))

    def tally(self, scores: Float[Tensor, " N"]) -> Float[Tensor, "2"]:
        """Return the sum of what counts, and how many these are; see ``Step.record``."""
        return torch.stack([self._counted(scores).sum(), self.there.sum()])

    def _counted(self, scores: Float[Tensor, " N"]) -> Float[Tensor, "B K"]:
        return torch.where(self.there > 0, scores.view_as(self.there), 0.0)


def _looked_at(step: Step, frames: int) -> _Looked:
    """Choose what is looked at: pictures whole, of videos some frames in which the face is."""
    landmarks = step.batch["landmarks"]
    if step.pred.ndim == 4:
        return _Looked(step.batch, landmarks, torch.ones_like(step.batch["time"])[:, None])
    # What the times of the drawing leave of the draw: uniform, and independent of these.
    turn = (step.batch["time"] * STEPS).frac()
    at, there = spread_over(step.batch["seen"] > 0, frames, turn)
    points = landmarks.gather(1, at[..., None, None].expand(-1, -1, 5, 2)).flatten(0, 1)
    each = {n: value.repeat_interleave(at.shape[1], dim=0) for n, value in step.batch.items()}
    return _Looked(each, points, there, at)


def _pictures(
    tools: Tools, clean: Float[Tensor, "B C *T H W"], looked: _Looked
) -> Float[Tensor, "N 3 height width"]:
    """Decode what is looked at."""
    if looked.at is None:
        return tools.pictures(clean)
    return frames_at(tools, clean, looked.at).flatten(0, 1)


def _drift(
    tools: Tools, step: Step, looked: _Looked, score: Reward, looks: Float[Tensor, " N"]
) -> Float[Tensor, " B"]:
    """Say how far the preference among a video's frames is from that among the base's."""
    with torch.no_grad():
        theirs = score(_pictures(tools, _drawn(tools, step, base=True), looked), looked.batch)
    left_out = looked.there == 0
    # Finite, so that a video of which nothing counts has a gradient of 0.
    base, ours = (
        each.float().view_as(looked.there).masked_fill(left_out, -1e9).log_softmax(dim=1)
        for each in (theirs, looks)
    )
    each_BK = base.exp() * (base - ours)
    return torch.where(left_out, 0.0, each_BK).sum(dim=1)


def _drawn(tools: Tools, step: Step, *, base: bool = False) -> Float[Tensor, "B C *T H W"]:
    """Draw by DDIM (arXiv:2010.02502) and return the last clean estimate."""
    assert step.ask is not None
    calls, kept = tools.settings.reward_steps, tools.settings.reward_gradient_steps
    times = _times(step.batch["time"], calls)
    batch, schedule = step.batch, tools.schedule
    z_t = schedule.noised(batch["latents"], batch["noise"], times[0] / STEPS).z_t
    clean = z_t
    for call, t in enumerate(times):
        with torch.set_grad_enabled(call >= calls - kept):
            pred = step.ask(z_t=z_t, t=t, base=True) if base else step.ask(z_t=z_t, t=t)
            clean = schedule.clean(z_t, t, pred)
            if call + 1 < calls:
                z_t = schedule.moved(z_t, t, clean, times[call + 1])
    return clean


def _times(draw: Float[Tensor, " B"], calls: int) -> list[Int64[Tensor, " B"]]:
    """Return the times of each call: evenly from 800 to each sample's own end."""
    end = (draw * TO_T).clamp(max=TO_T - 1)
    shares = torch.linspace(0, 1, calls).tolist()
    return [(FROM_T + (end - FROM_T) * share).long() for share in shares]
