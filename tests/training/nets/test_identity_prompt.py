from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPTextModel

from infra.errors import BadWeights
from training.nets.clip_presets import Marks, byte_tokenizer
from training.nets.identity_prompt import PROMPT, IdentityPrompt
from training.nets.references import read_transformer
from training.nets.text import load_text_encoder

TINY = "random:tiny-sd"
HERE = torch.ones(2, dtype=torch.bool)


def vectors(count=2, dim=32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=rng), dim=1)


@pytest.fixture
def prompt():
    return IdentityPrompt.of(TINY).eval()


@torch.no_grad()
def told(prompt, identity, present=None):
    present = torch.ones(len(identity), dtype=torch.bool) if present is None else present
    return prompt(identity, present)


def test_the_word_is_where_the_person_stands(prompt):
    tokens = byte_tokenizer(514, fills_with_zero=False)
    ids = tokens(PROMPT)["input_ids"]
    assert prompt.asked[: len(ids)].tolist() == ids
    assert tokens.decode(ids[: prompt.place]) == "<|startoftext|>photo of a"
    assert tokens.decode(ids[prompt.place :]).startswith("id person")
    assert prompt.empty[:2].tolist() == [Marks.of(514).begin, Marks.of(514).end]


def test_with_clip_s_own_vocabulary_the_word_is_the_fifth_token(tmp_path):
    """The merges that make one token of "photo</w>", "of</w>", ... are those of the true CLIP."""
    from transformers import CLIPTextConfig, CLIPTokenizer

    words = ["photo", "of", "a", "id", "person"]
    merges, vocabulary = [], dict(byte_tokenizer(514, fills_with_zero=False).get_vocab())
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
            vocabulary.setdefault(parts[0], len(vocabulary))
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    marks = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, **marks,
    )  # fmt: skip
    CLIPTextModel(config).save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prompt = IdentityPrompt.of(f"file:{tmp_path}")
    assert prompt.place == 4
    assert prompt.asked[4] == vocabulary["id</w>"]
    assert (prompt.asked == vocabulary["id</w>"]).sum() == 1


def test_the_states_are_those_of_a_vocabulary_in_which_the_word_is_the_vector(prompt):
    """The token stands nowhere else in the prompt, so its row of the table can be exchanged."""
    identity = vectors(dim=20)
    states = told(prompt, identity)
    assert states.shape == (2, 77, 32)
    for vector, state in zip(identity, states, strict=True):
        other = deepcopy(load_text_encoder(TINY)._towers[0].model)
        row = int(prompt.asked[prompt.place])
        assert (prompt.asked == row).sum() == 1
        with torch.no_grad():
            other.embeddings.token_embedding.weight[row] = torch.cat([vector, torch.zeros(12)])
            plain = other(prompt.asked[None]).last_hidden_state[0]
        assert torch.allclose(state, plain, atol=1e-6)


def test_who_is_absent_is_the_empty_prompt(prompt):
    here = torch.tensor([True, False])
    states = told(prompt, vectors(), here)
    text, _ = load_text_encoder(TINY).encode(["", PROMPT])
    assert torch.allclose(states[1], text[0], atol=1e-6)
    assert not torch.allclose(states[0], text[1], atol=1e-3)
    assert torch.equal(states[0], told(prompt, vectors())[0])


def test_nothing_of_a_call_stays_behind(prompt):
    with torch.no_grad():
        plain = prompt.model(prompt.asked[None]).last_hidden_state
        table = prompt.model.embeddings.token_embedding.weight.clone()
        told(prompt, vectors())
        with pytest.raises(RuntimeError, match="negative"):
            prompt(vectors(dim=33), HERE)  # wider than a word
        assert torch.equal(prompt.model(prompt.asked[None]).last_hidden_state, plain)
    assert torch.equal(prompt.model.embeddings.token_embedding.weight, table)


def test_threads_do_not_see_one_another_s_people(prompt):
    people = [vectors(seed=seed) for seed in range(8)]
    alone = [told(prompt, each) for each in people]

    def again(number):
        return all(torch.equal(told(prompt, people[number]), alone[number]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(again, range(8)))


def test_gradients_reach_every_weight_and_the_vector(prompt):
    identity = vectors().requires_grad_(True)
    prompt.requires_grad_(True)
    prompt(identity, HERE).square().sum().backward()
    assert identity.grad.abs().sum() > 0
    assert all(weight.grad is not None for weight in prompt.model.parameters())
    table = prompt.model.embeddings.token_embedding.weight.grad
    assert table[prompt.asked[prompt.place]].abs().sum() == 0, "the word's own embedding is unused"
    assert table[prompt.asked[1]].abs().sum() > 0


def test_transformers_reads_what_is_saved_under_clip_s_own_names(prompt, tmp_path):
    prompt.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as held:
        assert all(name.startswith("text_model.") for name in held.keys())  # noqa: SIM118
        assert "text_model.embeddings.token_embedding.weight" in held.keys()  # noqa: SIM118
    model = read_transformer(CLIPTextModel, tmp_path)
    ours = prompt.model.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in model.state_dict().items())
    again = IdentityPrompt.load(tmp_path).eval()
    assert torch.equal(told(again, vectors()), told(prompt, vectors()))
    held = prompt.read(tmp_path)
    assert held.keys() == dict(prompt.named_parameters()).keys()


def test_a_folder_without_prompts_is_refused(prompt, tmp_path):
    prompt.save(tmp_path)
    (tmp_path / "prompt.safetensors").unlink()
    with pytest.raises(BadWeights, match=r"prompt\.safetensors.*does not exist"):
        IdentityPrompt.load(tmp_path)
