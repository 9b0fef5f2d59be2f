"""A preference of pictures: CLIP's logit, with gradients."""

import numpy as np
import pytest
import torch

from infra.errors import BadValue
from training.evaluation.scorers import load_scorer
from training.preference import Preference

CLIP = "random:tiny-clip"
PROMPTS = ["a person reading", "a person asleep"]


def pictures(count=2, seed=0):
    return torch.rand(count, 3, 24, 32, generator=torch.Generator().manual_seed(seed))


def test_a_score_is_the_cosine_times_clip_s_inverse_temperature():
    made, scorer = Preference(CLIP), load_scorer("clip", CLIP)
    rounded = (pictures() * 255).round()
    bytes_ = rounded.byte().permute(0, 2, 3, 1).numpy()
    seen, told = scorer.pictures(bytes_), scorer.prompts(PROMPTS)[0]
    cosine = (seen * told).sum(1) / np.linalg.norm(seen, axis=1) / np.linalg.norm(told, axis=1)
    scale = float(scorer.network.logit_scale.exp())
    batch = {"clip_text": made.vectors(PROMPTS)}
    np.testing.assert_allclose(made(rounded / 255, batch).numpy(), scale * cosine, rtol=1e-4)


def test_it_can_be_descended_to_the_picture_and_trains_nothing_of_its_own():
    made, shown = Preference(CLIP), pictures().requires_grad_()
    made(shown, {"clip_text": made.vectors(PROMPTS).clone()}).sum().backward()
    assert (shown.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(weight.grad is None for weight in made._scorer.network.parameters())


def test_it_wants_the_vectors_of_the_prompts():
    with pytest.raises(BadValue, match=r"reward_scorer .* no `clip_text`; make it with training"):
        Preference(CLIP)(pictures(), {})
