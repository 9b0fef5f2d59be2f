"""What a loss may look at, and what it may use.

A loss is a function ``(tools, step) -> scalar``, named in ``training.objective.LOSSES``. Shapes: B
samples, C channels, H rows, W columns of latents; N pixels of a layer.

Losses may ask the network again. Every worker then asks equally often, whatever its samples are:
with ZeRO 3 each call is one of all workers, and who asked only where a sample needs it would wait
for the others forever.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.method import Batch
from training.nets.codec import Codec, decoded
from training.noise import Noised, NoiseSchedule
from training.settings import LossSettings

ENOUGH_SIGNAL = 0.5
"""Share of a noisy latent's variance that must be signal for its clean estimate to show anybody."""

Drop = Literal["nothing", "identity", "text", "both", "rest"]
"""``rest`` is all that can be left out but identity."""


@runtime_checkable
class Ask(Protocol):
    """Asks the network once more, inside the one forward that is wrapped for many workers."""

    def __call__(
        self,
        *,
        z_t: Float[Tensor, "B C *T H W"] | None = None,
        t: Int64[Tensor, " B"] | None = None,
        drop: Drop = "nothing",
        control: float = 1.0,
        base: bool = False,
        changed: Batch | None = None,
    ) -> Float[Tensor, "B C *T H W"]:
        """Return its prediction, conditions whole for everybody but for what is said.

        Args:
            z_t: Noisy latents; the step's own if none are given.
            t: Their times.
            drop: What is left out, of all samples.
            control: How much of what a method is shown beside identity and text, as landmarks.
            base: Ask the frozen base without the adapter, and keep no gradient.
            changed: Entries of the batch in whose place these are told: ``identity``, ``text``...
        """


@dataclass(frozen=True, kw_only=True)
class Gives:
    """What a method can show a loss beside its prediction."""

    ask: bool = False
    """The network can be asked again."""
    base: bool = False
    """Also as the base that is under the adapter."""
    more: bool = False
    """It is told more than identity, all of which can be left out: ``drop="rest"``."""
    attention: bool = False
    residuals: bool = False
    embed: int = 0
    """Width of the identity tokens that ``Step.embed`` makes; 0: it makes none."""
    vector: bool = True
    """These tokens follow from ``identity``; False: from words, or from ``image`` alone, of which a
    batch has one photograph's."""
    rest: int = 0
    """Width of ``Step.rest``; 0: there is none."""


@dataclass(frozen=True)
class Step:
    """All that a loss may look at.

    What comes after ``weight`` is there if a loss of weight above 0 needs it.
    """

    pred: Float[Tensor, "B C *T H W"]
    noised: Noised
    batch: Batch
    asked: Bool[Tensor, " B"]
    """Whose identity was given, not dropped; never of rows flagged ``is_prior``."""
    weight: Float[Tensor, " B"]
    """By signal-to-noise ratio, see ``NoiseSchedule.weight``; 0 of rows flagged ``is_prior``."""
    ask: Ask | None = None
    prompted: Bool[Tensor, " B"] | None = None
    """With ``ask``: whose text was given, not dropped."""
    attention: Mapping[str, Float[Tensor, "B rows columns objects"]] = field(default_factory=dict)
    """By layer of the main prediction: how much of each pixel's cross-attention goes to each
    object's tokens, in 0 to 1; of ``photo_verse`` times what the branch counts for, up to 2."""
    regions: Float[Tensor, "B objects H W"] | None = None
    """Where each of these objects is, 1 inside; None: all are the face, see ``mask``."""
    residuals: Mapping[str, tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]] = field(
        default_factory=dict
    )
    """By layer of the main prediction: what the adapter adds to the hidden states, and these."""
    embed: Callable[[Batch], Float[Tensor, "B tokens width"]] | None = None
    """Makes identity tokens of a batch's ``identity`` (and ``image``), none left out."""
    rest: Float[Tensor, "B tokens width"] | None = None
    """What the method learns of a picture that is not the person: its tokens beside identity's."""
    record: dict[str, Tensor] = field(default_factory=dict)
    """Numbers that a loss wants to be told beside itself; the same names in every step. Of a mean
    in which not every sample has a part two: the sum, and how many it is of."""
    held: dict[str, Any] = field(default_factory=dict)
    """What losses share, so that it is computed once."""


