import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import mse_loss

from infra.errors import BadWeights
from tests.training.methods.adapters import moved
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
from training.exports import read_tensors, save_tensors
from training.methods.sefi_ide import SefiIDE
from training.nets.attention_maps import cross_attention, watched
from training.nets.presets import load_unet
from training.nets.text import load_clip_text
from training.settings import LossSettings, MethodSettings

SEFI = MethodSettings(kind="sefi_ide", tokens=1, subject_word="<person>")


def made(folder, method=SEFI, **more):
    return make(folder, SefiIDE, method, **more)


def own(count=4):
    return batch(count) | {"is_prior": torch.zeros(count, dtype=torch.bool)}


def at(method, time, count=2):
    """Ask in words, at a time; return keys' and values' text."""
    told = method._words(own(count) | {"time": torch.full((count,), time)})
    return told["text"].chunk(2, dim=1)


def test_only_the_word_is_trained(tmp_path):
    method = made(tmp_path)
    method(own())["loss"].backward()
    trained = {name for name, weight in method.named_parameters() if weight.grad is not None}
    assert trained == set(method.trainable()) == {"meanings"}


@pytest.mark.slow
def test_another_s_word_is_learnt_from_what_is_painted_with_it(tmp_path):
    given = own(8) | {"time": torch.linspace(0.25, 0.95, 8)}
    given = taught(moved(made(tmp_path / "teacher")), given)
    plain = replace(SEFI, face_attention=0.0)
    history = learnt(made(tmp_path / "student", plain), given, 0.1)
    assert history[-1] < 0.3 * history[0], history[::5]


def test_the_word_begins_as_the_class_s_word(tmp_path):
    method = made(tmp_path)
    tokenizer, text = load_clip_text("random:tiny-sd")
    table = getattr(text, "text_model", text).embeddings.token_embedding.weight
    person = table[tokenizer("person", add_special_tokens=False)["input_ids"]].mean(0)
    assert torch.allclose(method.embeddings(), person.expand(10, 1, 32), atol=1e-6)


def test_each_stage_has_meanings_of_its_own_for_keys_and_for_values(tmp_path):
    method = moved(made(tmp_path)).eval()
    texts = [text[0] for stage in range(5) for text in at(method, 0.2 * stage + 0.1)]
    for i, one in enumerate(texts):
        assert not any(torch.allclose(one, other) for other in texts[:i]), i
    assert torch.equal(at(method, 0.01)[0], at(method, 0.199)[0])
    assert not torch.equal(at(method, 0.199)[0], at(method, 0.201)[0])


def test_a_sample_moves_only_its_stage(tmp_path):
    method, given = made(tmp_path), own()
    given["time"] = torch.tensor([0.05, 0.1, 0.65, 0.7])
    method(given)["loss"].backward()
    touched = method.meanings.grad.abs().sum((1, 2, 3)) > 0
    assert touched.tolist() == [True, False, False, True, False]


def test_the_attention_loss_is_the_distance_to_the_class_word_s_map(tmp_path):
    method, given = moved(made(tmp_path)).eval(), own()
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    keys, values = method._words(given)["text"].chunk(2, dim=1)
    of_class = method.class_text.expand(4, -1, -1)
    # The vocabulary has 514 words; the placeholder's come after.
    word = (method.asked >= 514).nonzero().flatten().tolist()
    # The class' word is six letters after a begin mark and nine letters.
    person = list(range(10, 16))
    wanted = []
    for name in cross_attention(method.unet, coarse=True):
        maps = []
        for text, painted_text, places in ((keys, values, word), (of_class, of_class, person)):
            with watched(method.unet, [name]) as seen:
                method.unet(noised.z_t, noised.t, torch.cat([text, painted_text], dim=1))
            layer, states = method.unet.get_submodule(name), seen.told[name].states
            q, k = (x.unflatten(2, (layer.heads, -1)).transpose(1, 2)
                    for x in (layer.to_q(states), layer.to_k(text)))  # fmt: skip
            shares = (q @ k.transpose(2, 3) * layer.scale).softmax(dim=-1).mean(dim=1)
            maps.append(shares[..., places].sum(dim=-1))
        wanted.append(mse_loss(*maps))
    term = method(given)["face_attention"].item()
    assert term == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-4)
    assert term > 0


