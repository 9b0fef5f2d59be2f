"""The reward on real runs: CLIP hears the captions, and CLIP-T is watched beside it."""

import json
import logging
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from infra.errors import BadValue, BadWeights
from tests.training.conftest import write_features
from training import hacking
from training.alone import main
from training.build import build
from training.engine import PlainEngine
from training.evaluation.metrics import cosines
from training.evaluation.scorers import load_scorer
from training.features import write_index
from training.loop import fit, read_reports
from training.objectives import reward as rewards
from training.preference import Captions, Preference
from training.recipes import tiny
from training.settings import (
    BaseModelSettings,
    DataSettings,
    DropSettings,
    LossSettings,
    MethodSettings,
    Scale,
)

CLIP = "random:tiny-clip"
SAID = ("a person reading", "", "a person asleep", "a person at sea")
BOTH = {"reward_scorer": CLIP, "reward_aesthetic": 0.5, "reward_watch": CLIP}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_features(
        tmp_path_factory.mktemp("told") / "features", shape=(4, 16, 16), codec="random:tiny-sd",
        text=(77, 32), dim=128,
    )  # fmt: skip
    return caption(folder, SAID)


def caption(folder, said):
    rows = pq.read_table(folder / "index.parquet").to_pylist()
    write_index(folder, [row | {"caption": said[int(row["id"]) % len(said)]} for row in rows])
    return folder


def recipe(folder, *, of=MethodSettings(), drop=DropSettings(), **losses):  # noqa: B008
    return replace(
        tiny(),
        base=BaseModelSettings(weights="random:tiny-sd"),
        data=DataSettings(path=str(folder), heldout_share=0.0),
        method=of, drop=drop,
        losses=LossSettings(**({"reward": 1.0, "reward_steps": 2} | losses)),
        steps=2, batch=8, microbatch=4, save_every=9, log_every=1,
    )  # fmt: skip


def joined(parts):
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def captions_at(batches, step):
    """The captions of a step's samples, by the index."""
    every = pq.read_table(batches.prepared.folder / "index.parquet").sort_by("id")["caption"]
    return [every[sample].as_py() for sample in batches._targets(step).tolist()]


