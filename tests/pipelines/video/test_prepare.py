"""Clips that were curated become what a model of videos is trained on."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from infra.errors import BadValue, UnreadableSource
from pipelines.cli import main
from pipelines.video.exported import Pair, frames_of, read_clips
from pipelines.video.prepare import prepare_videos, sample_pairs
from pipelines.video.prepare_recipes import recipe
from pipelines.video.prepare_samples import landmarks_at, samples_of
from pipelines.video.prepare_shards import Plan, load_models, on_grid, write_empty, write_shard
from tests.pipelines.video.made_export import make_export
from training.features import Prepared
from training.video.flow import frames_behind

TINY = replace(recipe("video_tiny"), fps=25.0)
FULL = replace(recipe("video_tiny_cogvideox"), fps=25.0, image_encoder="random:tiny-clip")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def clips(export):
    return read_clips(export)


def shard(export, folder, clips, asked):
    """Write one shard without Ray; return its tensors."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    plan = Plan(asked, str(export), folder, ())
    load_models.cache_clear()
    write_empty("", plan)
    assert write_shard((0, clips), plan) == len(clips)
    return load_file(folder / "shards/shard-00000.safetensors")


def test_a_window_shows_the_face_where_its_landmarks_and_its_mask_are(export, clips):
    counts = Counter()
    made = samples_of(str(export), clips[0], TINY, counts)
    assert len(made) == TINY.windows_per_clip
    assert not counts
    for sample in made:
        assert len(sample.frames) == 4
        assert sample.frames[0].shape == (32, 32, 3)
        assert sample.seen.all()
        masks = sample.masks()
        for mask, points in zip(masks, sample.landmarks_px, strict=True):
            x, y = points.mean(0).astype(int)
            assert mask[y, x]
            assert 0.02 < mask.mean() < 0.9
    starts = [sample.start for sample in made]
    assert starts == sorted(set(starts))
    assert all(a.end <= b.start for a, b in itertools.pairwise(made))


def test_the_identity_is_that_of_the_person_and_not_of_the_other(export, clips):
    by_person = {}
    for clip in clips:
        for sample in samples_of(str(export), clip, replace(TINY, windows_per_clip=1), Counter()):
            by_person.setdefault(clip.person, []).append(sample.identity)
    (first, third), (second,) = sorted(by_person.values(), key=len, reverse=True)
    assert np.linalg.norm(first - third) < 0.4
    assert np.linalg.norm(first - second) > 0.6


def test_landmarks_move_on_a_line_between_looks_and_are_nowhere_outside(clips):
    clip = clips[0]
    track = clip.main
    looked = np.array(track.frames) - clip.start_frame
    middle = (looked[0] + looked[1]) // 2
    frames = np.array([looked[0], middle, looked[-1], looked[-1] + 1])
    points, seen = landmarks_at(clip, track, frames)
    assert seen.tolist() == [True, True, True, False]
    told = np.array(track.landmarks_px).reshape(-1, 5, 2)
    np.testing.assert_allclose(points[0], told[0], atol=1e-3)
    share = (middle - looked[0]) / (looked[1] - looked[0])
    np.testing.assert_allclose(points[1], told[0] + share * (told[1] - told[0]), atol=1e-2)
    assert not points[3].any()
    far = replace(track, frames=[track.frames[0], track.frames[0] + 60],
                  landmarks_px=track.landmarks_px[:2])  # fmt: skip
    assert landmarks_at(clip, far, looked[0] + np.array([0, 30, 60]))[1].tolist() == [
        True, False, True,
    ]  # fmt: skip


def test_latents_are_those_of_the_cut_frames(export, clips, tmp_path):
    asked = replace(TINY, windows_per_clip=1)
    held = shard(export, tmp_path, clips[:1], asked)
    (sample,) = samples_of(str(export), clips[0], asked, Counter())
    codec = load_models(Plan(asked, str(export), tmp_path, ())).codec
    video = torch.from_numpy(np.stack(sample.frames)).permute(3, 0, 1, 2)[None].float() / 255
    torch.testing.assert_close(held["latents"], codec.encode(video).half(), atol=2e-2, rtol=1e-2)
    assert held["latents"].shape == (1, 4, 4, 8, 8)
    assert held["text"].shape == held["attributes_text"].shape == (1, 77, 32)
    source = frames_of(export, clips[0], [sample.start])[0]
    assert abs(float(np.mean(sample.frames[0])) - float(np.mean(source))) < 40


