"""Whose vectors ``loss_gains`` shows a model, on a model that costs what it is shown."""

import numpy as np
import pytest
import torch

from tests.training.conftest import write_features
from training.evaluation.gains import loss_gains
from training.features import Prepared
from training.method import AS_USUAL, Method


class Listener(Method):
    """A model that keeps what it is shown, and is good only when shown the photograph itself."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def trainable(self):
        return {}

    def forward(self, batch):
        self.shown.append((batch["identity"][0], batch["target_identity"][0]))
        away = (batch["identity"] - batch["target_identity"]).abs().max()
        return {"loss": away, "mse": (away > 0).float()}

    def generate(self, condition, rng, sampling=AS_USUAL, *, callback=None):
        raise NotImplementedError

    def save(self, folder):
        raise NotImplementedError

    def read(self, folder):
        raise NotImplementedError


def first_of_each(prepared):
    return np.array([prepared.people.index(name) for name in sorted(set(prepared.people))])


def test_who_only_knows_the_very_photograph_gains_nothing(features):
    prepared, model = Prepared(features), Listener()
    samples = first_of_each(prepared)
    assert np.array_equal(loss_gains(model, prepared, samples), np.zeros(6))
    for i, sample in enumerate(samples.tolist()):
        own, target = model.shown[2 * i]
        name = prepared.people[sample]
        another = [n for n, p in enumerate(prepared.people) if p == name][1]
        assert own.equal(prepared.read("identity", np.array([another]))[0])
        assert target.equal(prepared.read("identity", np.array([sample]))[0])
        strange = model.shown[2 * i + 1][0]
        near = torch.cdist(strange[None], prepared.read("identity", np.arange(24))).argmin()
        assert prepared.people[int(near)] != name


def test_who_has_one_photograph_is_told_by_that_one(tmp_path):
    prepared = Prepared(write_features(tmp_path / "f", photos=1))
    samples = first_of_each(prepared)
    assert loss_gains(Listener(), prepared, samples) == pytest.approx(np.ones(6))
