"""Whose photographs per-subject tuning is shown, and who stands for the class."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue
from tests.training.conftest import write_features
from training.data import Batches
from training.features import Prepared
from training.recipes import tiny
from training.settings import DataSettings, MethodSettings, Scale
from training.subject import training_samples

LORA = MethodSettings(kind="lora", lora_rank=4)


@pytest.fixture
def prepared(features):
    return Prepared(features)


def recipe(method=LORA, **data):
    return replace(tiny(), method=method, data=DataSettings(**data), batch=8, microbatch=8)


def batches(prepared, recipe):
    return Batches(prepared, *_swapped(training_samples(prepared, recipe), recipe))


def _swapped(found, recipe):
    mine, others = found
    return mine, recipe, others


def whose(prepared, batch):
    """Say whose photograph each sample of a batch is."""
    everybody = prepared.read("latents", np.arange(len(prepared)))
    rows = [int((everybody == one).flatten(1).all(1).nonzero()[0]) for one in batch["latents"]]
    return [prepared.people[row] for row in rows]


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_subject_alone_is_trained_on_wherever_the_split_puts_them(prepared, share):
    told = recipe(subject="p3", heldout_share=share)
    mine, others = training_samples(prepared, told)
    assert {prepared.people[sample] for sample in mine} == {"p3"}
    assert len(mine) == 4
    assert len(others) == 0
    batch = next(batches(prepared, told).micro(0))
    assert whose(prepared, batch) == ["p3"] * 8
    assert not batch["is_prior"].any()


def test_a_share_of_every_batch_is_of_the_class_and_flagged(prepared):
    made = batches(prepared, recipe(subject="p3", prior_share=0.25, heldout_share=0.0))
    for step in range(3):
        batch = next(made.micro(step))
        flags = batch["is_prior"].tolist()
        assert sum(flags) == 2
        assert [who != "p3" for who in whose(prepared, batch)] == flags


def test_held_out_people_are_never_of_the_class(prepared):
    told = recipe(subject="p3", prior_share=0.5, heldout_share=0.5)
    _, heldout = prepared.split(0.5)
    _, others = training_samples(prepared, told)
    assert len(others) > 0
    assert not {prepared.people[i] for i in heldout} & {prepared.people[i] for i in others}


def test_the_class_has_references_of_its_own(prepared):
    batch = next(batches(prepared, recipe(subject="p3", prior_share=0.5)).micro(0))
    near = (batch["identity"] - batch["target_identity"]).norm(dim=1)
    assert (near < 1).all()
    assert (near > 0).all()


def test_the_class_comes_alike_on_any_number_of_workers(prepared):
    told = recipe(subject="p3", prior_share=0.5)
    one = next(batches(prepared, told).micro(2))
    two = batches(prepared, replace(told, microbatch=2, scale=Scale(workers=2)))
    parts = [part for rank in (0, 1) for part in two.micro(2, rank, 2)]
    assert all(torch.cat([part[name] for part in parts]).equal(one[name]) for name in one)


def test_a_batch_of_one_has_subject_and_class_by_turns(prepared):
    told = replace(recipe(subject="p3", prior_share=0.5), batch=1, microbatch=1)
    made = batches(prepared, told)
    assert [bool(next(made.micro(step))["is_prior"]) for step in range(4)] == [False, True] * 2


def test_batches_of_everybody_are_as_they_were(prepared):
    told = recipe(method=MethodSettings(), heldout_share=0.0)
    assert "is_prior" not in next(batches(prepared, told).micro(0))


def test_a_corpus_of_one_person_needs_no_name(tmp_path):
    prepared = Prepared(write_features(tmp_path / "one", people=1))
    mine, _ = training_samples(prepared, recipe(heldout_share=0.9))
    assert len(mine) == 4


def test_a_class_in_another_shape_of_picture_is_refused(tmp_path):
    folder = write_features(tmp_path / "two", people=2, shapes=((4, 8, 8), (4, 4, 16)))
    prepared = Prepared(folder)
    mine = np.flatnonzero(np.array([person == "p0" for person in prepared.people]))
    bucket = prepared.buckets[mine[0]]
    others = np.flatnonzero((prepared.buckets != bucket) & ~np.isin(np.arange(8), mine))
    with pytest.raises(BadValue, match="nobody else has a picture in the shape of bucket"):
        Batches(prepared, mine, recipe(subject="p0", prior_share=0.5), others)


@pytest.mark.parametrize(
    ("data", "people", "why"),
    [
        ({"subject": "p33"}, 6, "nobody there has that name; did you mean 'p3'"),
        ({"subject": "somebody"}, 6, "see `person` in its index"),
        ({}, 6, "lora learns one person; name one of the 6"),
        ({"prior_share": 0.5}, 6, "name a data.subject with it"),
        ({"subject": "p0", "prior_share": 0.5}, 1, "nobody else is there"),
    ],
)
def test_a_subject_that_cannot_be_is_refused(tmp_path, data, people, why):
    prepared = Prepared(write_features(tmp_path / "some", people=people))
    with pytest.raises(BadValue, match=why):
        training_samples(prepared, recipe(**data))


def test_a_prior_share_is_a_share():
    with pytest.raises(BadValue, match="prior_share"):
        DataSettings(subject="p0", prior_share=1.0)


def test_people_held_out_say_nothing_of_one_person():
    with pytest.raises(BadValue, match="validate_people cannot be 4: lora learns one person"):
        replace(tiny(), method=LORA, validate_people=4)
