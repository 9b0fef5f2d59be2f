import pytest
import torch

from infra.errors import BadValue
from tests.training.methods.adapters import POOLED, drawn
from training.nets.text import load_clip_text, load_text_encoder
from training.series import reweighted, series

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
    rows, pooled = series(encoder, tokenizer, SUBJECT, SCENES)
    assert rows.shape == (3, encoder.tokens, encoder.width)
    assert pooled is None
    plain, _ = encoder.encode([" ".join([SUBJECT, *SCENES])])
    start = len(tokenizer(SUBJECT)["input_ids"]) - 1
    assert (rows[:, :start] == plain[0, :start]).all(), "the subject is the same in all"
    for number, scene in enumerate(SCENES):
        count = len(tokenizer(scene)["input_ids"]) - 2
        share = rows[:, start : start + count].norm(dim=(1, 2))
        assert share.argmax() == number
        assert (share > 0.5 * share.max()).sum() == 1
        start += count


def test_two_encoders_and_their_pooled_text_do_as_well():
    name = "random:tiny-sdxl"
    rows, pooled = series(load_text_encoder(name), load_clip_text(name)[0], SUBJECT, SCENES)
    assert rows.shape[::2] == (3, 32)
    assert pooled.shape == (3, POOLED)
    assert (pooled == pooled[0]).all()


def test_what_cannot_be_told_is_refused():
    encoder, (tokenizer, _) = load_text_encoder("random:tiny-sd"), load_clip_text("random:tiny-sd")
    with pytest.raises(BadValue, match="name what is different"):
        series(encoder, tokenizer, SUBJECT, [])
    with pytest.raises(BadValue, match=f"over {encoder.tokens} tokens; tell fewer"):
        series(encoder, tokenizer, SUBJECT, ["runs and runs"] * 40)
