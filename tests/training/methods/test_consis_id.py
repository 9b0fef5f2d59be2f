"""ConsisID: what it is told, what it costs, what its export draws."""

import re
from dataclasses import replace

import pytest
import torch
from diffusers import ConsisIDPipeline

from infra.errors import BadValue, BadWeights
from tests.training.videos import BASES, WITH_PICTURE, batch, features, recipe, write_videos
from training.build import build, load_export
from training.engine import PlainEngine
from training.features import Features
from training.loop import fit
from training.method import Condition, Sampling
from training.methods.consis_id import ConsisID
from training.nets.consis_id import ADDED
from training.nets.video_base import ask
from training.nets.video_codec import CausalCodec
from training.nets.video_presets import load_video_network
from training.settings import DropSettings, LossSettings, MethodSettings, OptimiserSettings
from training.video.settings import VideoSettings

KIND = MethodSettings(kind="consis_id", identity_norm="raw")
ADDED_ALONE = VideoSettings(trained="added")
OF_FACE = ("reference_latents", "face_states", "face_pooled")
T = torch.tensor([600, 30])


@pytest.fixture
def make(tmp_path):
    """Make a method whose cross-attentions say something, as after training."""

    def made(**changes):
        folder = tmp_path / f"features-{len(list(tmp_path.iterdir()))}"
        write_videos(folder, WITH_PICTURE)
        changes = {"method": KIND} | changes
        method = ConsisID(recipe(folder, WITH_PICTURE, **changes), Features.read(folder), folder)
        rng = torch.Generator().manual_seed(9)
        for attention in method.network.perceiver_cross_attention:
            weight = attention.to_out.weight
            weight.data = 0.1 * torch.randn(weight.shape, generator=rng)
        return method

    return made


def whom(given):
    return Condition(given["identity"], text=given["text"], more={n: given[n] for n in OF_FACE})


def asked(method, given):
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    pred = method._predict(noised.z_t, noised.t, method.conditions.whole(given))
    return pred, noised


def test_its_loss_is_the_published_one(make):
    method, given = make(), batch(WITH_PICTURE)
    losses = method(given)
    pred, noised = asked(method, given)
    error = (pred - noised.target).square().mean()
    torch.testing.assert_close(losses["loss"], error)
    clean = method.schedule.clean(noised.z_t, noised.t, pred)
    weight = 1 / (1 - method.schedule.alphas_cumprod[noised.t])
    published = weight.view(-1, 1, 1, 1, 1) * (clean - given["latents"]).square()
    torch.testing.assert_close(error, published.mean(), atol=1e-4, rtol=1e-4)
    losses["loss"].backward()
    assert all(weight.grad is not None for weight in method.trainable().values())


def test_by_lot_the_loss_is_inside_the_face_and_never_where_there_is_none(make):
    method = make(losses=LossSettings(mse=0.0, masked=1.0), video=VideoSettings(mask_share=0.5))
    given = batch(WITH_PICTURE, 3) | {"lots": torch.full((3, 4), 0.9)}
    given["lots"][:2, 0] = 0.1
    given["mask"][1] = 0
    pred, noised = asked(method, given)
    squares = (pred - noised.target).square()
    inside = squares[0].mean(dim=0) * given["mask"][0]
    by_hand = [inside.sum() / given["mask"][0].sum(), squares[1].mean(), squares[2].mean()]
    losses = method(given)
    torch.testing.assert_close(losses["loss"], torch.stack(by_hand).mean())
    torch.testing.assert_close(losses["mse"], squares.mean().detach())


def test_half_of_a_loss_that_counts_nothing_is_refused(make):
    with pytest.raises(BadValue, match=r"losses\.masked to 1 and losses\.mse to 0"):
        make(video=VideoSettings(mask_share=0.5))


def test_the_reference_stands_beside_the_first_frame_alone(make):
    method, given, seen = make(), batch(WITH_PICTURE), []
    told = method.conditions.whole(given)
    method.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    method._predict(given["latents"], T, told)
    beside = seen[0].transpose(1, 2)[:, 4:]
    assert torch.equal(beside[:, :, 0], given["reference_latents"])
    assert not beside[:, :, 1:].any()


def test_everything_is_trained_or_only_what_was_added(make):
    whole, part = make(), make(video=ADDED_ALONE)
    assert len(whole.trainable()) == len(list(whole.network.parameters()))
    assert all(name.removeprefix("network.").startswith(ADDED) for name in part.trainable())
    part(batch(WITH_PICTURE))["loss"].backward()
    moved = {f"network.{n}" for n, w in part.network.named_parameters() if w.grad is not None}
    assert moved == set(part.trainable())


