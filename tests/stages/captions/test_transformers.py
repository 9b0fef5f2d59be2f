"""Local models: true processors, true generate, random weights."""

import numpy as np
import pytest
import torch

from infra.errors import BadWeights
from stages.captions.ask import Frame, Question, ask
from stages.captions.match import ClipMatch
from stages.captions.prompt import prompt
from stages.captions.settings import CaptionSettings
from stages.captions.stage import MEASURED, Caption
from stages.captions.transformers_vlm import TransformersCaptioner
from stages.captions.weights import card
from tests.pipelines.captioning import row
from tests.stages.captions.models import save_clip, save_vlm

TOKENS = 12


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    torch.manual_seed(0)
    return save_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def captioner(vlm):
    return TransformersCaptioner(vlm, batch_rows=2, max_tokens=TOKENS)


def frame(seed):
    return Frame(np.random.default_rng(seed).integers(0, 256, (40, 28, 3), np.uint8))


def questions():
    return [
        Question(prompt("picture"), (frame(0),)),
        Question(prompt("parts"), (frame(1),)),
        Question(prompt("merge"), (), {"attributes": "Brown hair.", "action": "She smiles."}),
        Question(prompt("action"), (frame(2), frame(3), frame(4))),
        Question(prompt("picture"), (frame(5),)),
    ]


def test_an_answer_is_the_same_alone_and_in_a_batch_of_others(captioner):
    together = captioner(questions())
    alone = [captioner([question])[0] for question in questions()]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.input_tokens for reply in together] == [reply.input_tokens for reply in alone]


def test_an_answer_depends_on_the_picture_and_its_tokens_are_counted(captioner, vlm):
    one, other = captioner([Question(prompt("picture"), (frame(n),)) for n in (0, 5)])
    assert one.text != other.text
    assert 1 <= one.output_tokens <= TOKENS
    patches = (28 // 14) ** 2
    bare = captioner([Question(prompt("picture"))])[0]
    assert one.input_tokens == bare.input_tokens + patches
    assert one.model == card(vlm).tag
    assert one.seconds > 0


def test_a_model_that_speaks_no_json_is_asked_twice_and_named(captioner):
    (told,) = ask(captioner, [Question(prompt("picture"), (frame(0),))])
    assert (told.error, told.asks) == ("caption_schema", 2)


def test_the_stage_carries_model_prompt_and_tokens_into_every_row(vlm):
    settings = CaptionSettings(backend="transformers", model=vlm, max_tokens=TOKENS)
    stage = Caption(settings, lambda: TransformersCaptioner(vlm, max_tokens=TOKENS))
    rows = [row(1), row(2), row(3, blob=b"no picture")]
    told = stage({name: [each[name] for each in rows] for name in (*MEASURED, "blob")})
    assert set(told) == set(stage.writes)
    assert told["error"] == ["caption_schema", "caption_schema", "not_an_image"]
    assert told["caption_model"] == [card(vlm).tag] * 2 + [""]
    assert told["caption_prompt"] == [prompt("picture").tag] * 2 + [""]
    assert min(told["caption_output_tokens"][:2]) > 0


def test_clip_scores_a_pair_whatever_stands_beside_it_and_long_texts_are_cut(clip):
    match = ClipMatch(clip)
    pictures = [frame(n).pixels for n in range(3)]
    texts = ["a woman", "a man in a coat " * 40, "nobody"]
    together = match(pictures, texts)
    alone = [match([p], [t])[0] for p, t in zip(pictures, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in together}) == 3
    assert max(map(abs, together)) <= 1


def test_captions_that_do_not_match_are_rejected_by_name(clip):
    def stage(min_match):
        settings = CaptionSettings(backend="alt", match_model=clip, min_match=min_match)
        return Caption(settings, match=lambda: ClipMatch(clip))

    rows = [row(1), row(2)]
    batch = {name: [each[name] for each in rows] for name in (*MEASURED, "blob")}
    scores = stage(-1.0)(batch)["caption_match"]
    told = stage(sum(scores) / 2)(batch)
    expected = ["" if score == max(scores) else "caption_mismatch" for score in scores]
    assert told["rejected_by"] == expected
    assert sorted(expected) == ["", "caption_mismatch"]


def test_a_folder_that_is_no_model_is_refused_with_its_name(tmp_path, clip):
    with pytest.raises(BadWeights, match=r"no config\.json"):
        TransformersCaptioner(f"file:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadWeights, match=r"no \*\.safetensors"):
        card(f"file:{tmp_path}")
    with pytest.raises(BadWeights, match="not loaded by transformers"):
        TransformersCaptioner(clip)
