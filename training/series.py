"""Prompts for a series of pictures of one subject: one prompt for all, each picture's part loudest.

Nothing is trained, and nobody's photograph is needed; with an identity adapter it keeps what the
adapter does not, such as clothes. Shapes: T tokens, S of them the subject's, of width E; P numbers
of pooled text.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from infra.errors import BadValue
from training.nets.text import TextEncoder

EXPRESS = (0.01, 1.0)
SUPPRESS = (-0.01, 0.05)
"""Of each singular value s becoming beta * exp(alpha * s) * s: alpha and beta, as published."""


class SeriesText(TypedDict):
    """What ``Condition`` is told of a series, by its names: ``Condition(identity, **told)``."""

    text: Float[Tensor, "scenes T E"]
    pooled: Float[Tensor, "scenes P"] | None
    """Of the whole prompt, in all of them; None where the base takes none."""
    series_text: Float[Tensor, "scenes S E"]
    """The start mark and the subject, the same in all."""


def series(
    encoder: TextEncoder,
    tokenizer: Any,  # noqa: ANN401 - transformers has no types
    subject: str,
    scenes: Sequence[str],
) -> SeriesText:
    """Encode "subject scene scene ..." once for each scene, with that scene expressed.

    Draw the pictures with one seed each, the same: as published they begin as the same noise. The
    subject's states are those of the prompt of all, before anything is reweighted; the original
    encodes the subject alone for it, which is the same: CLIP reads from left to right.

    Args:
        encoder: Of the base's text.
        tokenizer: Of its first tower; see ``load_clip_text``.
        subject: Who or what is in all pictures: "a photo of an old man with a beard".
        scenes: What is different: "reading in a library", "swimming".

    Returns:
        What ``Condition`` needs, a row for each scene.

    Raises:
        BadValue: There are no scenes, or the prompt of all is longer than the encoder reads.
    """
    if not scenes:
        raise BadValue("scenes", list(scenes), "name what is different in each picture.")
    told = [" ".join([subject, *scenes[:count]]) for count in range(len(scenes) + 1)]
    if encoder.overlong(told[-1:])[0]:
        raise BadValue("scenes", told[-1], f"it has over {encoder.tokens} tokens; tell fewer.")
    text, pooled = encoder.encode(told[-1:])
    # Of each beginning, without its end mark: where the next scene's tokens are.
    ends = [len(tokenizer(words)["input_ids"]) - 1 for words in told]
    spans = [range(*both) for both in pairwise(ends)]
    count = len(scenes)
    return SeriesText(
        text=reweighted(text[0], spans, range(ends[-1], text.shape[1])),
        pooled=None if pooled is None else pooled.expand(count, -1),
        series_text=text[:, : ends[0]].expand(count, -1, -1),
    )


def reweighted(
    text: Float[Tensor, "T E"], scenes: Sequence[range], end: range
) -> Float[Tensor, "scenes T E"]:
    """Express one scene in each row, and suppress the others.

    Singular-value reweighting: of the states of the scene and of the end marks together, which hold
    what the whole prompt means, the singular values grow; then, scene after scene, those of each
    other scene and the end marks shrink. So it is in the paper, of the states of both of SDXL's
    towers side by side; its code does the second first, and each tower for itself. It also looks
    a scene's words up in the prompt, and finds them in the subject if they are there too; here a
    scene is where it stands. The paper's second part is ``training.nets.series_attention``.

    Args:
        text: States of the prompt of all scenes.
        scenes: Where each scene's tokens are.
        end: Where the end mark and all after it is.

    References:
        Liu et al., "One-Prompt-One-Story: Free-Lunch Consistent Text-to-Image Generation Using a
        Single Prompt", arXiv:2501.13554, equations 3 and 4.
    """
    rows = []
    for number, scene in enumerate(scenes):
        row = text.clone()
        _weigh(row, [*scene, *end], *EXPRESS)
        for other in (*scenes[:number], *scenes[number + 1 :]):
            _weigh(row, [*other, *end], *SUPPRESS)
        rows.append(row)
    return torch.stack(rows)


def _weigh(text: Float[Tensor, "T E"], places: list[int], alpha: float, beta: float) -> None:
    """Give states at some places other singular values, in place."""
    u, values, v = torch.linalg.svd(text[places].double(), full_matrices=False)
    weighed = values * beta * torch.exp(alpha * values)
    text[places] = ((u * weighed) @ v).to(text)
