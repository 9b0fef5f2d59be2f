"""A plan against what a step then really holds; and what it refuses."""

from dataclasses import replace
from itertools import chain

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import BadValue
from pipelines.cluster.errands import errand
from tests.training.videos import MOVING, WITH_PICTURE, recipe, write_videos
from training.build import build, load_export
from training.engine import PlainEngine
from training.features import EMPTY_FILE, Features, Prepared
from training.nets.consis_id import ADDED
from training.nets.video_presets import load_video_network
from training.published.video import consis_id_cogvideox_5b_8xh200, consis_id_local_cogvideox_5b
from training.settings import MethodSettings, OptimiserSettings, Scale
from training.video.activations import activations_bytes
from training.video.plan import check_fits, described, device_bytes, plan_video
from training.video.settings import VideoSettings

KIND = MethodSettings(kind="consis_id", identity_norm="raw")
CHECKPOINTED = Scale(gradient_checkpointing=True)
GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("plan") / "features", WITH_PICTURE)


@pytest.fixture(scope="module")
def as_published(tmp_path_factory):
    """Features of 49 frames of 480 x 720 px, without any of them."""
    folder = write_videos(tmp_path_factory.mktemp("large") / "features", WITH_PICTURE)
    told = replace(
        Features.read(folder), image_px=588, codec="random:cogvideox-5b-i2v",
        latent_shape=(16, 60, 90), text_shape=(226, 4096), frames=13, clip_frames=49,
        identity_dim=512, identity_mean=(0.0,) * 512, identity_std=(1.0,) * 512,
        face_pooled_dim=768, face_states_shape=(5, 577, 1024),
    )  # fmt: skip
    told.write(folder)
    save_file({"text": torch.zeros(226, 4096)}, folder / EMPTY_FILE)
    return Prepared(folder)


def planned(folder, base=WITH_PICTURE, **changes):
    return plan_video(recipe(folder, base, **({"method": KIND} | changes)), Prepared(folder))


def size_bytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trained", ["all", "added"])
def test_what_is_planned_is_what_the_engine_then_holds(folder, precision, trained):
    how = recipe(
        folder, WITH_PICTURE, method=KIND, video=VideoSettings(trained=trained),
        scale=Scale(precision=precision), optimiser=OptimiserSettings(ema_decay=0.9),
    )  # fmt: skip
    plan = plan_video(how, Prepared(folder))
    job = build(how)
    engine = PlainEngine(job.method, how)
    (batch,) = job.batches.micro(0)
    engine.micro(batch, 1.0)
    weights = list(job.method.trainable().values())
    assert plan.trained == sum(weight.numel() for weight in weights)
    assert plan.gradients_bytes == size_bytes(weight.grad for weight in weights)
    assert plan.weights_bytes == size_bytes(job.method.network.parameters())
    engine.step()
    moments = chain.from_iterable(state.values() for state in engine.optimiser.state.values())
    held = size_bytes(each for each in moments if each.ndim) + size_bytes(
        engine.average.held.values()
    )
    assert plan.optimiser_bytes == held
    halves = {n for n, w in job.method.network.named_parameters() if w.dtype == torch.bfloat16}
    assert bool(halves) is (precision == "bf16" and trained == "added")
    assert not any(name.startswith(ADDED) for name in halves)