def test_nobody_is_the_base_shown_no_picture(make):
    method, given = make(), batch(WITH_PICTURE)
    base, z_t = load_video_network(BASES[WITH_PICTURE]), given["latents"]
    without = ask(base, z_t, T, given["text"], beside=torch.zeros_like(z_t))
    whole, first = method.conditions.whole(given), torch.tensor([True, False])
    told = method.conditions.without(whole, first, ~first & first)
    with torch.no_grad():
        one_dropped, both = method._predict(z_t, T, told), method._predict(z_t, T, whole)
        with method.adapter_off():
            off = method._predict(z_t, T, whole)
    assert torch.equal(off, without)
    torch.testing.assert_close(one_dropped[0], without[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one_dropped[1], both[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(both[0], without[0], atol=1e-3)


def test_with_what_was_added_off_it_stays_the_base_after_training(tmp_path):
    folder = write_videos(tmp_path / "features", WITH_PICTURE)
    how = recipe(folder, WITH_PICTURE, method=KIND, video=ADDED_ALONE)
    job = build(replace(how, steps=3, optimiser=OptimiserSettings(learning_rate=1e-2)))
    fit(PlainEngine(job.method, job.method.recipe), job.batches, job.method.recipe, tmp_path)
    given = batch(WITH_PICTURE)
    whole, z_t = job.method.conditions.whole(given), given["latents"]
    base = load_video_network(BASES[WITH_PICTURE])
    with torch.no_grad():
        on = job.method._predict(z_t, T, whole)
        with job.method.adapter_off():
            off = job.method._predict(z_t, T, whole)
        wanted = ask(base, z_t, T, given["text"], beside=torch.zeros_like(z_t))
    assert torch.equal(off, wanted)
    assert not torch.allclose(on, wanted, atol=1e-4)


def test_guidance_leads_away_from_the_prompt_and_not_from_the_face(make):
    method, given = make().eval(), batch(WITH_PICTURE)
    predict, z_t = method.predicts(whom(given), Sampling()), given["latents"]
    with torch.no_grad():
        without, told = predict(z_t, T[0], True)
        whole = method.conditions.whole(given)
        nothing = whole | {"text": method.conditions.empty_text.expand(2, -1, -1)}
        t = T[:1].expand(2)
        for ours, by_hand in ((without, nothing), (told, whole)):
            torch.testing.assert_close(ours, method._predict(z_t, t, by_hand), atol=1e-5, rtol=1e-5)
        nobody, _ = predict(z_t, T[0], False)
    assert not torch.allclose(nobody, without, atol=1e-4)


@pytest.mark.parametrize("trained", ["all", "added"])
def test_diffusers_pipeline_draws_the_videos_of_an_export(make, tmp_path, monkeypatch, trained):
    method, given = make(video=VideoSettings(trained=trained)).eval(), batch(WITH_PICTURE)
    method.save(tmp_path / "export")
    noise = torch.randn(given["latents"].shape, generator=torch.Generator().manual_seed(1))
    reference = torch.zeros_like(noise)
    reference[:, :, 0] = given["reference_latents"]
    pipe = ConsisIDPipeline.from_pretrained(tmp_path / "export", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    # In its place: the pipeline would draw the reference's latents, where ours are the mean.
    pipe.prepare_latents = lambda *_: (noise.transpose(1, 2), reference.transpose(1, 2))
    pooled = torch.nn.functional.normalize(given["face_pooled"], dim=-1)
    nothing = method.conditions.empty_text.expand(2, -1, -1)
    theirs = pipe(
        image=torch.zeros(2, 3, 64, 64), prompt_embeds=given["text"], num_frames=9, height=64,
        width=64, negative_prompt_embeds=nothing, num_inference_steps=4, guidance_scale=3.0,
        id_cond=torch.cat([given["identity"], pooled], dim=-1).repeat(2, 1),
        id_vit_hidden=[each.repeat(2, 1, 1) for each in given["face_states"].unbind(1)],
        output_type="pt",
    ).frames  # fmt: skip
    monkeypatch.setattr(method, "first", lambda *_: noise)
    ours = method.generate(whom(given), torch.Generator(), Sampling(steps=4, guidance=3.0))
    torch.testing.assert_close(ours.clamp(0, 1), theirs, atol=1e-4, rtol=1e-4)


def test_an_export_needs_no_base_and_draws_the_same(make, tmp_path):
    losses, video = LossSettings(mse=0.0, masked=1.0), VideoSettings(mask_share=0.5)
    method, given = make(losses=losses, video=video).eval(), batch(WITH_PICTURE)
    method.save(tmp_path / "export")
    again = load_export(tmp_path / "export")
    assert again.recipe.base.weights == method.recipe.base.weights
    videos = [
        each.generate(whom(given), torch.Generator().manual_seed(0), Sampling(steps=2))
        for each in (method, again)
    ]
    assert torch.equal(*videos)
    again.save(tmp_path / "copy")
    third = load_export(tmp_path / "copy")
    assert torch.equal(third.network.proj_out.weight, method.network.proj_out.weight)
    smaller = ConsisID(
        recipe(tmp_path, WITH_PICTURE, method=KIND),
        replace(features(WITH_PICTURE), face_pooled_dim=13), tmp_path / "features-0",
    )  # fmt: skip
    with pytest.raises(BadWeights, match="face_pooled_dim"):
        smaller.load(tmp_path / "export")


def test_the_card_loads_an_export_as_it_says(make, tmp_path):
    method, given = make().eval(), batch(WITH_PICTURE)
    method.save(tmp_path / "export")
    card = (tmp_path / "export/README.md").read_text()
    told = {"folder": str(tmp_path / "export"), "identity": given["identity"]}
    told["more"] = {name: given[name] for name in OF_FACE}
    for code in re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL):
        exec(code.replace("steps=30", "steps=2"), told)  # the card's own code
    assert told["videos"].shape == (2, 9, 3, 64, 64)
    assert torch.equal(told["pipe"].transformer.proj_out.weight, method.network.proj_out.weight)


def test_an_export_holds_the_base_s_own_weights_where_training_had_them_in_half(make, tmp_path):
    method = make(video=ADDED_ALONE).eval()
    for name, weight in method.network.named_parameters():
        if not name.startswith(ADDED):
            weight.data = weight.data.bfloat16()
    method.save(tmp_path / "export")
    again = load_export(tmp_path / "export")
    base = load_video_network(BASES[WITH_PICTURE]).state_dict()
    held = again.network.state_dict()
    assert all(torch.equal(held[name], weight) for name, weight in base.items())
    for name, weight in method.trainable().items():
        assert torch.equal(again.trainable()[name], weight)


def test_pictures_and_videos_train_together(tmp_path):
    folder = write_videos(
        tmp_path / "mixed", WITH_PICTURE, people=4, clips=4, shapes=((3, 8), (1, 8))
    )
    how = recipe(folder, WITH_PICTURE, method=KIND, drop=DropSettings(), steps=8)
    job = build(replace(how, optimiser=OptimiserSettings(learning_rate=1e-3)))
    frames, reports = [], []
    forward = job.method.forward
    job.method.forward = lambda given: frames.append(given["latents"].shape[2]) or forward(given)
    engine = PlainEngine(job.method, job.method.recipe)
    fit(engine, job.batches, job.method.recipe, tmp_path / "out", reports.append)
    assert set(frames) == {1, 3}
    assert all(torch.isfinite(torch.tensor(report.losses["loss"])) for report in reports)


def test_a_tiled_codec_decodes_one_sample_at_a_time_to_the_same_frames(make):
    plain, tiled = make().codec, make(video=VideoSettings(tiled=True)).codec
    assert [tiled.vae.use_tiling, tiled.vae.use_slicing, plain.vae.use_tiling] == [1, 1, 0]
    latents = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(tiled.decode(latents), plain.decode(latents))
        large = tiled.decode(latents.repeat(1, 1, 1, 2, 3))
        again = tiled.encode(large)
    # Tiles meet, also where the autoencoder's own overlaps would be parts of latents.
    assert large.shape == (2, 3, 9, 64, 96)
    assert again.shape == (2, 4, 3, 8, 12)
    assert torch.isfinite(again).all()


def test_tiles_of_the_published_size_overlap_as_published():
    with torch.device("meta"):
        vae = CausalCodec("random:cogvideox-5b", tiled=True).vae
    assert (vae.tile_overlap_factor_height, vae.tile_overlap_factor_width) == (1 / 6, 1 / 5)


def test_four_clips_are_learnt_by_heart(make):
    method, given = make().train(), batch(WITH_PICTURE, 4)
    given["time"] = torch.linspace(0.2, 0.8, 4)
    optimiser = torch.optim.Adam(method.trainable().values(), 5e-3)
    history = []
    for _ in range(60):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    assert history[-1] < 0.5 * history[0], history[::10]
