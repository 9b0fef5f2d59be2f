"""Losses that ask the network again, and the class prior."""

import pytest
import torch

from infra.errors import BadValue
from tests.training.objectives.cases import bare, showing, step, tools
from training.noise import NoiseSchedule
from training.objectives.edit_direction import edit_direction
from training.objectives.prior import prior
from training.objectives.reward import reward
from training.settings import BaseModelSettings

PRED = torch.zeros(2, 3, 2, 2)
EVERYBODY = torch.ones(2, dtype=torch.bool)
LEFT = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).expand(2, 2, 2)


def picture(inside, outside=0.0):
    """A prediction whose channels are this inside the mask."""
    made = torch.full((2, 3, 2, 2), outside)
    made[..., 0] = torch.tensor((*inside, 0.0))[:, None]
    return made


def edited(ours, theirs, *, t=(200, 200), batch=None, **more):
    """The loss where a new prompt moves the adapter by ``ours`` and the base by ``theirs``."""
    asked = []

    def ask(*, base=False, changed=None):
        asked.append((base, changed and changed["text"][:, 0, 0].tolist()))
        if base:
            return theirs + 1 if changed else PRED + 1
        return ours

    text = torch.arange(2.0).view(2, 1, 1).expand(2, 5, 8)
    given = step(
        PRED, t=list(t), batch={"mask": LEFT, "text": text} | (batch or {}), ask=ask,
        **({"prompted": EVERYBODY} | more),
    )  # fmt: skip
    return edit_direction(bare(), given), asked


def test_an_edit_costs_one_less_the_cosine_of_the_two_directions_inside_the_face():
    ours = picture((3.0, 4.0), outside=9.0).requires_grad_()
    found, asked = edited(ours, picture((1.0, 0.0), outside=-9.0))
    assert found.item() == pytest.approx(1 - 0.6)
    found.backward()
    assert (ours.grad[:, 0, :, 0] < 0).all()  # to descend is to go the base's way
    assert (ours.grad[:, 1, :, 0] > 0).all()
    assert ours.grad[..., 1].abs().sum() == 0
    assert asked == [(False, [1.0, 0.0]), (True, [1.0, 0.0]), (True, None)]  # the next's prompt


def test_an_edit_of_the_batch_is_preferred():
    given = {"edit_text": torch.full((2, 5, 8), 7.0)}
    _, asked = edited(picture((1.0, 0.0)), picture((1.0, 0.0)), batch=given)
    assert asked[0] == (False, [7.0, 7.0])


@pytest.mark.parametrize(
    "more",
    [{"t": (99, 351)}, {"asked": [False, False]}, {"prompted": ~EVERYBODY}],
)
def test_only_edits_that_show_count(more):
    found, _ = edited(picture((0.0, 1.0)), picture((1.0, 0.0)), **more)
    assert found.item() == 0


def test_a_base_that_an_edit_does_not_move_is_no_direction():
    ours = picture((0.0, 1.0)).requires_grad_()
    found, _ = edited(ours, torch.zeros_like(PRED))
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(ours.grad).all()


def test_an_adapter_that_an_edit_does_not_move_costs_1_and_has_a_bounded_gradient():
    ours = picture((0.0, 1e-6)).requires_grad_()
    found, _ = edited(ours, picture((1.0, 0.0)))
    found.backward()
    assert found.item() == 1
    assert ours.grad.abs().max() == 0


def test_an_edit_needs_prompts():
    with pytest.raises(BadValue, match=r"edit_direction .* no `text`; prepare .* text encoder"):
        edit_direction(bare(), step(PRED, ask=lambda: PRED, prompted=EVERYBODY))


def test_the_prior_is_the_mse_of_the_flagged_samples_only():
    pred = torch.stack([torch.full((3, 2, 2), 2.0), torch.full((3, 2, 2), 3.0)]).requires_grad_()
    given = step(pred, batch={"is_prior": torch.tensor([False, True])})
    found = prior(tools(), given)
    assert found.item() == pytest.approx(9 / 2)
    found.backward()
    assert pred.grad[0].abs().sum() == 0
    assert (pred.grad[1] > 0).all()


def test_a_prior_without_a_class_says_what_to_give():
    with pytest.raises(BadValue, match=r"losses\.prior .* data\.prior_share"):
        prior(tools(), step(PRED))


ANN, BOB = (0.0, 0.0), (3.0, 0.0)