def test_a_run_tells_looks_and_clip_t_in_its_reports_and_checkpoints_and_its_fall_aloud(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(hacking, "OVER", 1)
    monkeypatch.setattr(hacking, "FALL", -9.0)  # whatever it does is a fall
    words = [
        "base.weights=random:tiny-sd", "losses.reward=1", "losses.reward_steps=2",
        "losses.reward_aesthetic=0.1", f"losses.reward_scorer={CLIP}",
        f"losses.reward_watch={CLIP}", "steps=2", "log_every=1", "data.heldout_share=0",
    ]  # fmt: skip
    to = ["--data", str(folder), "--out", str(tmp_path / "run")]
    assert main(["tiny", *to, *(each for word in words for each in ("--set", word))]) == 0
    reports = read_reports(tmp_path / "run/reports.jsonl")
    for report in reports:
        assert {"reward_identity", "reward_aesthetic", "reward_clip_t"} <= report.losses.keys()
        assert -1 < report.losses["reward_clip_t"] < 1
    done = json.loads((tmp_path / "run/step-0000002/done.json").read_text())
    assert done["losses"] == reports[-1].losses
    assert "CLIP-T has fallen from" in capsys.readouterr().out


def test_clip_t_is_that_of_evaluation_on_what_was_decoded_and_each_sample_s_caption(
    folder, monkeypatch
):
    job, seen = build(recipe(folder, **BOTH)), []
    kept = rewards._pictures
    monkeypatch.setattr(rewards, "_pictures", lambda *given: seen.append(kept(*given)) or seen[-1])
    (first, second) = job.batches.micro(0)
    told = [job.method(part) for part in (first, second)]
    scorer, captions = load_scorer("clip", CLIP), captions_at(job.batches, 0)
    bytes_ = (torch.cat(seen).detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    drawn = scorer.pictures(bytes_.numpy())
    said = np.array([caption != "" for caption in captions])
    assert 0 < said.sum() < len(said)
    by_hand = cosines(drawn, scorer.prompts(captions)[0])[said]
    total, count = sum(one["reward_clip_t"] for one in told).tolist()
    assert count == said.sum()
    assert total == pytest.approx(by_hand.sum(), abs=1e-4)
    looks, _ = sum(one["reward_aesthetic"] for one in told).tolist()
    assert looks == pytest.approx(float(scorer.network.logit_scale.exp()) * by_hand.sum(), abs=0.01)


def test_who_has_no_caption_is_left_out_whatever_the_microbatch(folder, tmp_path):
    """A mean of the microbatches' means would count who is alone in one more than others."""
    told = []
    for size in (1, 8):
        ours = replace(recipe(folder, **BOTH), microbatch=size, steps=1)
        job, reports = build(ours), []
        fit(PlainEngine(job.method, ours), job.batches, ours, tmp_path / str(size), reports.append)
        told.append(reports[0].losses)
    assert told[0] == pytest.approx(told[1], rel=1e-3)


def test_a_watch_changes_no_gradient(folder):
    gradients = []
    for watch in ("", CLIP):
        job = build(recipe(folder, mse=0.0, reward_watch=watch))
        told = job.method(next(job.batches.micro(0)))
        assert ("reward_clip_t" in told) == bool(watch)
        told["loss"].backward()
        gradients.append({n: weight.grad for n, weight in job.method.trainable().items()})
    assert not told["reward_clip_t"].requires_grad
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert gradient is other or gradient.equal(other)


def test_a_scorer_s_gradient_is_finite_where_nothing_was_said(folder):
    job = build(recipe(folder, mse=0.0, **BOTH))
    batch = next(job.batches.micro(0))
    told = job.method(batch | {"clip_text": torch.zeros_like(batch["clip_text"])})
    told["loss"].backward()
    assert told["reward_aesthetic"].tolist() == told["reward_clip_t"].tolist() == [0, 0]
    grads = [w.grad for w in job.method.trainable().values() if w.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


def test_two_workers_and_one_that_goes_on_read_the_same_vectors(folder):
    ours = recipe(folder, **BOTH)
    through = build(ours).batches
    list(through.micro(0))
    one = joined(list(through.micro(1)))
    many = build(replace(ours, scale=Scale(workers=2), microbatch=2)).batches
    two = joined([part for rank in (0, 1) for part in many.micro(1, rank, 2)])
    assert one["clip_text"].equal(two["clip_text"])
    captions = captions_at(through, 1)
    wanted = load_scorer("clip", CLIP).prompts(captions)[0]
    for caption_, vector, by_hand in zip(captions, one["clip_text"], wanted, strict=True):
        expected = torch.from_numpy(by_hand) if caption_ else torch.zeros(32)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)


def test_each_caption_is_read_once():
    asked = []

    class Clip(Preference):
        def __init__(self):
            """Load nothing."""

        def vectors(self, prompts):
            asked.extend(prompts)
            return torch.tensor([[float(len(prompt))] for prompt in prompts])

    told = Captions({"clip_text": Clip(), "watch_text": Clip()}, ["one", "three", "one", ""])
    for _ in range(2):
        found = told(np.array([2, 1, 0, 3]))
        assert found["clip_text"].tolist() == found["watch_text"].tolist() == [[3], [5], [3], [0]]
    assert sorted(asked) == ["", "", "one", "one", "three", "three"]


@pytest.mark.parametrize(
    ("losses", "entries"),
    [
        ({}, set()),
        ({"reward_scorer": CLIP}, set()),
        ({"reward_scorer": CLIP, "reward_aesthetic": 0.5}, {"clip_text"}),
        ({"reward_watch": CLIP}, {"watch_text"}),
        (BOTH, {"clip_text"}),
        ({"reward": 0.0, "reward_scorer": CLIP, "reward_aesthetic": 0.5}, set()),
    ],
)
def test_only_what_a_loss_looks_at_is_read_of_captions(folder, losses, entries):
    batch = next(build(recipe(folder, **losses)).batches.micro(0))
    assert {name for name in batch if name.endswith("_text")} == entries


def test_a_scorer_and_a_watch_of_their_own_each_have_their_vectors(folder, tmp_path):
    other = save_clip(tmp_path / "other", 24)
    job = build(recipe(folder, **BOTH | {"reward_watch": f"file:{other}"}))
    batch = next(job.batches.micro(0))
    assert (batch["clip_text"].shape[1], batch["watch_text"].shape[1]) == (32, 24)
    wanted = Preference(f"file:{other}", "reward_watch").vectors(captions_at(job.batches, 0)[:4])
    assert batch["watch_text"].equal(wanted)
    told = job.method(batch)
    assert told["reward_clip_t"][1] == told["reward_aesthetic"][1] == (wanted != 0).any(1).sum()


def save_clip(folder, dim):
    """A folder of another CLIP, its tokenizer beside it."""
    from transformers import CLIPModel

    scorer = load_scorer("clip", CLIP)
    config = type(scorer.network.config)(
        **scorer.network.config.to_dict() | {"projection_dim": dim}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        CLIPModel(config).save_pretrained(folder)
    scorer.tokenizer.save_pretrained(folder)
    return folder


def test_one_person_s_prompt_is_what_clip_hears_of_a_method_that_reads_no_captions(folder):
    of = MethodSettings(kind="lora", lora_rank=2, subject_word="sks")
    ours = recipe(folder, of=of, drop=DropSettings(identity=0.0, text=0.0, both=0.0), **BOTH)
    job = build(replace(ours, data=replace(ours.data, subject="p1"), batch=2, microbatch=2))
    batch = next(job.batches.micro(0))
    wanted = Preference(CLIP).vectors([of.prompt.format(of.class_word)])
    assert batch["clip_text"].equal(wanted.expand(2, -1))
    assert job.method(batch)["reward_clip_t"][1] == 2


def test_a_corpus_without_captions_is_refused_and_some_without_are_told(folder, tmp_path, caplog):
    mute = write_features(
        tmp_path / "mute", shape=(4, 16, 16), codec="random:tiny-sd", text=(77, 32), dim=128
    )
    for key, losses in {
        "reward_watch": {"reward_watch": CLIP},
        "reward_scorer": {"reward_scorer": CLIP, "reward_aesthetic": 1.0},
    }.items():
        with pytest.raises(BadValue, match=rf"losses\.{key} .* caption .* prepare again"):
            build(recipe(mute, **losses))
    with caplog.at_level(logging.WARNING, "training.build"):
        build(recipe(folder, **BOTH))
    assert "6 of 24 samples have no caption" in caplog.text


def test_a_folder_that_is_no_clip_and_a_watch_of_nothing_are_refused(folder, tmp_path):
    for key in ("reward_watch", "reward_scorer"):
        with pytest.raises(BadWeights, match=r"config\.json"):
            build(recipe(folder, **{key: f"file:{tmp_path}"}))
    with pytest.raises(BadValue, match=r"reward_watch .* it watches losses\.reward"):
        LossSettings(reward_watch=CLIP)


def test_a_prompt_that_clip_cuts_is_said_once(caplog):
    clip = Preference(CLIP)
    with caplog.at_level(logging.WARNING, "training.preference"):
        clip.vectors(["a person", *["word " * 99] * 2])
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "cuts prompts that are longer than it reads" in caplog.text
