"""Ask a model about pictures, check what it answers, and let it repair it once."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from stages.captions.prompt import BadAnswer, Prompt, prompt, repair
from stages.types import RGB

_QUALITY = 90
_DETAIL_CHARS = 300


class Frame:
    """A picture as a model is shown it: already of its size, and encoded at most once."""

    def __init__(self, pixels: RGB) -> None:
        self.pixels = pixels

    @cached_property
    def data_uri(self) -> str:
        """The picture as a JPEG in a ``data:`` URI."""
        packed = io.BytesIO()
        Image.fromarray(self.pixels).save(packed, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


@dataclass(frozen=True)
class Question:
    """One prompt, about some frames."""

    prompt: Prompt
    frames: tuple[Frame, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """What is put into the prompt."""
    refused: tuple[str, str] | None = None
    """An answer to the same question that would not do, and why."""

    def turns(self) -> list[tuple[str, str]]:
        """Return the conversation as (role, text); frames belong before the first ``user``."""
        turns = [("system", self.prompt.system), ("user", self.prompt.told(**self.words))]
        if self.refused is not None:
            answer, why = self.refused
            turns += [("assistant", answer), ("user", repair(why, self.prompt))]
        return turns

    def messages(
        self, pictures: Sequence[Mapping[str, Any]], *, plain: bool
    ) -> list[dict[str, Any]]:
        """Return the conversation in OpenAI's form.

        Args:
            pictures: The frames, as content parts.
            plain: Write a turn without pictures as a string, which every server takes; else as a
                list of one part, which the chat templates of local models want.
        """
        messages: list[dict[str, Any]] = []
        for number, (role, text) in enumerate(self.turns()):
            shown = pictures if number == 1 else ()
            parts = [*shown, {"type": "text", "text": text}]
            messages.append({"role": role, "content": text if plain and not shown else parts})
        return messages


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    text: str = ""
    model: str = ""
    """Which model says so, as it names itself."""
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """From asking to the last token; a batch's are shared out among its questions."""
    error: str = ""
    """A name in ``ERRORS`` where there is no answer."""
    detail: str = ""


@runtime_checkable
class Captioner(Protocol):
    """A model that sees."""

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer every question, in their order. What concerns no single question is raised."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer(Reply):
    """A reply that was read."""

    fields: Mapping[str, str] = field(default_factory=dict)
    """By key of the prompt; empty where ``error`` says why."""
    asks: int = 1
    """How often the model was asked: 2 after a repair."""
    prompts: str = ""
    """Tag of the prompt."""


def ask(captioner: Captioner, questions: Sequence[Question]) -> list[Answer]:
    """Ask, and ask again, once, those whose answer is not of its prompt's schema."""
    if not questions:
        return []
    first = [read_reply(q, r) for q, r in zip(questions, captioner(questions), strict=True)]
    again = [at for at, answer in enumerate(first) if answer.error == "caption_schema"]
    if not again:
        return first
    repairs = [replace(questions[at], refused=(first[at].text, first[at].detail)) for at in again]
    for at, question, reply in zip(again, repairs, captioner(repairs), strict=True):
        first[at] = _sum(first[at], read_reply(question, reply))
    return first


def read_reply(question: Question, reply: Reply) -> Answer:
    """Hold a reply against its prompt's schema."""
    held = {name: getattr(reply, name) for name in Reply.__dataclass_fields__}
    answer = Answer(**held, prompts=question.prompt.tag)
    if reply.error:
        return answer
    try:
        return replace(answer, fields=question.prompt.read(reply.text))
    except BadAnswer as problem:
        return replace(answer, error="caption_schema", detail=str(problem)[:_DETAIL_CHARS])


def _sum(before: Answer, after: Answer) -> Answer:
    """Return the later answer, with what both of them took."""
    return replace(
        after,
        asks=before.asks + after.asks,
        input_tokens=before.input_tokens + after.input_tokens,
        output_tokens=before.output_tokens + after.output_tokens,
        seconds=before.seconds + after.seconds,
        model=after.model or before.model,
    )


def _join(before: Answer, after: Answer) -> Answer:
    """Return the fields of two answers about one picture, and what both of them took."""
    return replace(
        _sum(before, after),
        fields={} if after.error else {**before.fields, **after.fields},
        prompts=f"{before.prompts}+{after.prompts}",
    )


def describe_pictures(
    captioner: Captioner, frames: Sequence[Frame], *, parts: bool = False
) -> list[Answer]:
    """Describe pictures: ``attributes``, ``action``, ``merged``; with ``parts`` five fields more.

    References:
        ID-Animator, arXiv:2404.15275 (decoupled captions); ConsistentID, arXiv:2404.16771 (parts).
        One question asks for all three captions, where ID-Animator asks three times: the model
        sees the same picture, and a third of the tokens go in.
    """
    told = ask(captioner, [Question(prompt("picture"), (frame,)) for frame in frames])
    return _with_parts(captioner, told, frames) if parts else told


def _with_parts(captioner: Captioner, told: list[Answer], frames: Sequence[Frame]) -> list[Answer]:
    """Ask for the parts of the face where all went well so far."""
    fine = [at for at, answer in enumerate(told) if not answer.error]
    more = ask(captioner, [Question(prompt("parts"), (frames[at],)) for at in fine])
    for at, answer in zip(fine, more, strict=True):
        told[at] = _join(told[at], answer)
    return told


@dataclass(frozen=True)
class Clip:
    """What a model is shown of a video."""

    best: Frame
    """The frame that shows the main person best."""
    frames: tuple[Frame, ...]
    """Frames sampled over the clip, in their order."""


def describe_clips(
    captioner: Captioner, clips: Sequence[Clip], *, parts: bool = False
) -> list[Answer]:
    """Describe videos: ``attributes`` from the best frame, ``action`` from all, ``merged`` of both.

    With ``parts`` five fields more, from the best frame.

    References:
        ID-Animator, arXiv:2404.15275, section 3.3.
    """
    looks = [Question(prompt("attributes"), (clip.best,)) for clip in clips]
    deeds = [Question(prompt("action"), clip.frames) for clip in clips]
    answers = ask(captioner, [*looks, *deeds])
    told = [
        before if before.error else _join(before, after)
        for before, after in zip(answers[: len(clips)], answers[len(clips) :], strict=True)
    ]
    fine = [at for at, answer in enumerate(told) if not answer.error]
    merged = ask(captioner, [Question(prompt("merge"), (), told[at].fields) for at in fine])
    for at, answer in zip(fine, merged, strict=True):
        told[at] = _join(told[at], answer)
    return _with_parts(captioner, told, [clip.best for clip in clips]) if parts else told