Reward = Callable[[Float[Tensor, "B 3 H W"], Batch], Float[Tensor, " B"]]
"""Scores pictures, RGB in 0 to 1; greater is better. NaN where one cannot be scored."""


@runtime_checkable
class Comparison(Protocol):
    """Compares people; see ``training.identity.IdentityLoss``."""

    same_person_at: float
    """Its value where two vectors stop being one person's."""

    def vectors(
        self, picture: Float[Tensor, "B 3 H W"], landmarks: Float[Tensor, "B 5 2"]
    ) -> Float[Tensor, "B dim"]:
        """Embed one face per picture."""

    def apart(
        self, one: Float[Tensor, "*#B dim"], other: Float[Tensor, "*#B dim"]
    ) -> Float[Tensor, "*B"]:
        """Tell how far vectors are apart."""


@dataclass
class Tools:
    """What losses are computed with; one set for a method."""

    settings: LossSettings
    schedule: NoiseSchedule
    codec: Codec
    features: Features
    gives: Gives
    identity: Comparison | None = None
    """There if a loss of weight above 0 looks at people."""
    networks: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    """Losses' own networks, which the optimiser moves too, by the loss's name."""
    aesthetic: Reward | None = None
    """Of the loss ``reward``: differentiable; that of ``reward_scorer``, or set on a method's
    objective."""
    watch: Mapping[str, Reward] = field(default_factory=dict)
    """Of the loss ``reward``: scores that are recorded and never descended; CLIP-T, if
    ``reward_watch`` names a CLIP."""

    def clean(
        self,
        z_t: Float[Tensor, "B C *T H W"],
        t: Int64[Tensor, " B"],
        pred: Float[Tensor, "B C *T H W"],
    ) -> Float[Tensor, "B C *T H W"]:
        """Estimate clean latents in one step from a prediction."""
        return self.schedule.clean(z_t, t, pred)

    def pictures(self, clean: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B 3 *F height width"]:
        """Decode clean latents, RGB in 0 to 1."""
        return decoded(self.codec, clean)


Loss = Callable[[Tools, Step], Float[Tensor, ""]]


@dataclass(frozen=True)
class Term:
    """A loss, and what it needs."""

    loss: Loss
    needs: tuple[
        Literal["ask", "base", "more", "attention", "residuals", "embed", "vector"], ...
    ] = ()
    sees: bool = False
    """Whether it looks at people, and so needs the identity network."""
    still: bool = False
    """Whether it looks at pictures only, not at videos."""
    compares: bool = False
    """Whether it compares samples of a microbatch, and so needs two."""
    people: bool = False
    """Whether these must be of two people."""
    network: Callable[[Tools], nn.Module] | None = None
    """Makes its own network, if it has one."""


def asking(
    batch: Batch,
    noised: Noised,
    predict: Callable[[Tensor, Tensor, Batch, bool], Float[Tensor, "B C *T H W"]],
) -> Ask:
    """Make what asks a network that is told identity and nothing else, and has no base.

    Args:
        batch: The step's.
        noised: The step's.
        predict: Called with latents, times, a batch, and whether identity is told.
    """

    def ask(
        *,
        z_t: Tensor | None = None,
        t: Tensor | None = None,
        drop: Drop = "nothing",
        control: float = 1.0,  # noqa: ARG001 - there is none
        base: bool = False,
        changed: Batch | None = None,
    ) -> Tensor:
        assert not base, "`Gives` says so"
        z_t, t = noised.z_t if z_t is None else z_t, noised.t if t is None else t
        return predict(z_t, t, {**batch, **(changed or {})}, drop not in ("identity", "both"))

    return ask


def signal(noised: Noised) -> Float[Tensor, " B"]:
    """Return the share of each noisy latent's variance that is signal: snr / (1 + snr)."""
    return noised.snr / (1 + noised.snr)


def needed(batch: Batch, name: str, loss: str, weight: float, cure: str) -> Tensor:
    """Return an entry of the batch that not every batch has.

    Raises:
        BadValue: It is not there.
    """
    if name not in batch:
        raise BadValue(f"losses.{loss}", weight, f"the batch has no `{name}`; {cure}")
    return batch[name]
