"""What a model can draw, and what it refuses: the checks that need the model, not its network."""

from typing import Any

from serving.errors import Refusal
from serving.recipes import ImageSettings
from serving.types import Draw, Edit, ModelInfo, Reference

NO_FACE = (
    "{} also looks at the face itself, and of this person only vectors were kept; send "
    "photographs, or enrol them again where the server keeps faces (people.crops)."
)
NO_REFERENCE = "{} takes no reference: it draws whom it learnt, or nobody in particular."


def check(ask: Draw, info: ModelInfo, settings: ImageSettings) -> None:
    """See that a model can draw what is asked.

    Raises:
        Refusal: ``invalid_value``, ``prompt_not_supported``, ``identity_not_supported`` or
            ``embedder_mismatch``, with what would be accepted.
    """
    _in_range("n", ask.pictures, 1, settings.max_pictures)
    _in_range("steps", ask.steps, 1, settings.max_steps)
    _in_range("start_step", ask.start_step, 0, ask.steps)
    # torch takes 64 bits, and the seeds of further pictures count up.
    _in_range("seed", ask.seed, 0, 2**63 - 1 - ask.pictures)
    _check_size(ask, info, settings)
    if not info.takes_text and (ask.prompt or ask.negative_prompt):
        raise Refusal(
            "prompt_not_supported",
            f"{info.model} was trained without text and draws from the identity alone; leave "
            "prompt and negative_prompt empty.",
        )
    if ask.reference is not None:
        _check_reference(ask.reference, info)
    if ask.edit is not None:
        _check_edit(ask, ask.edit)
    elif info.kind == "pva":
        words = f"{info.model} fills a hole in a picture; send it to /v1/images/edits with a mask."
        raise Refusal("invalid_value", words, {"field": "image"})


def _in_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _invalid(name, value, f"give {least} to {most}")


def _check_size(ask: Draw, info: ModelInfo, settings: ImageSettings) -> None:
    asked, (width, height) = f"{ask.width_px}x{ask.height_px}", info.sides_px
    sides = (ask.width_px, ask.height_px)
    if info.fixed_size and sides != info.sides_px:
        raise _invalid("size", asked, f"{info.model} draws {width}x{height} only")
    if any(side < info.multiple_px or side % info.multiple_px for side in sides):
        raise _invalid("size", asked, f"give multiples of {info.multiple_px} px")
    # What a model was trained at is always allowed.
    most = max(settings.max_side_px, width, height)
    if max(sides) > most:
        raise _invalid("size", asked, f"give sides of at most {most} px")


def _check_reference(reference: Reference, info: ModelInfo) -> None:
    if not info.takes_identity:
        raise Refusal("identity_not_supported", NO_REFERENCE.format(info.model))
    if reference.embedder != info.embedder:
        raise Refusal(
            "embedder_mismatch",
            f"{info.model} understands faces as {info.embedder} measures them, and these were "
            f"measured by {reference.embedder}.",
            {"wanted": info.embedder, "given": reference.embedder},
        )
    if info.looks_at_face and not reference.faces:
        raise Refusal(
            "identity_not_supported",
            NO_FACE.format(info.model),
        )


def _check_edit(ask: Draw, edit: Edit) -> None:
    height, width = edit.picture.shape[:2]
    if (width, height) != (ask.width_px, ask.height_px):
        raise _invalid("image", f"{width}x{height}", "give a picture of the size that is drawn")
    if edit.mask is not None and edit.mask.shape != (height, width):
        shape = f"{edit.mask.shape[1]}x{edit.mask.shape[0]}"
        raise _invalid("mask", shape, f"give it the picture's size, {width}x{height}")
    if not 0 < edit.strength <= 1:
        raise _invalid("strength", edit.strength, "give more than 0, up to 1")


def _invalid(field: str, value: Any, cure: str) -> Refusal:  # noqa: ANN401 - whatever was sent
    return Refusal("invalid_value", f"{field} cannot be {value}: {cure}.", {"field": field})
