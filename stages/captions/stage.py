"""The stage that writes captions, whoever makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.captions.alt import clean
from stages.captions.ask import Answer, Captioner, Frame, describe_pictures
from stages.captions.checks import first_fault
from stages.captions.redact import redact
from stages.captions.settings import CaptionSettings
from stages.captions.template import describe
from stages.columns import COLUMNS
from stages.decode import BadPicture, decode
from stages.types import RGB, Batch

CAPTIONED = tuple(name for name, column in COLUMNS.items() if column.written_by == "caption")
"""The columns that hold captions and what is known of them."""
PARTS = ("face", "ears", "eyes", "nose", "mouth")
MEASURED = (
    "caption", "label", "num_faces", "width_px", "height_px", "face_area_shares",
    "face_yaws_deg", "face_pitches_deg", "face_rolls_deg", "face_exposures",
)  # fmt: skip
"""What the stage reads of a row, beside its picture."""
Match = Callable[[Sequence[RGB], Sequence[str]], Sequence[float]]
"""Says how well pictures and texts go together, as cosines."""


class Caption:
    """Write a caption for every row, or say why it is no good.

    A caption that breaks a rule is kept beside the name of the rule, so that it can be looked at.

    Args:
        settings: Who writes, and what is asked of a caption.
        captioner: Makes the model that sees, where ``settings`` wants one.
        match: Makes the model that compares, where ``settings`` wants one.
    """

    writes = (*CAPTIONED, "rejected_by", "error", "error_detail")

    def __init__(
        self,
        settings: CaptionSettings,
        captioner: Callable[[], Captioner] | None = None,
        match: Callable[[], Match] | None = None,
    ) -> None:
        self.settings = settings
        self._captioner = captioner() if captioner else None
        self._match = match() if match else None
        self._sees = self._captioner is not None or self._match is not None
        self.reads = (*MEASURED, *(("blob",) if self._sees else ()))

    def __call__(self, batch: Batch) -> Batch:
        """Caption every row of ``batch``."""
        rows = [
            dict(zip(self.reads, row, strict=True))
            for row in zip(*(batch[name] for name in self.reads), strict=True)
        ]
        told: list[dict[str, Any]] = [blank() for _ in rows]
        frames = [self._frame(row, out) for row, out in zip(rows, told, strict=True)]
        self._tell(rows, frames, told)
        for row, out in zip(rows, told, strict=True):
            settle(out, self.settings, str(row["label"] or ""))
        if self._match is not None:
            compare(self._match, self.settings, frames, told)
        return {name: [out[name] for out in told] for name in self.writes}

    def _frame(self, row: Mapping[str, Any], out: dict[str, Any]) -> Frame | None:
        """Decode a picture at the model's size, once; None where nobody looks, or it is broken."""
        if not self._sees:
            return None
        try:
            return Frame(decode(bytes(row["blob"]), work_px=self.settings.picture_px).pixels)
        except BadPicture as problem:
            out |= {"error": problem.error, "error_detail": problem.detail}
            return None

    def _tell(
        self,
        rows: Sequence[Mapping[str, Any]],
        frames: Sequence[Frame | None],
        told: Sequence[dict[str, Any]],
    ) -> None:
        """Fill in what the backend says."""
        if self._captioner is not None:
            shown = [(frame, out) for frame, out in zip(frames, told, strict=True) if frame]
            pictures = [frame for frame, _ in shown]
            answers = describe_pictures(self._captioner, pictures, parts=self.settings.parts)
            for (_, out), answer in zip(shown, answers, strict=True):
                out |= answered(answer, self.settings.backend)
            return
        for row, out in zip(rows, told, strict=True):
            if self.settings.backend == "template":
                words = describe(row)
            else:
                words = {"merged": clean(str(row["caption"] or ""))}
            out |= {f"caption_{name}": text for name, text in words.items()}
            out["caption_source"] = self.settings.backend


def compare(
    match: Match,
    settings: CaptionSettings,
    frames: Sequence[Frame | None],
    told: Sequence[dict[str, Any]],
) -> None:
    """Ask how well captions and pictures go together, and reject those that do not."""
    pairs = [
        (frame.pixels, out)
        for frame, out in zip(frames, told, strict=True)
        if frame and not out["error"] and out["caption_merged"]
    ]
    if not pairs:
        return
    scores = match([pixels for pixels, _ in pairs], [out["caption_merged"] for _, out in pairs])
    for (_, out), score in zip(pairs, scores, strict=True):
        out["caption_match"] = float(score)
        if score < settings.min_match and not out["rejected_by"]:
            out["rejected_by"] = "caption_mismatch"


def blank() -> dict[str, Any]:
    """Return the columns of a row that nobody has said anything of."""
    texts = ("merged", "attributes", "action", "source", "model", "prompt")
    numbers = ("asks", "input_tokens", "output_tokens", "redacted")
    return {
        **{f"caption_{name}": "" for name in texts},
        **{f"caption_{name}": 0 for name in numbers},
        "caption_parts": None, "caption_s": 0.0, "caption_match": None,
        "rejected_by": "", "error": "", "error_detail": "",
    }  # fmt: skip


def answered(answer: Answer, source: str) -> dict[str, Any]:
    """Return the columns that a model's answer fills."""
    told = {f"caption_{name}": answer.fields.get(name, "") for name in
            ("merged", "attributes", "action")}  # fmt: skip
    parts = {name: answer.fields[name] for name in PARTS if name in answer.fields}
    return told | {
        "caption_parts": parts or None,
        "caption_source": source,
        "caption_model": answer.model,
        "caption_prompt": answer.prompts,
        "caption_asks": answer.asks,
        "caption_input_tokens": answer.input_tokens,
        "caption_output_tokens": answer.output_tokens,
        "caption_s": answer.seconds,
        "error": answer.error,
        "error_detail": answer.detail,
    }


def settle(out: dict[str, Any], settings: CaptionSettings, label: str = "") -> None:
    """Take names out of a row's captions, and reject it if its caption breaks a rule."""
    if out["error"]:
        return
    if settings.redact_names and out["caption_source"] != "template":  # which knows no names
        known = [label] if label else []
        for name in ("caption_merged", "caption_attributes", "caption_action"):
            out[name], hits = redact(out[name], known)
            out["caption_redacted"] += hits
        if parts := out["caption_parts"]:
            found = {name: redact(text, known) for name, text in parts.items()}
            out["caption_parts"] = {name: text for name, (text, _) in found.items()}
            out["caption_redacted"] += sum(hits for _, hits in found.values())
    out["rejected_by"] = first_fault(out["caption_merged"], settings)
