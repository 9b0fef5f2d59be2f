"""What a video model can draw, and what it refuses; known without its weights."""

import secrets

from serving.errors import Refusal
from serving.jobs.schemas import VideoAsk
from serving.jobs.settings import VideoSettings
from serving.limits import NO_REFERENCE
from serving.videos import VideoDraw, VideoInfo


def checked(ask: VideoAsk, info: VideoInfo, settings: VideoSettings, request_id: str) -> VideoDraw:
    """Fill defaults in, and refuse what the model cannot do.

    Raises:
        Refusal: ``invalid_value``, ``prompt_not_supported`` or ``identity_not_supported``.
    """
    if ask.identity and not info.takes_identity:
        raise Refusal("identity_not_supported", NO_REFERENCE.format(info.model))
    if not info.takes_text and (ask.prompt or ask.negative_prompt):
        words = f"{info.model} was trained without text; leave prompt and negative_prompt empty."
        raise Refusal("prompt_not_supported", words)
    width_px, height_px = info.sides_px
    if ask.size != "auto":
        width_px, height_px = (int(side) for side in ask.size.split("x"))
    multiple, most = info.multiple_px, max(settings.max_side_px, *info.sides_px)
    for side in (width_px, height_px):
        if side % multiple or side > most:
            cure = f"give multiples of {multiple} px, at most {most}"
            raise invalid("size", ask.size, cure)
    frames = info.frames if ask.seconds is None else max(1, round(ask.seconds * info.fps))
    if ask.frames is not None:
        if ask.seconds is not None and frames != ask.frames:
            raise invalid("frames", ask.frames, f"at {info.fps} a second they are {frames}")
        frames = ask.frames
    if info.fixed_frames and frames != info.frames:
        cure = f"{info.model} draws {info.frames} always, {info.fps} a second"
        raise invalid("frames" if ask.frames else "seconds", ask.frames or ask.seconds, cure)
    if frames > info.max_frames:
        cure = f"{info.model} draws {info.max_frames} at most, {info.fps} a second"
        raise invalid("frames" if ask.frames else "seconds", ask.frames or ask.seconds, cure)
    steps = settings.steps if ask.steps is None else ask.steps
    if steps > settings.max_steps:
        raise invalid("steps", steps, f"give 1 to {settings.max_steps}")
    return VideoDraw(
        request_id=request_id,
        prompt=ask.prompt,
        negative_prompt=ask.negative_prompt,
        identity_scale=ask.identity_scale,
        width_px=width_px,
        height_px=height_px,
        frames=frames,
        seed=secrets.randbelow(2**31) if ask.seed is None else ask.seed,
        steps=steps,
        guidance=settings.guidance if ask.guidance is None else ask.guidance,
    )


def invalid(field: str, value: object, cure: str) -> Refusal:
    """Refuse a field's value; no more of it is repeated than tells it from others."""
    words = f"{field} cannot be {str(value)[:40]!r}: {cure}."
    return Refusal("invalid_value", words, {"field": field})
