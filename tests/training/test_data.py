from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue
from training.data import Batches
from training.features import Prepared
from training.recipes import Scale, tiny


@pytest.fixture
def batches(features):
    prepared = Prepared(features)

    def make(**changes):
        recipe = replace(tiny(), batch=8, **changes)
        return Batches(prepared, np.arange(len(prepared)), recipe)

    return make


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def test_the_same_samples_and_draws_come_whatever_the_number_of_workers(batches):
    one = joined(list(batches(microbatch=8).micro(5)))
    two = batches(microbatch=2, scale=Scale(workers=2))
    both = joined([part for rank in (0, 1) for part in two.micro(5, rank, 2)])
    assert one.keys() == both.keys()
    assert all(one[name].equal(both[name]) for name in one)


def test_a_step_is_the_same_whatever_came_before(batches):
    fresh, used = batches(microbatch=8), batches(microbatch=8)
    for step in range(7):
        list(used.micro(step))
    assert next(fresh.micro(7))["noise"].equal(next(used.micro(7))["noise"])
    assert next(fresh.micro(7))["latents"].equal(next(used.micro(7))["latents"])


def test_every_epoch_shows_every_sample_once_in_another_order(batches):
    made = batches(microbatch=8)
    epochs = [
        torch.cat([next(made.micro(step))["latents"] for step in range(3 * e, 3 * e + 3)])
        for e in (0, 1)
    ]
    sums = [sorted(epoch.sum(dim=(1, 2, 3)).tolist()) for epoch in epochs]
    assert sums[0] == sums[1]
    assert not epochs[0].equal(epochs[1])


def test_the_reference_is_another_photograph_of_the_same_person(batches):
    batch = next(batches(microbatch=8).micro(0))
    away = (batch["identity"] - batch["target_identity"]).norm(dim=1)
    assert bool((away > 0).all())
    assert bool((away < 1).all()), "photographs of one person differ little here"


def test_another_seed_draws_otherwise(batches):
    a, b = (next(batches(microbatch=8, seed=seed).micro(0)) for seed in (0, 1))
    assert not a["noise"].equal(b["noise"])


def test_nothing_to_train_on_is_refused(features):
    with pytest.raises(BadValue, match="no samples"):
        Batches(Prepared(features), np.array([], dtype=np.int64), tiny())
