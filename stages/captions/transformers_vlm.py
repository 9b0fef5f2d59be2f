"""A vision-language model of this machine, by transformers: any that its Auto classes know."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from infra.errors import BadWeights
from stages.captions.ask import Question, Reply
from stages.captions.weights import card, folder


class TransformersCaptioner:
    """Asks a local model, some questions at a time, and takes the likeliest token each time.

    Questions of unequal length share a batch by padding on the left. So that an answer does not
    depend on who shares its batch, only questions with as many pictures do; what the padding's
    rounding still moves is the last digit of a likelihood.

    Args:
        model: Folder of the model, by reference.
        device: Where it runs.
        batch_rows: Questions at a time.
        max_tokens: Most tokens of one answer.

    Raises:
        BadValue: The reference has no known scheme.
        BadWeights: There is no such model, or transformers cannot load it.
    """

    def __init__(
        self, model: str, *, device: str = "cpu", batch_rows: int = 8, max_tokens: int = 400
    ) -> None:
        path = folder(model)
        self.device, self.batch_rows, self.max_tokens = device, batch_rows, max_tokens
        self.card = card(model)
        try:
            self.processor: Any = AutoProcessor.from_pretrained(path, local_files_only=True)
            self.model: Any = AutoModelForImageTextToText.from_pretrained(
                path, local_files_only=True, use_safetensors=True, dtype="auto"
            )
        except (OSError, ValueError, KeyError, TypeError) as problem:
            why = f"is not loaded by transformers: {problem}"
            raise BadWeights(str(path), why, "Name a vision-language model's folder.") from None
        if getattr(self.processor, "chat_template", None) is None:
            why = "has no chat template, so it cannot be asked"
            raise BadWeights(str(path), why, "Name a model that was trained to follow a prompt.")
        self.processor.tokenizer.padding_side = "left"
        if self.processor.tokenizer.pad_token is None:
            self.processor.tokenizer.pad_token = self.processor.tokenizer.eos_token
        self.model.to(device).eval()

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer every question, in their order."""
        replies: dict[int, Reply] = {}
        order = sorted(range(len(questions)), key=lambda at: (len(questions[at].frames), at))
        while order:
            frames = len(questions[order[0]].frames)
            alike = [at for at in order[: self.batch_rows] if len(questions[at].frames) == frames]
            order = order[len(alike) :]
            told = self._batch([questions[at] for at in alike])
            replies |= dict(zip(alike, told, strict=True))
        return [replies[at] for at in range(len(questions))]

    @torch.inference_mode()
    def _batch(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer a few questions at once."""
        began = time.monotonic()
        talks = [
            question.messages(
                [{"type": "image", "image": Image.fromarray(f.pixels)} for f in question.frames],
                plain=False,
            )
            for question in questions
        ]
        inputs = self.processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self.device, dtype=self.model.dtype)
        made = self.model.generate(
            **inputs,
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        new = made[:, inputs["input_ids"].shape[1] :].cpu()
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        seconds = (time.monotonic() - began) / len(questions)
        asked = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            Reply(
                text=text,
                model=self.card.tag,
                input_tokens=int(tokens),
                output_tokens=self._length(row),
                seconds=seconds,
            )
            for text, row, tokens in zip(texts, new, asked, strict=True)
        ]

    def _length(self, tokens: torch.Tensor) -> int:
        """Count the tokens of an answer, up to and with the one that ends it."""
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends])
        at = torch.isin(tokens, ends).nonzero()
        return int(at[0, 0]) + 1 if len(at) else len(tokens)