def drawn(net, *, time=(0.0, 0.5), batch=None, aesthetic=None, watch=None, asked=None, **weights):
    made = tools(**weights)
    made.aesthetic, made.watch = aesthetic, watch or {}
    given = {
        "time": torch.tensor(time),
        "latents": showing(BOB, BOB).detach(),
        "noise": torch.zeros(2, 3, 2, 2),
        "target_identity": torch.tensor([ANN, ANN]),
    } | (batch or {})
    at = step(PRED, batch=given, ask=net, asked=asked)
    return reward(made, at), at.record


class Painter:
    """A network of one number that paints somebody whatever it is shown; it counts its calls."""

    def __init__(self, who=1.0):
        self.who = torch.tensor(who, requires_grad=True)
        self.schedule, self.calls = NoiseSchedule(BaseModelSettings()), []

    def __call__(self, *, z_t, t):
        self.calls.append((t.tolist(), torch.is_grad_enabled()))
        clean = torch.zeros_like(z_t)
        clean[:, 0, 0, 0] = 1
        clean = clean * self.who / 4
        alpha_bar = self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (z_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def test_a_reward_is_the_distance_of_who_was_painted():
    net = Painter(1.5)
    found, record = drawn(net)
    assert found.item() == pytest.approx(1.5**2, rel=1e-3)
    assert record["reward_identity"].item() == pytest.approx(-(1.5**2), rel=1e-3)
    found.backward()
    assert net.who.grad.item() == pytest.approx(2 * 1.5, rel=1e-3)  # less of it is nearer to Ann


@pytest.mark.parametrize(
    ("kept", "expected"), [(1, [False] * 3 + [True]), (3, [False] + [True] * 3)]
)
def test_only_the_last_steps_keep_gradients_and_each_sample_ends_at_its_own_time(kept, expected):
    net = Painter()
    drawn(net, reward_gradient_steps=kept, time=(0.0, 0.996))
    assert [grad for _, grad in net.calls] == expected
    times = [t for t, _ in net.calls]
    assert times[0] == [800, 800]
    assert times[-1] == [0, 249]


def test_more_steps_with_gradients_give_more_of_the_gradient():
    class Follower(Painter):
        """One that also believes what it sees."""

        def __call__(self, *, z_t, t):
            alpha_bar = self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
            seen = z_t / alpha_bar.sqrt()
            clean = 0.5 * seen + 0.125 * self.who * torch.eye(2)[0].view(1, 1, 1, 2)
            return (z_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()

    gradients = []
    for kept in (1, 2):
        net = Follower()
        drawn(net, reward_gradient_steps=kept, reward_steps=2)[0].backward()
        gradients.append(net.who.grad.item())
    assert gradients[1] > gradients[0] > 0


def test_looks_are_weighed_beside_identity_and_must_be_scored_by_somebody():
    net = Painter(2.0)
    found, record = drawn(
        net, reward_aesthetic=0.5, aesthetic=lambda pictures, _: pictures.amax(dim=(1, 2, 3))
    )
    assert record["reward_aesthetic"].tolist() == pytest.approx([2 * 0.5, 2], rel=1e-3)
    assert found.item() == pytest.approx(4 - 0.5 * 0.5, rel=1e-3)
    with pytest.raises(BadValue, match=r"reward_aesthetic .* Objective\.tools\.aesthetic"):
        drawn(net, reward_aesthetic=0.5)


def test_what_is_watched_is_recorded_and_never_descended():
    net = Painter(2.0)
    plain, _ = drawn(net)
    found, record = drawn(net, watch={"white": lambda pictures, _: pictures.mean(dim=(1, 2, 3))})
    assert found.item() == plain.item()
    assert not record["reward_white"].requires_grad
    assert (record["reward_white"] > 0).all()


def test_who_cannot_be_scored_counts_for_identity_alone_and_is_in_no_recorded_mean():
    def second(pictures, _):
        scores = pictures.amax(dim=(1, 2, 3))
        return torch.where(torch.tensor([False, True]), scores, torch.nan)

    net = Painter(2.0)
    found, record = drawn(net, reward_aesthetic=0.5, aesthetic=second, watch={"w": second})
    assert found.item() == pytest.approx(4 - 0.5 * 0.5 / 2, rel=1e-3)
    for name in ("reward_aesthetic", "reward_w"):
        assert record[name].tolist() == pytest.approx([0.5, 1], rel=1e-3)
    found.backward()
    assert net.who.grad.item() == pytest.approx(4 - 0.5 / 4 / 2, rel=1e-2)


def test_a_class_sample_is_not_rewarded():
    found, _ = drawn(Painter(2.0), asked=[True, False])
    assert found.item() == pytest.approx(4 / 2, rel=1e-3)
