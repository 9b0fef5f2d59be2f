from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue, UnreadableSource
from tests.training.conftest import write_features
from training.data import Batches
from training.features import Prepared
from training.order import Order
from training.recipes import tiny
from training.settings import Scale


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


def test_each_sample_says_how_far_the_run_is(batches):
    made = batches(microbatch=8, steps=4)
    told = torch.cat([batch["progress"] for step in range(4) for batch in made.micro(step)])
    assert told.equal(torch.arange(len(told)) / len(told))


def test_nothing_to_train_on_is_refused(features):
    with pytest.raises(BadValue, match="no samples"):
        Batches(Prepared(features), np.array([], dtype=np.int64), tiny())


def test_the_next_step_is_read_while_this_one_is_computed(batches, monkeypatch):
    asked = []
    made = batches(microbatch=4, steps=3)
    read = made._step
    monkeypatch.setattr(made, "_step", lambda *key: asked.append(key) or read(*key))
    first = made.micro(0)
    next(first)
    made._reader.submit(int).result()  # everything asked for before is done now
    assert asked == [(0, 0, 1), (1, 0, 1)]
    for step in (1, 2):
        list(made.micro(step))
    assert asked == [(0, 0, 1), (1, 0, 1), (2, 0, 1)], "and nothing past the end"


def test_a_failure_to_read_ahead_is_raised_where_the_step_is_wanted(batches, features):
    made = batches(microbatch=8)
    list(made.micro(0))
    made._reader.submit(int).result()
    made.prepared._tensors.clear()
    for shard in (features / "shards").iterdir():
        shard.unlink()
    list(made.micro(1))
    with pytest.raises(UnreadableSource, match="does not exist"):
        list(made.micro(2))


def test_text_is_of_the_target_and_the_image_of_the_reference(tmp_path):
    prepared = Prepared(
        write_features(tmp_path / "f", text=(3, 16), pooled=8, image=(5, 32), photos=2)
    )
    samples = np.arange(len(prepared))
    batch = next(Batches(prepared, samples, replace(tiny(), batch=6, microbatch=6)).micro(0))
    assert {name: tuple(batch[name].shape[1:]) for name in ("text", "pooled", "image", "size")} == {
        "text": (3, 16), "pooled": (8,), "image": (5, 32), "size": (6,),
    }  # fmt: skip
    every = {name: prepared.read(name, samples) for name in ("identity", "text", "image")}
    for i in range(6):
        target = int((every["identity"] - batch["target_identity"][i]).norm(dim=1).argmin())
        reference = int((every["identity"] - batch["identity"][i]).norm(dim=1).argmin())
        assert target != reference
        assert batch["text"][i].equal(every["text"][target])
        assert batch["image"][i].equal(every["image"][reference])


SHAPES = ((4, 8, 8), (4, 6, 10), (4, 10, 6))


@pytest.fixture
def bucketed(tmp_path):
    prepared = Prepared(write_features(tmp_path / "b", photos=5, shapes=SHAPES))

    def make(**changes):
        recipe = replace(tiny(), batch=4, **changes)
        return Batches(prepared, np.arange(len(prepared)), recipe)

    return make


def test_every_microbatch_of_every_worker_has_the_steps_one_shape(bucketed):
    one, two = bucketed(microbatch=4), bucketed(microbatch=1, scale=Scale(workers=2))
    seen = set()
    for step in range(12):
        whole = joined(list(one.micro(step)))
        parts = joined([part for rank in (0, 1) for part in two.micro(step, rank, 2)])
        assert all(whole[name].equal(parts[name]) for name in whole)
        assert whole["noise"].shape == whole["latents"].shape
        assert whole["mask"].shape[1:] == whole["latents"].shape[2:]
        seen.add(tuple(whole["latents"].shape[1:]))
    assert seen == set(SHAPES)


def test_a_bucketed_run_goes_on_in_the_middle_as_it_would_have(bucketed):
    through = bucketed(microbatch=4)
    for step in range(9):
        list(through.micro(step))
    fresh = next(bucketed(microbatch=4).micro(9))
    gone_on = next(through.micro(9))
    assert all(fresh[name].equal(gone_on[name]) for name in fresh)


def test_no_sample_of_any_bucket_is_left_out_or_comes_early():
    buckets = np.repeat([0, 1, 2], [50, 7, 3])
    order = Order(np.arange(60), buckets, batch=8, seed=1)
    steps = [order.at(step) for step in range(60)]
    assert all(len(set(buckets[step])) == 1 for step in steps)
    counts = np.bincount(np.concatenate(steps), minlength=60)
    for bucket in range(3):
        mine = counts[buckets == bucket]
        assert mine.max() - mine.min() <= 1, "a bucket's samples come equally often"
    assert abs(counts[buckets == 0].mean() - 8) < 0.5
    assert np.all(np.abs([counts[buckets == b].mean() - 8 for b in (1, 2)]) < 8 / 3 + 1e-9)


def test_buckets_take_turns_inside_an_epoch():
    order = Order(np.arange(64), np.repeat([0, 1], 32), batch=4, seed=0)
    turns = [int(order.at(step)[0] >= 32) for step in range(16)]
    assert sorted(turns) == [0] * 8 + [1] * 8
    assert turns not in ([0] * 8 + [1] * 8, [1] * 8 + [0] * 8)
    assert turns != [int(order.at(step)[0] >= 32) for step in range(16, 32)]


def test_the_order_without_buckets_is_the_one_that_runs_were_measured_with():
    order = Order(np.arange(5), np.zeros(5, dtype=np.int64), batch=5, seed=0)
    first = np.random.default_rng([0, 0]).permutation(5)
    second = np.random.default_rng([0, 1]).permutation(5)
    assert order.at(0).tolist() == first.tolist()
    assert order.at(1).tolist() == second.tolist()


def test_what_is_told_of_captions_is_of_the_target_and_the_same_for_every_worker(batches):
    one, two = batches(microbatch=8), batches(microbatch=2, scale=Scale(workers=2))
    for made in (one, two):
        made.captions = lambda samples: {"clip_text": torch.from_numpy(samples.copy())[:, None]}
    whole = joined(list(one.micro(3)))
    parts = joined([part for rank in (0, 1) for part in two.micro(3, rank, 2)])
    assert whole["clip_text"].equal(parts["clip_text"])
    of_targets = one.prepared.read("latents", whole["clip_text"][:, 0].numpy())
    assert of_targets.equal(whole["latents"])
    assert "clip_text" not in next(batches(microbatch=8).micro(3))
