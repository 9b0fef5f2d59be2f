"""Captions by vLLM engines that Ray Data feeds: for machines that have the GPUs.

Nothing here imports vLLM. The engines load it, when the rows begin to flow.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from ray.data import Dataset
from ray.data.llm import (
    ChatTemplateStageConfig,
    PrepareMultimodalStageConfig,
    build_processor,
    vLLMEngineProcessorConfig,
)

from pipelines.recipes import Workers
from stages.captions.ask import Answer, Frame, Question, Reply, read_reply
from stages.captions.prompt import prompt
from stages.captions.settings import CaptionSettings
from stages.captions.stage import CAPTIONED, answered, blank, settle
from stages.captions.weights import card, folder
from stages.chain import as_arrow
from stages.decode import BadPicture, decode

_CARRIED = ("id", "label", "error", "error_detail")
_FAILED = "__inference_error__"
"""Where Ray puts what went wrong with one row."""
_CONTEXT_TOKENS = 8192
_NO_PICTURE_PX = 28


def engine(settings: CaptionSettings, workers: Workers) -> vLLMEngineProcessorConfig:
    """Return how the engines are set up; nothing is loaded.

    Raises:
        BadWeights: There is no such model on this machine.
    """
    return vLLMEngineProcessorConfig(
        model_source=str(folder(settings.model)),
        engine_kwargs={
            "max_model_len": _CONTEXT_TOKENS,
            "enable_prefix_caching": True,  # all rows share their prompt
            "limit_mm_per_prompt": {"image": 1},
        },
        batch_size=settings.batch_rows,
        concurrency=workers.captioners,
        should_continue_on_error=True,
        prepare_multimodal_stage=PrepareMultimodalStageConfig(
            enabled=True, chat_template_content_format="openai"
        ),
        chat_template_stage=ChatTemplateStageConfig(enabled=True),
    )


def caption_with_vllm(rows: Dataset, settings: CaptionSettings, workers: Workers) -> Dataset:
    """Append captions and verdicts to kept rows that carry their ``blob``.

    The engine is kept to the prompt's schema while it writes, so what `http` and `transformers`
    repair by a second question cannot happen, but for an answer that ``max_tokens`` cuts short.

    Args:
        rows: Kept rows with ``id``, ``label`` and ``blob``.
        settings: The model, and what is asked of its captions.
        workers: How many engines.

    Raises:
        BadWeights: There is no such model on this machine.
    """
    tag = card(settings.model).tag
    processor = build_processor(
        engine(settings, workers),
        preprocess=partial(question_row, settings=settings),
        postprocess=_whole,
    )
    return processor(rows).map_batches(
        partial(answer_rows, settings=settings, tag=tag), batch_format="pyarrow"
    )


def question_row(row: Mapping[str, Any], settings: CaptionSettings) -> dict[str, Any]:
    """Turn a row into what the engine is asked.

    A picture that cannot be decoded goes along as a grey square with its error: the engine takes
    every row it is given, and the row must come out again.
    """
    out = {name: row[name] or "" for name in _CARRIED}
    try:
        pixels = decode(bytes(row["blob"]), work_px=settings.picture_px).pixels
    except BadPicture as problem:
        out |= {"error": problem.error, "error_detail": problem.detail}
        pixels = np.full((_NO_PICTURE_PX, _NO_PICTURE_PX, 3), 128, np.uint8)
    frame = Frame(pixels)
    shown = {"type": "image_url", "image_url": {"url": frame.data_uri}, "uuid": row["id"]}
    asked = Question(prompt("picture"), (frame,))
    return out | {
        "messages": asked.messages([shown], plain=True),
        "sampling_params": {
            "max_tokens": settings.max_tokens,
            "temperature": 0.0,
            "structured_outputs": {"json": asked.prompt.schema},
        },
    }


def answer_rows(table: pa.Table, settings: CaptionSettings, tag: str) -> pa.Table:
    """Turn what the engine said into captions and verdicts."""
    told = [_answer(row, settings, tag) for row in table.to_pylist()]
    names = ["id", *CAPTIONED, "rejected_by", "error", "error_detail", "status", "timings"]
    return pa.table({name: as_arrow(name, [row[name] for row in told]) for name in names})


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """Keep every column of an engine's answer; by default Ray keeps none that was carried."""
    return dict(row)


def _answer(row: Mapping[str, Any], settings: CaptionSettings, tag: str) -> dict[str, Any]:
    """Read one answer."""
    out = blank()
    if row["error"]:
        out |= {"error": row["error"], "error_detail": row["error_detail"]}
    elif failed := row.get(_FAILED):
        out |= {"error": "stage_failed", "error_detail": f"vLLM: {failed}"[:500]}
    else:
        reply = Reply(
            text=row["generated_text"] or "",
            model=tag,
            input_tokens=int(row.get("num_input_tokens") or 0),
            output_tokens=int(row.get("num_generated_tokens") or 0),
            seconds=float(row.get("time_taken_llm") or 0.0),
        )
        said: Answer = read_reply(Question(prompt("picture")), reply)
        out |= answered(said, "vllm")
        settle(out, settings, row["label"])
    status = "error" if out["error"] else "reject" if out["rejected_by"] else "keep"
    seconds = out["caption_s"]
    timings = [("vLLM", seconds)] if seconds else []
    return out | {"id": row["id"], "status": status, "timings": timings}