def test_a_causal_codec_gets_all_that_its_methods_look_at(export, clips, tmp_path):
    held = shard(export, tmp_path, clips[:1], replace(FULL, windows_per_clip=2))
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in held.items()}
    assert shapes == {
        "latents": (4, 3, 8, 8), "mask": (3, 8, 8), "motion": (3, 8, 8), "landmarks": (3, 5, 2),
        "seen": (3,), "identity": (128,), "image": (17, 32), "face_states": (5, 17, 32),
        "face_pooled": (32,), "reference_latents": (4, 8, 8), "text": (16, 32),
        "attributes_text": (16, 32),
    }  # fmt: skip
    assert held["mask"].max() <= 1
    assert held["motion"].any()
    assert not (held["motion"].float() > held["mask"].float() + 1e-3).any()


def test_maps_are_averaged_over_what_a_latent_stands_for():
    maps = torch.zeros(9, 8, 8)
    maps[1:5, :4, :4] = 1
    small = on_grid(maps, frames_behind(9, 3), 2, 2)
    assert small[:, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert not small[:, 1].any()


def test_clips_that_cannot_be_learnt_are_counted_by_reason(export, clips):
    for changes, reason in (
        ({"frames": 60}, "too_short"),
        ({"fps": 60.0}, "too_few_fps"),
        ({"sizes": ("1024x1024",)}, "too_small"),
    ):
        counts = Counter()
        assert samples_of(str(export), clips[0], replace(TINY, **changes), counts) == []
        assert counts == {reason: 1}
    two = replace(clips[0], tracks=[*clips[0].tracks, replace(clips[0].main, track_id=9)])
    counts = Counter()
    asked = replace(TINY, alone=True, windows_per_clip=1)
    assert samples_of(str(export), two, asked, counts) == []
    assert counts == {"several_people": 1}
    assert samples_of(str(export), two, replace(asked, alone=False), counts)


def row(id_, clip, start, end, person="p"):
    return {"id": id_, "clip": clip, "start": start, "end": end, "person": person}


def test_samples_are_paired_as_their_moments_are():
    rows = [row("a0", "a", 0, 10), row("a1", "a", 20, 30), row("b0", "b", 0, 10),
            row("c0", "c", 0, 10, "q")]  # fmt: skip

    def pair(target, span, shown, frame, kind):
        return Pair(target, *span, shown, frame, [0.0] * 4, kind)

    assert sample_pairs(rows, [pair("a", (0, 12), "b", 3, "clip")]) == [("b0", "a0")]
    assert sample_pairs(rows, [pair("a", (0, 12), "a", 25, "moment")]) == [("a1", "a0")]
    assert sample_pairs(rows, [pair("a", (0, 30), "a", 25, "moment")]) == [("a1", "a0")]
    assert sample_pairs(rows, [pair("a", (0, 12), "a", 15, "moment")]) == []
    assert sample_pairs(rows, [pair("a", (0, 12), "c", 3, "clip")]) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sizes": ()}, "at least one"), ({"sizes": ("a",)}, "720x480"),
     ({"sizes": ("33x64",)}, "multiples of 8"), ({"fps": 0.0}, "fps"), ({"frames": 1}, "frames"),
     ({"sizes": ("32x32", "64x32"), "reference_latents": True}, "one size")],
)  # fmt: skip
def test_a_recipe_that_cannot_work_is_refused(changes, said):
    with pytest.raises(BadValue, match=said):
        replace(TINY, **changes)


def test_what_is_no_export_is_refused(tmp_path, capsys):
    with pytest.raises(UnreadableSource, match=r"Give --corpus"):
        prepare_videos(TINY, str(tmp_path / "out"), Console(quiet=True))
    assert main(["prepare", "video_tiny", "--corpus", str(tmp_path), "--out", "x"]) == 2
    assert "faceid_video" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_command_prepares_once_and_what_it_prepared_is_trained_on(export, tmp_path, capsys):
    out = tmp_path / "features"
    ask = ["prepare", "video_tiny", "--corpus", str(export), "--out", str(out), "--fps", "25",
           "--stills", "--json"]  # fmt: skip
    assert main(ask) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["clips"], told["people"]) == (3, 2)
    prepared = Prepared(out)
    assert prepared.features.latent_shapes == ((4, 4, 8, 8), (4, 1, 8, 8))
    assert (prepared.features.frames, prepared.features.clip_frames) == (4, 4)
    assert len(prepared) == told["samples"]
    assert told["pairs"] > 0
    assert prepared.references
    before = {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    assert main(ask) == 0
    assert {p.name: p.stat().st_mtime_ns for p in (out / "shards").iterdir()} == before
    run = ["train", "video_tiny", "--data.path", str(out), "--steps", "2", "--save-every", "2",
           "--out", str(tmp_path / "trained")]  # fmt: skip
    assert main(run) == 0
