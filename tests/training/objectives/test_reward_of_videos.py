"""The reward on videos: over frames, where the face is seen, beside the base's preference."""

import pytest
import torch

from infra.errors import BadValue
from tests.training.objectives.cases import step, tools
from training.objectives.identity import identity
from training.objectives.reward import reward
from training.objectives.step import Gives

ANN = (0.0, 0.0)
WEIGHTS = {"reward_steps": 2, "video_identity_frames": 4}


def shows(*numbers):
    """One video's clean latents, of a person (n, 0) in each frame; see ``cases.People``."""
    made = torch.zeros(1, 3, len(numbers), 2, 2)
    made[0, 0, :, 0, 0] = torch.tensor(numbers) / 4
    return made


class Painter:
    """A network that paints what it is, and another thing as its base, whatever it is shown."""

    def __init__(self, ours, base=None):
        self.ours = shows(*ours).requires_grad_()
        self.base = None if base is None else shows(*base)
        self.schedule, self.asked = tools().schedule, []

    def __call__(self, *, z_t, t, base=False):
        self.asked.append((base, torch.is_grad_enabled()))
        alpha_bar = self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
        clean = self.base if base else self.ours
        return (z_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def rewarded(net, *, seen=(1, 1, 1), aesthetic=None, watch=None, frames=3, **weights):
    made = tools(Gives(ask=True, base=net.base is not None), **(WEIGHTS | weights))
    made.aesthetic, made.watch = aesthetic, watch or {}
    given = {
        "time": torch.tensor([0.1]),
        "latents": torch.zeros(1, 3, frames, 2, 2),
        "noise": torch.zeros(1, 3, frames, 2, 2),
        "landmarks": torch.zeros(1, frames, 5, 2),
        "seen": torch.tensor([seen]).float(),
        "target_identity": torch.tensor([ANN]),
    }
    at = step(torch.zeros(1, 3, frames, 2, 2), batch=given, ask=net)
    return reward(made, at), at.record


def white(pictures, _):
    """Prefer what is bright in one corner."""
    return pictures[:, 0, 0, 0]


def test_it_is_the_mean_distance_over_frames():
    net = Painter((1.0, 2.0, 0.5))
    found, record = rewarded(net)
    assert found.item() == pytest.approx((1 + 4 + 0.25) / 3, rel=1e-3)
    assert record["reward_identity"].item() == pytest.approx(-found.item())
    found.backward()
    assert net.ours.grad[0, 0, :, 0, 0].tolist() == pytest.approx(
        [4 * 2 * n / 3 for n in (1.0, 2.0, 0.5)], rel=1e-3
    )


def test_frames_without_a_face_are_not_looked_at():
    found, _ = rewarded(Painter((1.0, 2.0, 0.5)), seen=(1, 0, 1))
    assert found.item() == pytest.approx((1 + 0.25) / 2, rel=1e-3)
    net = Painter((1.0, 2.0, 0.5))
    nobody, _ = rewarded(net, seen=(0, 0, 0))
    nobody.backward()
    assert nobody.item() == 0
    assert not net.ours.grad.any()


def test_only_as_many_frames_are_looked_at_as_asked():
    net = Painter((1.0, 1.0, 1.0))
    rewarded(net, video_identity_frames=2)[0].backward()
    assert net.ours.grad[0, 0, :, 0, 0].count_nonzero() == 2


def test_looks_and_what_is_watched_are_means_over_frames():
    net = Painter((0.4, 0.8, 1.2))
    found, record = rewarded(net, aesthetic=white, watch={"w": white}, reward_aesthetic=0.5)
    plain, _ = rewarded(net)
    assert found.item() == pytest.approx(plain.item() - 0.5 * 0.2, rel=1e-3)
    assert record["reward_w"].tolist() == pytest.approx([3 * 0.2, 3], rel=1e-3)


def test_the_preference_among_frames_is_kept_like_the_base_s():
    """KL of the softmax over frames, by hand; only what is drawn by us gets gradients."""
    ours, base = torch.tensor([0.4, 0.8, 1.2]), torch.tensor([1.2, 0.4, 0.8])
    net = Painter(ours.tolist(), base.tolist())
    found, record = rewarded(net, aesthetic=white, reward_semantic=2.0)
    theirs, told = (base / 4).softmax(0), (ours / 4).softmax(0)
    by_hand = (theirs * (theirs / told).log()).sum()
    plain, _ = rewarded(net)
    assert record["reward_semantic"].item() == pytest.approx(-by_hand.item(), rel=1e-2)
    assert (found - plain).item() == pytest.approx(2 * by_hand.item(), rel=1e-2)
    (found - plain).backward()
    assert net.ours.grad[0, 0, :, 0, 0].tolist() == pytest.approx(
        (2 * (told - theirs)).tolist(), abs=1e-3
    )
    asked = [base for base, _ in net.asked]
    assert asked[:4] == [False, False, True, True]


def test_who_prefers_what_the_base_prefers_pays_nothing():
    net = Painter((0.4, 0.8), (1.4, 1.8))
    _, record = rewarded(net, aesthetic=white, reward_semantic=1.0, seen=(1, 1), frames=2)
    assert record["reward_semantic"].item() == pytest.approx(0, abs=1e-6)


def test_a_video_in_which_nobody_is_seen_has_no_preference():
    net = Painter((0.4, 0.8, 1.2), (1.2, 0.4, 0.8))
    found, _ = rewarded(net, aesthetic=white, reward_semantic=1.0, seen=(0, 0, 0))
    found.backward()
    assert found.item() == 0
    assert (net.ours.grad == 0).all()


def test_a_preference_must_be_scored_by_somebody_and_compared_with_somebody():
    with pytest.raises(BadValue, match=r"reward_semantic .* Objective\.tools\.aesthetic"):
        rewarded(Painter((1.0,) * 3, (1.0,) * 3), reward_semantic=1.0)
    with pytest.raises(BadValue, match=r"frozen base's; set it to 0"):
        rewarded(Painter((1.0,) * 3), aesthetic=white, reward_semantic=1.0)


def test_losses_of_one_picture_refuse_videos():
    video = step(torch.zeros(1, 3, 2, 2, 2), batch={"target_identity": torch.zeros(1, 2)})
    with pytest.raises(BadValue, match=r"these are videos; use losses\.video_identity"):
        identity(tools(), video)
