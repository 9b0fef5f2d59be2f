from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue, UnreadableSource
from tests.training.many import train
from tests.training.videos import COGVIDEOX, recipe, write_videos
from training.build import build
from training.data import Batches
from training.features import Prepared
from training.loss_settings import LossSettings
from training.preferences import PREFERENCES_FILE, PairBatches, read_preferences, write_preferences
from training.settings import DataSettings, MethodSettings
from training.video.mining import Preference

MAGIC = MethodSettings(kind="magic_id", lora_rank=2)
FIRST = [Preference("0000", f"000{n}", f"000{n}", 1) for n in (1, 2, 3)]
SECOND = [Preference(f"000{n}", "0004", f"000{n}", 2) for n in (5, 6)]


@pytest.fixture
def folder(tmp_path):
    home = write_videos(tmp_path / "features", COGVIDEOX, people=1, clips=8)
    write_preferences(home, [*FIRST, *SECOND])
    return home


def asked(folder, **changes):
    how = {"method": MAGIC, "losses": LossSettings(mse=0.0, dpo=1.0), "batch": 2} | changes
    return recipe(folder, COGVIDEOX, **{"microbatch": 2} | how)


def steps(batches, count=4, **many):
    return [torch.cat([b["loser_latents"] for b in batches.micro(s, **many)]) for s in range(count)]


def test_a_run_learns_the_pairs_of_stage_1_first_and_then_those_of_stage_2(folder):
    told = asked(folder, losses=LossSettings(mse=0.0, dpo=1.0, dpo_first_stage=0.25))
    batches, latents = build(told).batches, Prepared(folder).read("latents", np.arange(8))
    for step in range(told.steps):
        (batch,) = batches.micro(step)
        for won, lost in zip(batch["latents"], batch["loser_latents"], strict=True):
            numbers = [int((latents == each).flatten(1).all(1).nonzero()) for each in (won, lost)]
            if step == 0:
                assert numbers[0] == 0
                assert numbers[1] in (1, 2, 3)
            else:
                assert numbers[0] in (5, 6)
                assert numbers[1] == 4


def test_both_of_a_pair_are_told_one_text_and_have_one_noise_and_time(folder):
    prepared = Prepared(folder)
    batches = build(
        asked(folder, losses=LossSettings(mse=0.0, dpo=1.0, dpo_first_stage=1.0))
    ).batches
    text, latents = (prepared.read(name, np.arange(8)) for name in ("text", "latents"))
    (batch,) = batches.micro(0)
    for told, lost in zip(batch["text"], batch["loser_latents"], strict=True):
        number = int((latents == lost).flatten(1).all(1).nonzero())
        assert torch.equal(told, text[number]), "stage 1 here is told what its losers were"
    assert batch["noise"].shape == batch["loser_latents"].shape == batch["latents"].shape
    assert batch["time"].shape == (2,)


def test_all_pairs_of_a_stage_come_before_one_comes_again(folder):
    prepared = Prepared(folder)
    pairs = read_preferences(prepared, np.arange(8))
    seen = steps(PairBatches(prepared, pairs, asked(folder, batch=1, microbatch=1)))
    assert not torch.equal(seen[0], seen[1]), "stage 1: another loser each"
    assert torch.equal(seen[2], seen[3]), "stage 2: one loser for both winners"


def test_numbers_of_workers_change_no_pair(folder):
    one = steps(build(asked(folder)).batches)
    two = [build(asked(folder)).batches for _ in range(2)]
    halves = [steps(batches, rank=rank, world=2) for rank, batches in enumerate(two)]
    for whole, first, second in zip(one, *halves, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))


def test_without_a_loss_over_pairs_they_are_not_looked_at(folder):
    batches = build(asked(folder, losses=LossSettings())).batches
    assert type(batches) is Batches


def test_training_prefers_what_was_written(folder, tmp_path):
    told = asked(folder, losses=LossSettings(mse=0.0, dpo=1.0, dpo_beta=100.0))
    losses = train(told, tmp_path / "run")["losses"]
    assert len(losses) == 4
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)


def test_a_run_over_pairs_goes_on_where_it_ended(folder, tmp_path):
    told = asked(folder, save_every=2)
    whole = train(told, tmp_path / "whole")["losses"]
    first = train(replace(told, steps=3), tmp_path / "cut")["losses"]
    rest = train(told, tmp_path / "cut")["losses"]
    assert len(first) == 3
    assert rest == pytest.approx(whole[3:], abs=1e-6)


# What cannot be used.


def test_pairs_that_a_run_may_not_see_are_counted_and_none_ends_in_one_sentence(tmp_path, caplog):
    home = write_videos(tmp_path / "features", COGVIDEOX, people=2, clips=2)
    mine, mixed = Preference("0000", "0002", "0000", 1), Preference("0001", "0003", "0001", 1)
    write_preferences(home, [mine, mixed])
    told = asked(home, data=DataSettings(subject="p0"))
    told = replace(told, data=replace(told.data, path=str(home), subject="p0"))
    pairs = build(told).batches.pairs
    assert pairs.winner.tolist() == [0]
    assert pairs.left_out["not trained on"] == 1
    assert "1 of 2 pairs of preferences are not trained on" in caplog.text
    write_preferences(home, [mixed])
    with pytest.raises(UnreadableSource, match="none of its 1 pairs is usable: 1 are not trained"):
        build(told)


def test_pairs_of_two_shapes_are_left_out(tmp_path):
    home = write_videos(
        tmp_path / "features", COGVIDEOX, people=1, clips=4, shapes=((1, 8), (3, 8))
    )
    write_preferences(
        home, [Preference("0000", "0001", "0000", 1), Preference("0001", "0003", "0001", 1)]
    )
    pairs = read_preferences(Prepared(home), np.arange(4))
    assert pairs.winner.tolist() == [1]
    assert pairs.left_out["of two shapes"] == 1


def test_unknown_samples_a_missing_file_no_pairs_and_a_prior_are_refused(folder):
    prepared = Prepared(folder)
    write_preferences(folder, [Preference("0000", "gone", "0000", 1)])
    with pytest.raises(UnreadableSource, match="1 samples that were not prepared, such as 'gone'"):
        read_preferences(prepared, np.arange(8))
    (folder / PREFERENCES_FILE).unlink()
    with pytest.raises(UnreadableSource, match=r"it has no preferences\.parquet"):
        build(asked(folder))
    with pytest.raises(UnreadableSource, match="no candidate is clearly better"):
        write_preferences(folder, [])
    write_preferences(folder, FIRST)
    pairs = read_preferences(prepared, np.arange(8))
    told = asked(folder)
    told = replace(told, data=replace(told.data, prior_share=0.5, subject="p0"))
    with pytest.raises(BadValue, match="pairs are all of the subject"):
        PairBatches(prepared, pairs, told)
