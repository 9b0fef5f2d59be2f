from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import FEATURES, batch, drawn, moved, painted
from tests.training.methods.test_research_adapters import BASES, KINDS, asked, gradients, made
from training.nets.presets import load_unet
from training.nets.uni_id import spoken
from training.settings import LossSettings

METHOD = KINDS["uni_id"][1]
WORDS, ADAPTER = 0.5, 0.5 + 1 / 4096
"""Draws of samples that teach the one branch, or the other."""


def uni_id(folder, **more):
    return moved(made(folder, "uni_id", **more))


def of(draw, count=2):
    return batch(count) | {"drop": torch.full((count,), draw)}


@pytest.mark.parametrize(("draw", "learns"), [(WORDS, "text_branch"), (ADAPTER, "adapter_branch")])
def test_a_sample_teaches_one_branch_and_no_other(tmp_path, draw, learns):
    found = gradients(uni_id(tmp_path), of(draw))
    taught = {name for name, gradient in found.items() if gradient is not None and gradient.any()}
    part = "unet" if learns == "adapter_branch" else "text_branch"
    assert {name.partition(".")[0] for name in taught} == {learns, part}


def test_half_of_the_samples_teach_each_in_every_share_of_drops():
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for low, high in ((0, 0.05), (0.05, 0.1), (0.1, 1)):
        some = draws[(draws >= low) & (draws < high)]
        assert ((some * 4096).long() % 2).float().mean().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("draw", [WORDS, ADAPTER])
def test_no_sample_is_told_what_another_is(tmp_path, draw):
    """The original tells the whole batch the prompt of its first sample."""
    method, given = uni_id(tmp_path), of(draw)
    first = {name: value[:1] for name, value in given.items()}
    second = {name: value[1:] for name, value in given.items()}
    apart = [method(one)["loss"].item() for one in (first, second)]
    assert method(given)["loss"].item() == pytest.approx(sum(apart) / 2, abs=1e-5)


@BASES
def test_captions_explain_nothing_in_training_and_count_in_drawing(tmp_path, base):
    method, given = uni_id(tmp_path, base=base), of(WORDS)
    loss = method(given)["loss"]
    assert torch.equal(method(given | {"text": given["text"] + 1})["loss"], loss)
    ask = asked(method.eval())
    other = replace(ask, text=ask.text + 1)
    assert not torch.equal(painted(method, other, steps=1), painted(method, ask, steps=1))


@torch.no_grad()
def test_a_new_adapter_branch_says_nothing(tmp_path):
    method, given = made(tmp_path, "uni_id"), of(ADAPTER)
    noised = method.schedule.noised(given["latents"], given["noise"], given["time"])
    nothing = method.conditions.empty_text.expand(2, -1, -1)
    theirs = load_unet("random:tiny-sd")(noised.z_t, noised.t, nothing).sample
    expected = (theirs - noised.target).square().mean()
    torch.testing.assert_close(method(given)["mse"], expected)


@pytest.mark.slow
def test_both_branches_learn_by_heart(tmp_path):
    """Words alone have two places in a random base, and learn little of eight pictures."""
    for draw, steps, share in ((ADAPTER, 60, 0.7), (WORDS, 20, 0.97)):
        method, given = made(tmp_path, "uni_id"), of(draw, 8)
        given["latents"] = given["identity"][:, :4, None, None].expand(8, 4, 8, 8).contiguous()
        given["noise"] = given["noise"][..., :8, :8].contiguous()
        optimiser = torch.optim.AdamW(method.trainable().values(), lr=1e-2)
        history = []
        for _ in range(steps):
            loss = method(given)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            history.append(loss.item())
        assert history[-1] < share * history[0], history[::10]


def test_words_stand_after_the_first_state_with_the_prompt_s_norm():
    text, words = drawn(2, 6, 4), drawn(2, 2, 4, seed=1)
    said = spoken(text, words, 1.5, torch.tensor([True, False]))
    assert torch.equal(said[1], text[1])
    assert torch.equal(said[0, 0], text[0, 0])
    assert torch.equal(said[0, 3:], text[0, 1:4]), "as many states fall off the end"
    norm = 1.5 * text[0, 1:].norm(dim=1).mean()
    torch.testing.assert_close(said[0, 1:3].norm(dim=1), norm.expand(2))
    cosine = torch.nn.functional.cosine_similarity(said[0, 1:3], words[0])
    torch.testing.assert_close(cosine, torch.ones(2))


@pytest.mark.parametrize(("rescale", "of_words", "of_adapter"), [(0, 0.5, 0.5), (1, 0.9, 0.6)])
def test_merged_branches_have_the_published_scales(tmp_path, rescale, of_words, of_adapter):
    """With rescaling 1.8 times the norm of the prompt's states, and 1.2 times the text's part."""
    method = uni_id(tmp_path).eval()
    told = []
    method.unet.register_forward_pre_hook(
        lambda _, args: told.append((args[2][0], method.adapter.scale))
    )
    ask = asked(method)
    painted(method, ask, steps=1, scale=0.5, rescale=bool(rescale))
    (text, scale) = told[0]
    assert scale == pytest.approx(of_adapter)
    assert torch.equal(text[:2], method.conditions.empty_text.expand(2, -1, -1)), "nobody has none"
    norm = ask.text[:, 1:].norm(dim=2).mean(dim=1, keepdim=True)
    torch.testing.assert_close(text[2:, 1:3].norm(dim=2), (of_words * norm).expand(2, 2))


def test_a_prompt_without_places_for_words_is_refused(tmp_path):
    with pytest.raises(BadValue, match=r"method\.text_tokens.*the features have 0 states"):
        made(tmp_path, "uni_id", features=replace(FEATURES, text_shape=(0, 0)))
    with pytest.raises(BadValue, match="have 5 states of text"):
        made(tmp_path, "uni_id", method=replace(METHOD, text_tokens=4))
    method = uni_id(tmp_path)
    one = asked(method)
    many = replace(one, identity=drawn(2, 2, 32), image=drawn(2, 2, 5, 24))
    with pytest.raises(BadValue, match=r"4 words of identity.*show fewer reference faces"):
        painted(method, many)
    with pytest.raises(BadValue, match="give 1 or more"):
        replace(METHOD, text_tokens=0)


@pytest.mark.parametrize("name", ["fair", "localise"])
def test_only_samples_of_the_adapter_have_tokens_to_look_at(tmp_path, name):
    """Tokens of zeros have the share of keys of zeros, which is nobody's."""
    method = uni_id(tmp_path, losses=LossSettings(mse=0.0, **{name: 1.0}))
    words, adapter = (
        of(draw) | {"mask": torch.eye(16).expand(2, 16, 16)} for draw in (WORDS, ADAPTER)
    )
    assert method(words)[name] == 0
    assert method(adapter)[name] != 0


def test_identity_competes_with_the_empty_prompt_for_attention(tmp_path):
    method, given = uni_id(tmp_path, losses=LossSettings(mse=0.0, localise=1.0)), of(ADAPTER)
    given["mask"] = torch.eye(16).expand(2, 16, 16)
    history = []
    optimiser = torch.optim.SGD(method.trainable().values(), lr=0.3)
    for _ in range(6):
        optimiser.zero_grad()
        loss = method(given)["loss"]
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0]
