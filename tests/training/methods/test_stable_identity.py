import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from infra.errors import BadValue, BadWeights
from tests.training.methods.adapters import SDXL, moved
from tests.training.methods.subjects import (
    NOBODY,
    batch,
    carded,
    learnt,
    make,
    painted,
    painted_by,
    pipeline,
    taught,
)
from training.build import load_export
from training.exports import read_tensors
from training.features import Prepared
from training.methods.stable_identity import StableIdentity, TwoPhaseSchedule
from training.nets.name_embeddings import FAMILY, GIVEN, NameTokens
from training.nets.presets import load_unet
from training.nets.text import load_clip_text
from training.noise import STEPS
from training.settings import BaseModelSettings, LossSettings, MethodSettings

NAME = MethodSettings(
    kind="stable_identity", tokens=2, prompt="a photo of {}", subject_word="<person>",
    class_word="a person",
)  # fmt: skip
LOSSES = LossSettings(mse=0.0, masked=1.0)


def made(folder, method=NAME, **more):
    return make(folder, StableIdentity, method, **({"losses": LOSSES} | more))


def own(count=4):
    return batch(count) | {"is_prior": torch.zeros(count, dtype=torch.bool)}


def test_only_what_makes_the_name_is_trained_and_all_of_it(tmp_path):
    method = made(tmp_path)
    method(own())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable())
    assert {name.partition(".")[0] for name in trained} == {"vector", "tokens"}


@pytest.mark.slow
def test_another_s_name_is_learnt_from_what_is_painted_with_it(tmp_path):
    given = own(8) | {"time": torch.linspace(0.25, 0.95, 8)}
    given = taught(moved(made(tmp_path / "teacher")), given)
    history = learnt(made(tmp_path / "student"), given, 2e-2)
    assert history[-1] < 0.3 * history[0], history[::5]


def test_it_begins_at_the_mean_of_the_subject_s_vectors(tmp_path):
    method, prepared = made(tmp_path), Prepared(tmp_path)
    seen = normalize(prepared.read("identity", np.arange(4)), dim=1)
    assert torch.allclose(method.vector, seen.mean(0), atol=1e-6)


@torch.no_grad()
def test_tokens_stand_where_names_stand():
    rng = torch.Generator().manual_seed(0)
    names = [torch.randn(9, 16, generator=rng) * 0.1 + 0.5, torch.randn(9, 16, generator=rng)]
    net, vectors = NameTokens(8, names, seed=0), torch.randn(5, 8, generator=rng)
    raw = net.mlp(vectors).view(5, 2, 16)
    for k, known in enumerate(names):
        unit = (raw[:, k] - raw[:, k].mean(1, keepdim=True)) / raw[:, k].std(1, keepdim=True)
        wanted = known.std(0) * unit + known.mean(0)
        assert torch.allclose(net(vectors)[:, k], wanted, atol=1e-6)
        back = (net(vectors)[:, k] - known.mean(0)) / known.std(0)
        assert torch.allclose(back.mean(1), torch.zeros(5), atol=1e-4)
        assert torch.allclose(back.std(1), torch.ones(5), atol=1e-4)