def test_what_is_kept_for_the_way_back_is_what_autograd_then_keeps(folder):
    how = recipe(folder, WITH_PICTURE, method=KIND)
    method = build(how).method
    mine = {weight.untyped_storage().data_ptr() for weight in method.parameters()}
    (batch,) = build(replace(how, batch=1, microbatch=1)).batches.micro(0)
    told, held = method.conditions.whole(batch), {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = method._predict(batch["latents"], torch.tensor([5]), told)
    with torch.device("meta"):
        empty = build(how).method.to("meta")
    assert alive.requires_grad
    assert activations_bytes(empty, torch.float32) == pytest.approx(sum(held.values()), rel=0.1)


def test_checkpointing_and_fewer_bits_are_seen_in_the_plan(folder):
    full, checked = planned(folder), planned(folder, scale=CHECKPOINTED)
    half = planned(folder, scale=Scale(precision="bf16"))
    assert checked.activations_bytes < 0.7 * full.activations_bytes
    assert half.activations_bytes < 0.7 * full.activations_bytes
    assert planned(folder, microbatch=2).activations_bytes == full.activations_bytes // 2
    shared = planned(folder, scale=Scale(workers=2, sequence=2))
    assert (shared.samples, shared.activations_bytes) == (4, full.activations_bytes // 2)


def test_zero_divides_what_it_says_among_the_workers(folder):
    alone = planned(folder)
    two = planned(folder, scale=Scale(workers=4, zero_stage=2, offload=True))
    three = planned(folder, scale=Scale(workers=4, zero_stage=3))
    assert two.weights_bytes == alone.weights_bytes
    assert two.gradients_bytes == alone.gradients_bytes // 4
    assert (two.optimiser_bytes, two.host_bytes) == (0, 12 * alone.trained // 4)
    assert "of the CPU's" in two.told()
    assert three.weights_bytes == alone.weights_bytes // 4
    assert three.optimiser_bytes == two.host_bytes


@pytest.mark.slow
def test_the_published_setting_is_planned_without_its_memory(as_published):
    plan = plan_video(consis_id_cogvideox_5b_8xh200(), as_published)
    assert plan.tokens == 226 + 13 * 30 * 45
    assert plan.trained == plan.parameters == pytest.approx(6.162e9, rel=1e-3)
    # Of one sample at least the inputs of 42 blocks and 21 cross-attentions, in bfloat16.
    inputs = 63 * 17_550 * 3072 * 2
    assert 2 * inputs < plan.activations_bytes < 2 * 1.5 * inputs
    assert "17,776 tokens in each of 2 samples" in plan.told()
    check_fits(plan, consis_id_cogvideox_5b_8xh200(), 139 * GIB)


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_what_helps(as_published):
    local = consis_id_local_cogvideox_5b()
    plan = plan_video(local, as_published)
    assert plan.trained == pytest.approx(592e6, rel=1e-3)
    check_fits(plan, local, 40 * GIB)
    plain = replace(local, scale=replace(local.scale, gradient_checkpointing=False))
    with pytest.raises(BadValue, match=r"the 40\.0 GiB .*Give scale\.gradient_checkpointing True"):
        check_fits(plan_video(plain, as_published), plain, 40 * GIB)


def test_the_longest_bucket_is_planned(tmp_path):
    mixed = write_videos(tmp_path / "mixed", WITH_PICTURE, shapes=((1, 8), (3, 8)))
    assert planned(mixed).tokens == 16 + 3 * 4 * 4


def test_a_unet_is_planned_too(tmp_path):
    moving = write_videos(tmp_path / "moving", MOVING)
    plan = planned(moving, MOVING, method=MethodSettings(kind="id_animator", tokens=4))
    assert plan.tokens == 4 * 8 * 8
    assert plan.activations_bytes > 0


def test_a_base_in_a_folder_is_planned_by_its_size_alone(tmp_path, folder):
    how = recipe(folder, WITH_PICTURE, method=KIND)
    for name, network in (
        ("grown", build(how).method.network), ("base", load_video_network(how.base)),
    ):  # fmt: skip
        network.save_pretrained(tmp_path / name / "transformer")
        next((tmp_path / name / "transformer").glob("*.safetensors")).write_bytes(b"unread")
        base = replace(how.base, weights=f"file:{tmp_path / name}")
        plan = plan_video(replace(how, base=base), Prepared(folder))
        added = sum(weight.numel() for weight in network.parameters())
        assert plan.parameters >= added


def test_a_method_that_reads_numbers_is_not_planned_and_says_so(folder, monkeypatch):
    def reads(*_):
        return torch.empty(1, device="meta").item()

    monkeypatch.setattr("training.methods.consis_id.ConsisID._predict", reads)
    how = recipe(folder, WITH_PICTURE, method=KIND)
    assert plan_video(how, Prepared(folder)) is None
    assert "cannot be told before it" in described(how, Prepared(folder))


def test_the_plan_is_told_before_a_run_is_sent(folder):
    assert device_bytes(Scale()) is None
    words = ["consis_id_cogvideox_5b_8xh200", "--data.path", str(folder), "--base.weights",
             WITH_PICTURE, "--out", "out"]  # fmt: skip
    sent = errand("train", words)
    assert any("64 tokens in each of 2 samples" in said for said in sent.data), sent.data


def test_half_precision_trains_and_exports(folder, tmp_path):
    how = recipe(
        folder, WITH_PICTURE, method=KIND, video=VideoSettings(trained="added"),
        scale=Scale(precision="bf16", gradient_checkpointing=True),
    )  # fmt: skip
    job = build(how)
    engine = PlainEngine(job.method, how)
    (batch,) = job.batches.micro(0)
    assert torch.isfinite(engine.micro(batch, 1.0)["loss"])
    assert not engine.step().skipped
    job.method.save(tmp_path / "export")
    again = load_export(tmp_path / "export")
    assert {weight.dtype for weight in again.network.parameters()} == {torch.float32}
