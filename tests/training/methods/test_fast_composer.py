"""FastComposer: its published layout, its words, and localisation at them."""

import torch
from safetensors.torch import load_file

from tests.training.methods.adapters import SD, batch, drawn, moved, painted
from tests.training.methods.test_attention_adapters import asked, made
from training.nets.attention_maps import cross_attention, watched
from training.nets.presets import load_unet
from training.settings import LossSettings


def given_of(method, one):
    of = method.conditions
    return of.whole(one.identity, image=one.image, text=one.text, pooled=None)


def test_the_export_in_the_base_s_own_unet_predicts_the_same(tmp_path):
    """As FastComposer's model would take it: every name is a weight of a plain UNet."""
    method = moved(made(tmp_path / "features", "fast_composer")).eval()
    method.save(tmp_path / "export")
    held = load_file(tmp_path / "export/fastcomposer.safetensors")
    unet = load_unet(SD)
    inside = {n.removeprefix("unet."): w for n, w in held.items() if n.startswith("unet.")}
    missing = unet.load_state_dict(inside, strict=False)
    assert missing.unexpected_keys == []
    assert len(inside) == 2 * len(method.attention.attention[1::2])
    beside = {name for name in held if not name.startswith("unet.")}
    assert {
        "postfuse_module.mlp1.fc1.weight", "postfuse_module.layer_norm.bias",
        "image_encoder.visual_projection.weight", "image_encoder.vision_model.post_layernorm.bias",
    } <= beside  # fmt: skip
    given, latents, times = (
        given_of(method, asked(method, count=2)),
        drawn(2, 4, 16, 16),
        torch.tensor([5, 9]),
    )
    with torch.no_grad():
        theirs = unet(latents, times, method._cross(given)).sample
        ours = method._predict(latents, times, given, None)
    assert (ours - theirs).abs().max() < 1e-5


def test_each_face_has_a_word_and_nobody_s_is_plain(tmp_path):
    method = moved(made(tmp_path, "fast_composer"))
    one = asked(method, faces=3)
    one.identity[:, 2] = 0
    with torch.no_grad():
        told = method._cross(given_of(method, one))
    assert torch.equal(told[:, :-3], one.text)
    assert torch.equal(told[0, -1], method.words.states[0])
    assert not torch.allclose(told[:, -3], told[:, -2], atol=1e-3)


def test_delayed_conditioning_keeps_the_composition_of_the_word_alone(tmp_path):
    method = moved(made(tmp_path, "fast_composer"))
    one, seen = asked(method), []

    def note(_, clean):
        seen.append(clean.clone())
        return False

    def estimates(start_step):
        seen.clear()
        from training.method import Sampling

        rng = torch.Generator().manual_seed(7)
        method.generate(one, rng, Sampling(steps=4, start_step=start_step), callback=note)
        return list(seen)

    delayed, at_once, never = estimates(2), estimates(0), estimates(4)
    assert all(map(torch.equal, delayed[:2], never[:2]))
    assert not torch.equal(delayed[2], never[2])
    assert not torch.equal(delayed[0], at_once[0])
    assert painted(method, one).isfinite().all()


def test_attention_is_that_of_the_learnt_keys_at_the_faces_words(tmp_path):
    method = moved(made(tmp_path, "fast_composer"))
    given, layers = given_of(method, asked(method, faces=2, count=2)), cross_attention(method.unet)
    with torch.no_grad(), watched(method.unet, layers) as seen:
        method._predict(drawn(2, 4, 16, 16), torch.tensor([5, 9]), given, None)
        told = seen.told[layers[-1]]
        layer = told.layer
        query = layer.to_q(told.states).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        key = layer.processor.to_k(told.text).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        shares = (query @ key.mT / key.shape[-1] ** 0.5).softmax(-1).mean(1)
        ours = method._attended(told, given)
    assert ours.shape[-1] == 2
    assert torch.allclose(ours, shares[..., -2:], atol=1e-6)


def test_localisation_moves_attention_into_the_mask(tmp_path):
    losses = LossSettings(mse=0.0, localise=1.0)
    method, given = moved(made(tmp_path, "fast_composer", losses=losses)), batch()
    given["mask"] = torch.zeros(2, 16, 16)
    given["mask"][:, 4:12, 4:12] = 1
    optimiser = torch.optim.SGD(method.trainable().values(), lr=0.3)
    history = []
    for _ in range(6):
        loss = method(given)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0]