def test_the_attention_loss_has_its_weight_and_can_be_left_out(tmp_path):
    given = own()
    losses = [
        moved(made(tmp_path / str(weight), replace(SEFI, face_attention=weight)))(given)
        for weight in (0.0, 0.5)
    ]
    assert "face_attention" not in losses[0]
    with torch.no_grad():
        assert "face_attention" not in made(tmp_path / "validated")(given)
    more = losses[1]["loss"] - losses[0]["loss"]
    assert more.item() == pytest.approx(0.5 * losses[1]["face_attention"].item(), rel=1e-3)


def test_the_word_s_attention_can_be_held_to_the_mask_as_well(tmp_path):
    plain = replace(SEFI, face_attention=0.0)
    method, given = made(tmp_path, plain, losses=LossSettings(localise=0.001)), own()
    given["mask"][:, :, :4] = 0
    losses = method(given)
    assert -1 < losses["localise"].item() < 1
    assert "face_attention" not in losses
    losses["loss"].backward()


def test_scale_leads_from_the_class_to_the_person(tmp_path):
    method, pipe = moved(made(tmp_path)).eval(), pipeline()
    anybody = painted_by(pipe, "a photo of a person")
    assert (painted(method, scale=0.0) - anybody).abs().max() < 1e-5
    assert torch.equal(painted(method, start_step=3), painted(method, scale=0.0))
    assert not torch.equal(painted(method), painted(method, scale=0.5))
    hat = replace(NOBODY, text=method.told(["<person> in a hat"] * 2))
    assert (
        painted(method, hat, scale=0.0) - painted_by(pipe, "person in a hat")
    ).abs().max() < 1e-5
    assert not torch.equal(painted(method, hat), painted(method))


def test_with_one_text_for_both_it_is_the_base_bit_for_bit(tmp_path):
    method, base = made(tmp_path), load_unet("random:tiny-sd")
    given = own()
    text = given["text"]
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    with torch.no_grad():
        ours = method.unet(noised.z_t, noised.t, torch.cat([text, text], dim=1)).sample
        assert torch.equal(ours, base(noised.z_t, noised.t, text).sample)


def test_taken_out_it_leaves_the_base_bit_for_bit(tmp_path):
    method, plain = moved(made(tmp_path)), load_unet("random:tiny-sd")
    learnt(method, own(), 1e-2, steps=2)
    unet = method.eject()
    assert repr(unet) == repr(plain)
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in unet.state_dict().items())
    kinds = [type(each) for each in unet.attn_processors.values()]
    assert kinds == [type(each) for each in plain.attn_processors.values()]


# The export, read by diffusers.


def saved(home, **more):
    method = moved(made(home / "features", **more), seed=3).eval()
    method.save(home / "export")
    return method


@torch.no_grad()
def test_diffusers_loads_every_meaning_and_reads_the_same(tmp_path):
    method, pipe = saved(tmp_path), pipeline()
    for stage in range(5):
        for kind, ours in zip(("key", "value"), at(method, 0.2 * stage + 0.1), strict=True):
            name = f"{kind}-{stage}"
            pipe.load_textual_inversion(tmp_path / "export", weight_name=f"word-{name}.safetensors")
            theirs, _ = pipe.encode_prompt(f"a photo of a <person>-{name}", "cpu", 1, False)
            assert (theirs[0] - ours[0]).abs().max() < 1e-5, name


def test_an_export_and_its_base_paint_what_was_saved(tmp_path):
    method = saved(tmp_path)
    shutil.rmtree(tmp_path / "features")
    again = load_export(tmp_path / "export")
    assert torch.equal(again.meanings, method.meanings)
    assert torch.equal(painted(again), painted(method))


def test_a_word_of_another_name_is_refused(tmp_path):
    method = saved(tmp_path)
    path = tmp_path / "export/word-key-3.safetensors"
    save_tensors(path, {"else": read_tensors(path)["<person>-key-3"]})
    with pytest.raises(BadWeights, match="altered"):
        method.read(tmp_path / "export")


def test_the_model_card_loads_it_as_it_says(tmp_path):
    saved(tmp_path)
    told = carded(tmp_path / "export", pipe=pipeline())
    assert told["pictures"].shape == (1, 3, 64, 64)
    assert "<person>-value-4" in told["pipe"].tokenizer.get_vocab()
