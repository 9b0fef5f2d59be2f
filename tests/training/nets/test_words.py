from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import FEATURES, SD, SDXL, drawn
from training.nets.text import load_clip_text, load_text_encoder
from training.nets.words import WordFuser, Words, spoken, word_states

PHRASE = "a photo of a person, smiling"


@pytest.mark.parametrize("reference", [SD, SDXL])
def test_a_word_s_state_is_the_encoder_s_at_its_last_token(reference):
    """What stands before a token decides its state, and nothing after it: so it can be found."""
    states = word_states(reference, PHRASE, ("photo", "person"))
    encoder = load_text_encoder(reference)
    long, short = (encoder.encode([said])[0][0] for said in (PHRASE, "a photo of a person"))
    tokenizer, _ = load_clip_text(reference)
    last = len(tokenizer("a photo of a person")["input_ids"]) - 2
    assert torch.allclose(states[1], long[last], atol=1e-6)
    assert torch.allclose(states[1], short[last], atol=1e-5)
    assert not torch.allclose(long[last + 1], short[last + 1], atol=1e-3)
    assert not torch.allclose(states[0], states[1], atol=1e-3)


def test_an_export_needs_no_text_encoder(tmp_path):
    told = replace(FEATURES, text_encoder=SD)
    first = Words(told, tmp_path, PHRASE, ("person",), "x")
    first.save(tmp_path)
    again = Words(FEATURES, tmp_path, PHRASE, ("person",), "x")
    assert torch.equal(first.states, again.states)
    assert first.states.shape == (1, 32)
    with pytest.raises(BadValue, match=r"method\.kind cannot be 'x'.*a text encoder"):
        Words(FEATURES, tmp_path / "other", PHRASE, ("person",), "x")


def test_fusing_is_what_the_published_module_does_by_hand():
    fuser = WordFuser(8)
    with torch.no_grad():
        for weight in fuser.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    word, face = drawn(3, 8), drawn(3, 8, seed=1)

    def mlp(part, given):
        hidden = torch.nn.functional.gelu(part.fc1(part.layernorm(given)))
        return part.fc2(hidden)

    mixed = mlp(fuser.mlp1, torch.cat([word, face], dim=1)) + word
    wanted = fuser.layer_norm(mlp(fuser.mlp2, mixed) + mixed)
    assert torch.allclose(fuser(word, face), wanted, atol=1e-6)
    assert set(WordFuser.published_names()) == {name for name, _ in fuser.named_parameters()}


def test_words_go_from_plain_to_fused_and_are_plain_for_nobody():
    words, fused = drawn(2, 8), drawn(1, 3, 2, 8, seed=1)
    present = torch.tensor([[True, True, False]])
    told = spoken(words, fused, present, 1.0)
    assert told.shape == (1, 6, 8)
    assert torch.allclose(told[0, :4], fused[0, :2].flatten(0, 1), atol=1e-6)
    assert torch.equal(told[0, 4:], words)
    half = spoken(words, fused, present, 0.5)
    assert torch.allclose(half[0, 0], (words[0] + fused[0, 0, 0]) / 2, atol=1e-6)