def test_names_are_read_from_the_text_encoder_s_own_table(tmp_path):
    method = made(tmp_path)
    tokenizer, text = load_clip_text("random:tiny-sd")
    table = getattr(text, "text_model", text).embeddings.token_embedding.weight
    for k, names in enumerate((GIVEN, FAMILY)):
        known = torch.stack(
            [table[tokenizer(name, add_special_tokens=False)["input_ids"]].mean(0)
             for name in names]
        )  # fmt: skip
        assert torch.allclose(method.tokens.mean[k], known.mean(0), atol=1e-6)
        assert torch.allclose(method.tokens.std[k], known.std(0), atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_clean_phase_compares_pictures_and_the_noisy_one_noise(prediction):
    schedule = TwoPhaseSchedule(BaseModelSettings(prediction=prediction))
    rng = torch.Generator().manual_seed(0)
    latents, noise, pred = (torch.randn(6, 4, 8, 8, generator=rng) for _ in range(3))
    times = torch.tensor([0.01, 0.3, 0.599, 0.601, 0.8, 0.999])
    noised = schedule.noised(latents, noise, times)
    clean = schedule.clean(noised.z_t, noised.t, pred)
    alpha = schedule.alphas_cumprod[noised.t].view(-1, 1, 1, 1)
    guessed = (noised.z_t - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    wanted = torch.where(
        noised.t < 0.6 * STEPS,
        (latents - clean).square().mean((1, 2, 3)),
        (noise - guessed).square().mean((1, 2, 3)),
    )
    error = (pred - noised.target).square().mean((1, 2, 3))
    assert torch.allclose(schedule.weight(noised.snr, 0.0) * error, wanted, rtol=1e-3)


def test_only_the_face_counts(tmp_path):
    method, given = made(tmp_path).eval(), own()
    given["mask"] = torch.zeros(4, 8, 8)
    given["mask"][:, 2:6, 2:6] = 1
    elsewhere = given["latents"].clone()
    noised = method.schedule.noised(elsewhere, given["noise"], given["time"])
    words = method._words(given)["text"]
    pred = method.unet(noised.z_t, noised.t, words).sample
    error = (pred - noised.target).square()[:, :, 2:6, 2:6].mean((1, 2, 3))
    wanted = (method.schedule.weight(noised.snr, 0.0) * error).mean()
    assert method(given)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_scale_leads_from_the_class_to_the_person(tmp_path):
    method, pipe = moved(made(tmp_path)).eval(), pipeline()
    anybody = painted_by(pipe, "a photo of a person")
    assert (painted(method, scale=0.0) - anybody).abs().max() < 1e-5
    assert torch.equal(painted(method, start_step=3), painted(method, scale=0.0))
    half, full = painted(method, scale=0.5), painted(method)
    assert not torch.equal(half, full)
    assert not torch.equal(full, painted(method, scale=0.0))


def test_a_prompt_of_one_s_own_is_read_by_the_method(tmp_path):
    method, pipe = moved(made(tmp_path)).eval(), pipeline()
    asked = replace(NOBODY, text=method.told(["<person> in a hat, and <person>"] * 2))
    word = method.embeddings()[0].detach()
    pipe.load_textual_inversion({"<person>": word})
    theirs = painted_by(pipe, "<person> in a hat, and <person>")
    assert (painted(method, asked) - theirs).abs().max() < 1e-5
    anybody = painted_by(pipe, "a person in a hat, and a person")
    assert (painted(method, asked, scale=0.0) - anybody).abs().max() < 1e-5


def test_base_and_vocabulary_stay_bit_for_bit(tmp_path):
    method, plain = moved(made(tmp_path)), load_unet("random:tiny-sd")
    learnt(method, own(), 1e-2, steps=2)
    unet = method.eject()
    assert repr(unet) == repr(plain)
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in unet.state_dict().items())
    _, text = load_clip_text("random:tiny-sd")
    theirs = method.words.model.state_dict()
    assert all(torch.equal(theirs[name], weight) for name, weight in text.state_dict().items())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": replace(NAME, tokens=3)}, "a name is 2"),
        ({"method": replace(NAME, subject_word="a")}, "vocabulary has 'a'"),
        ({"losses": LossSettings(min_snr_gamma=5.0)}, "weighs its two phases; set it to 0"),
        ({"base": SDXL}, "give a base that has one"),
    ],
)
def test_what_cannot_be_a_name_is_refused(tmp_path, more, why):
    with pytest.raises(BadValue, match=why):
        made(tmp_path, **more)


# The export, read by diffusers.


def saved(home, **more):
    method = moved(made(home / "features", **more), seed=3).eval()
    method.save(home / "export")
    return method


def test_diffusers_loads_the_name_and_paints_the_same(tmp_path):
    method, pipe = saved(tmp_path), pipeline()
    pipe.load_textual_inversion(tmp_path / "export", weight_name="learned_embeds.safetensors")
    assert (painted(method) - painted_by(pipe, "a photo of <person>")).abs().max() < 1e-5
    held = read_tensors(tmp_path / "export/learned_embeds.safetensors")
    assert {name: tuple(word.shape) for name, word in held.items()} == {"<person>": (2, 32)}


def test_an_export_and_its_base_paint_what_was_saved(tmp_path):
    method = saved(tmp_path)
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    assert torch.equal(painted(again), painted(method))
    assert torch.equal(again.vector, method.vector)


def test_weights_of_another_encoder_are_refused(tmp_path):
    saved(tmp_path)
    other = made(tmp_path / "other", replace(NAME, identity_norm="raw"))
    with pytest.raises(BadWeights, match="identity_norm 'unit'"):
        other.load(tmp_path / "export")


def test_the_model_card_loads_it_as_it_says(tmp_path):
    saved(tmp_path)
    told = carded(tmp_path / "export", pipe=pipeline())
    assert told["pictures"].shape == (1, 3, 64, 64)
    assert "<person>_1" in told["pipe"].tokenizer.get_vocab()
