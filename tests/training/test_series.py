import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import BadValue
from tests.training.methods.adapters import FEATURES, POOLED, SD, drawn
from training.features import EMPTY_FILE
from training.methods.ip_adapter_faceid import IPAdapterFaceID
from training.nets.text import load_clip_text, load_text_encoder
from training.series import reweighted, series
from training.settings import BaseModelSettings, MethodSettings, TrainRecipe

SUBJECT, SCENES = "an old man", ("reads", "swims far", "is asleep")


def singular(states):
    return torch.linalg.svdvals(states.double())


def test_one_scene_alone_grows_by_the_published_weights():
    text = drawn(6, 4)
    (row,) = reweighted(text, [range(2, 4)], range(4, 6))
    assert torch.equal(row[:2], text[:2])
    values = singular(text[2:])
    torch.testing.assert_close(singular(row[2:]), values * torch.exp(0.01 * values))


def test_singular_directions_stay():
    """States of one direction stay in it: only their length changes."""
    text = torch.zeros(4, 3)
    text[1:] = torch.tensor([3.0, 0.0, 4.0])
    (row,) = reweighted(text, [range(1, 3)], range(3, 4))
    size = 5 * 3**0.5
    expected = text[1:] * torch.exp(torch.tensor(0.01 * size))
    torch.testing.assert_close(row[1:], expected)


def test_other_scenes_shrink_and_the_subject_stays():
    text = drawn(8, 16)
    first, second = reweighted(text, [range(2, 4), range(4, 6)], range(6, 8))
    for row, said, silent in (
        (first, slice(2, 4), slice(4, 6)),
        (second, slice(4, 6), slice(2, 4)),
    ):
        assert torch.equal(row[:2], text[:2])
        assert (row[said].norm(dim=1) > 0.9 * text[said].norm(dim=1)).all()
        assert (row[silent].norm(dim=1) < 0.1 * text[silent].norm(dim=1)).all()
    assert torch.equal(text, drawn(8, 16)), "what is given is not written to"


def test_a_scene_s_place_is_where_its_tokens_are():
    encoder, (tokenizer, _) = load_text_encoder("random:tiny-sd"), load_clip_text("random:tiny-sd")
    told = series(encoder, tokenizer, SUBJECT, SCENES)
    rows = told["text"]
    assert rows.shape == (3, encoder.tokens, encoder.width)
    assert told["pooled"] is None
    plain, _ = encoder.encode([" ".join([SUBJECT, *SCENES])])
    start = len(tokenizer(SUBJECT)["input_ids"]) - 1
    assert (rows[:, :start] == plain[0, :start]).all(), "the subject is the same in all"
    for number, scene in enumerate(SCENES):
        count = len(tokenizer(scene)["input_ids"]) - 2
        share = rows[:, start : start + count].norm(dim=(1, 2))
        assert share.argmax() == number
        assert (share > 0.5 * share.max()).sum() == 1
        start += count


def test_a_scene_in_the_subject_s_own_words_is_not_taken_for_it():
    """The original looks for a scene's words, and finds the first: here the subject's."""
    encoder, (tokenizer, _) = load_text_encoder("random:tiny-sd"), load_clip_text("random:tiny-sd")
    told = series(encoder, tokenizer, SUBJECT, [SUBJECT, "reads"])
    count = told["series_text"].shape[1]
    plain, _ = encoder.encode([f"{SUBJECT} {SUBJECT} reads"])
    assert torch.equal(told["text"][:, :count], plain[:, :count].expand(2, -1, -1))
    again = slice(count, 2 * count - 1)
    assert not torch.equal(told["text"][1, again], plain[0, again])


@pytest.mark.parametrize("name", ["random:tiny-sd", "random:tiny-sdxl"])
def test_the_subject_is_what_its_own_prompt_says_whatever_the_scenes(name):
    """So it is that of the original's first pass, with nothing of a scene in it; both towers'."""
    encoder, (tokenizer, _) = load_text_encoder(name), load_clip_text(name)
    told, others = (
        series(encoder, tokenizer, SUBJECT, scenes) for scenes in (SCENES, ("runs", "eats", "is"))
    )
    count = len(tokenizer(SUBJECT)["input_ids"]) - 1
    alone, _ = encoder.encode([SUBJECT])
    assert told["series_text"].shape == (3, count, encoder.width)
    torch.testing.assert_close(told["series_text"], alone[:, :count].expand(3, -1, -1))
    torch.testing.assert_close(told["series_text"], others["series_text"])
    assert torch.equal(told["series_text"], told["text"][:, :count]), "reweighting leaves it"


def test_two_encoders_and_their_pooled_text_do_as_well():
    name = "random:tiny-sdxl"
    told = series(load_text_encoder(name), load_clip_text(name)[0], SUBJECT, SCENES)
    assert told["text"].shape[::2] == (3, 32)
    assert told["pooled"].shape == (3, POOLED)
    assert (told["pooled"] == told["pooled"][0]).all()


@pytest.fixture
def export(tmp_path):
    """An adapter on a base that reads prompts."""
    encoder = load_text_encoder(SD)
    empty, _ = encoder.encode([""])
    save_file({"text": empty[0].clone()}, tmp_path / EMPTY_FILE)
    features = replace(FEATURES, text_shape=tuple(empty.shape[1:]), text_encoder=SD)
    base = BaseModelSettings(weights=SD)
    recipe = TrainRecipe(name="test", base=base, method=MethodSettings())
    IPAdapterFaceID(recipe, features, tmp_path).save(tmp_path / "export")
    return tmp_path / "export"


def test_the_readme_s_way_to_draw_a_series_is_true(export, monkeypatch):
    readme = (Path(__file__).parents[2] / "training/README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "training.series" in block)
    monkeypatch.chdir(export.parent)
    held = {}
    exec(code.replace("steps=30", "steps=2"), held)  # the README's own code
    pictures, told = held["pictures"], held["told"]
    assert len(pictures) == len(told["text"]) > 1
    assert pictures.shape[1:] == (3, 64, 64)
    assert not torch.equal(pictures[0], pictures[1]), "scenes differ"


def test_what_cannot_be_told_is_refused():
    encoder, (tokenizer, _) = load_text_encoder("random:tiny-sd"), load_clip_text("random:tiny-sd")
    with pytest.raises(BadValue, match="name what is different"):
        series(encoder, tokenizer, SUBJECT, [])
    with pytest.raises(BadValue, match=f"over {encoder.tokens} tokens; tell fewer"):
        series(encoder, tokenizer, SUBJECT, ["runs and runs"] * 40)
