"""Is the one-step clean picture of the person who was asked for?

Shapes: B samples, of which some are seen.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.objectives.step import ENOUGH_SIGNAL, Step, Tools, signal


@dataclass(frozen=True)
class Seen:
    """Whom the clean estimates show, of those samples that show anybody."""

    rows: Int64[Tensor, " seen"]
    """Which samples these are."""
    counted: Float[Tensor, " seen"]
    """1; or 0, of the one sample that is looked at where none shows anybody."""
    vectors: Float[Tensor, "seen dim"]
    target: Float[Tensor, "seen dim"]
    """Of the photographs themselves, not of the references."""


def identity(tools: Tools, step: Step) -> Float[Tensor, ""]:
    """Compare the one-step clean picture's person with the target's, weighed by its signal.

    L = 1/B sum_i s_i d(E(x0_i), e_i), s = snr / (1 + snr), over samples of s above 1/2. A noisy
    estimate shows nobody, and without identity nobody was asked for: only the other samples are
    decoded and embedded, which is most of this loss's price.

    References:
        PhotoVerse, arXiv:2309.05793; PuLID, arXiv:2404.16022. The weight by signal is ours.
    """
    seen = see(tools, step)
    assert tools.identity is not None
    far = tools.identity.apart(seen.vectors, seen.target)
    return (far * signal(step.noised)[seen.rows] * seen.counted).sum() / len(step.pred)


def see(tools: Tools, step: Step) -> Seen:
    """Decode and embed the clean estimates that show somebody.

    At least one, counted as 0: with ZeRO 3 decoding takes all workers, also those whose samples
    show nobody.

    Raises:
        BadValue: These are videos.
    """
    if step.pred.ndim != 4:
        cure = "these are videos; use losses.video_identity, and set it to 0."
        raise BadValue("losses", "identity, triplet or enhanced_contrast", cure)
    if "seen" not in step.held:
        rows, counted = showing(step)
        noised = step.noised
        clean = tools.clean(noised.z_t, noised.t, step.pred)[rows]
        vectors = embedded(tools, step, clean, rows)
        target = step.batch["target_identity"][rows]
        step.held["seen"] = Seen(rows, counted, vectors, target)
    seen: Seen = step.held["seen"]
    return seen


def showing(step: Step) -> tuple[Int64[Tensor, " seen"], Float[Tensor, " seen"]]:
    """Say which samples show somebody who was asked for, and what each counts; see ``Seen``."""
    counts_B: Bool[Tensor, " B"] = (signal(step.noised) > ENOUGH_SIGNAL) & step.asked
    rows = counts_B.nonzero().flatten()
    rows = rows if len(rows) else rows.new_zeros(1)
    return rows, counts_B[rows].float()


def embedded(
    tools: Tools, step: Step, clean: Float[Tensor, "seen C H W"], rows: Int64[Tensor, " seen"]
) -> Float[Tensor, "seen dim"]:
    """Embed the faces of some samples' clean latents, where the targets' landmarks are."""
    assert tools.identity is not None
    return tools.identity.vectors(tools.pictures(clean), step.batch["landmarks"][rows])
