"""The way through vLLM, as far as it goes without an engine; the rest needs a GPU."""

import importlib.util

import pyarrow as pa
import pytest
import ray.data

from infra.errors import BadWeights
from pipelines.captions.vllm import answer_rows, caption_with_vllm, engine, question_row
from pipelines.recipes import Workers
from stages.captions.prompt import prompt
from stages.captions.settings import CaptionSettings
from stages.columns import COLUMNS
from tests.pipelines.captioning import Corpus, row
from tests.stages.captions.models import save_vlm
from tests.stages.captions.servers import GOOD, MERGED

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return CaptionSettings(backend="vllm", model=save_vlm(tmp_path_factory.mktemp("vlm")))


def test_the_engine_is_set_up_as_rays_own_configuration_wants_it(settings):
    made = engine(settings, Workers(captioners=2))
    assert f"file:{made.model_source}" == settings.model
    assert (made.concurrency, made.batch_size, made.should_continue_on_error) == (2, 8, True)
    assert made.prepare_multimodal_stage.enabled
    assert made.engine_kwargs["limit_mm_per_prompt"] == {"image": 1}


def test_a_plan_is_made_with_every_stage_and_no_engine_is_started(settings, capsys):
    caption_with_vllm(ray.data.from_items([row(1)]), settings, Workers()).explain()
    plan = capsys.readouterr().out
    stages = ["answer_rows", "DetokenizeUDF", "vLLMEngineStageUDF", "ChatTemplateUDF",
              "PrepareMultimodalUDF"]  # fmt: skip
    places = [plan.index(stage) for stage in stages]  # the last is written first
    assert places == sorted(places)


def test_a_question_survives_the_way_to_the_engine_as_it_is(settings):
    asked = question_row(row(1), settings)
    (came,) = ray.data.from_items([asked]).map(lambda row: row).take_all()
    system, user = came["messages"]
    assert system == {"role": "system", "content": prompt("picture").system}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][0]["uuid"] == f"{1:032x}"
    schema = came["sampling_params"]["structured_outputs"]["json"]
    assert list(schema["required"]) == ["attributes", "action", "merged"]


def test_every_row_comes_out_with_its_caption_or_the_reason_why_not(settings):
    carried = {"id": "a", "label": "", "error": "", "error_detail": ""}
    said = {"generated_text": GOOD, "num_input_tokens": 90, "num_generated_tokens": 30,
            "time_taken_llm": 0.5, "__inference_error__": ""}  # fmt: skip
    broken = question_row(row(4, blob=b"no picture"), settings)
    rows = [
        carried | said,
        carried | said | {"id": "b", "generated_text": GOOD[:20]},
        carried | said | {"id": "c", "__inference_error__": "out of memory"},
        carried | said | {name: broken[name] for name in carried},
    ]
    told = answer_rows(pa.Table.from_pylist(rows), settings, "vlm@1").to_pylist()
    assert [(each["status"], each["error"]) for each in told] == [
        ("keep", ""), ("error", "caption_schema"), ("error", "stage_failed"),
        ("error", "not_an_image"),
    ]  # fmt: skip
    assert told[0]["caption_merged"] == MERGED
    assert (told[0]["caption_model"], told[0]["caption_output_tokens"]) == ("vlm@1", 30)
    assert "out of memory" in told[2]["error_detail"]
    assert set(told[0]) <= set(COLUMNS)


def test_a_model_that_is_not_there_is_refused_before_any_engine(tmp_path):
    gone = CaptionSettings(backend="vllm", model=f"file:{tmp_path}/gone")
    with pytest.raises(BadWeights, match="does not exist"):
        engine(gone, Workers())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_an_engine_captions_every_kept_row_once(settings, tmp_path):
    corpus = Corpus(tmp_path, rows=10)
    corpus.caption(settings)
    done = (corpus.home / "caption").read_json("summary.json")
    assert done["captions"] == 8
    assert done["output_tokens"] > 0
