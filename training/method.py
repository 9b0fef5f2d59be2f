"""What the trainer asks of a method, and nothing more."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue, VisageError
from training.features import Features
from training.nets.codec import Codec
from training.settings import TrainRecipe

Batch = Mapping[str, Tensor]
"""One microbatch, by name; the first axis of every tensor is the samples. From the prepared
features: ``latents`` (channels x height x width), ``identity`` (raw vector of the reference
photograph), ``target_identity`` (of the photograph itself), ``landmarks`` (5 x 2, target picture's
pixels), ``mask`` (latent height x width, 1 on the face). If they were prepared: ``text`` (tokens x
width), ``pooled`` (width; SDXL's pooled text), ``image`` (tokens x width; the image encoder's
states of the face in the reference photograph), ``size`` (6, in px: height and width of the
original, top and left of the crop, height and width of the target: the micro-conditions of
arXiv:2307.01952, section 2.2). All samples of a microbatch have one latent shape. Drawn for the
step, so that ``forward`` itself draws nothing: ``noise`` (as ``latents``), ``time`` (uniform in 0
to 1) and ``drop`` (uniform in 0 to 1). ``progress`` is how far the run is, 0 to below 1.
Of per-subject tuning ``is_prior``: true where the class is shown, not the subject.

Of videos ``latents`` and ``noise`` are channels x frames x height x width and ``mask`` frames x
height x width, all in latent frames; ``landmarks`` (latent frames x 5 x 2) and ``seen`` (latent
frames: 1 where the face is, 0 where its landmarks are zeros) are of the frames in the middle of
these. If they were prepared: ``motion`` (as ``mask``: optical flow of the person, 0 to 1 of the
sample's own fastest), ``reference_latents`` (channels x height x width: the reference face),
``face_states`` (layers x tokens x width: of several layers of an image encoder, of the reference
face), ``face_pooled`` (width: that encoder's vector of it) and ``attributes_text`` (tokens x
width: the caption of the person alone). Drawn for the step: ``lots`` (4, uniform in 0 to 1) and
``reference_noise`` (as ``reference_latents``); see ``training.video.chances``.

Losses look for
``negative_identity`` (somebody else's vector), ``edit_text`` with ``edit_pooled`` (another prompt)
and ``clip_text`` (CLIP's vector of the prompt), which whoever makes the batches may add; those of
pairs for ``loser_latents`` (as ``latents``, which are then the better of the two)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn; said with every call, so that no call changes another."""

    steps: int = 30
    """Calls of the network, evenly over the 1,000 times."""
    guidance: float = 2.0
    """Strength of classifier-free guidance; 1 is none."""
    scale: float = 1.0
    """How much of the identity; an adapter at 0 gives exactly its base's own picture."""
    control: float = 1.0
    """Of methods that are shown landmarks: how much of these, times ``scale``; 0: none."""
    start_step: int = 0
    """First steps drawn without identity, so that the text decides the composition: the delayed
    conditioning of FastComposer (arXiv:2305.10431)."""
    strength: float = 1.0
    """Of an edit: the share of the schedule that is drawn anew; 1 keeps nothing of the source."""
    rescale: bool = False
    """Of adapters on a base: give what identity adds to each cross-attention the norm of what the
    text says there, before ``scale``: the normalised rescaling of UniID (arXiv:2512.03964)."""
    adain_mean: bool = False
    """Of adapters on a base: shift identity's keys and values to the mean of the text's, so that a
    style that is asked for in words is kept: the AdaIN-mean of Infinite-ID (arXiv:2403.11781)."""
    restore: float = 0.0
    """Of adapters on a base: share of each prediction without identity that is blended in, where
    ``Condition.attributes`` says; see there. 0: none, 1: identity draws nothing there."""
    size_px: tuple[int, int] | None = None
    """Height and width; None: as the features were prepared."""
    frames: int | None = None
    """Of a video: latent frames; None: as the features were prepared."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadValue("sampling.steps", self.steps, "give 1 or more.")
        if not 0 <= self.start_step <= self.steps:
            raise BadValue("sampling.start_step", self.start_step, f"give 0 to {self.steps}.")
        if not 0 <= self.restore <= 1:
            raise BadValue("sampling.restore", self.restore, "give 0 to 1.")
        if not 0 < self.strength <= 1:
            raise BadValue("sampling.strength", self.strength, "give more than 0, up to 1.")


AS_USUAL = Sampling()

Random = torch.Generator | Sequence[torch.Generator]
"""One generator for all samples together; or one each, and then a sample is the same picture alone
and in any company."""

Callback = Callable[[int, Tensor], bool]
"""Called after each step with its number, from 0, and the estimate of the clean latents (samples x
channels x *frames x rows x columns), which the codec can decode as a preview; True ends it."""


@dataclass(frozen=True)
class Condition:
    """What a picture is to be of."""

    identity: Float[Tensor, "samples *faces dim"]
    """Raw vectors, as the encoder gives them; several reference faces per sample for methods that
    take them."""
    text: Float[Tensor, "samples tokens width"] | None = None
    """Hidden states of the prompt; None: no prompt."""
    pooled: Float[Tensor, "samples pooled"] | None = None
    """Pooled states of the prompt, where the base takes them (SDXL)."""
    image: Float[Tensor, "samples *faces patches channels"] | None = None
    """The image encoder's states of each reference face, for methods that look at it too."""
    landmarks: Float[Tensor, "samples 5 2"] | None = None
    """Where the five points of the face are to be, x and y in px of the picture that is drawn, as
    the features' backend orders them; None, where a method is shown them: a frontal face, its head
    and shoulders seen."""
    negative_text: Float[Tensor, "samples negatives width"] | None = None
    """What guidance leads away from; None: the empty prompt."""
    negative_pooled: Float[Tensor, "samples pooled"] | None = None
    series_text: Float[Tensor, "samples subject_tokens width"] | None = None
    """Of adapters on a base, beside ``text``: hidden states of the subject that is in all pictures
    of a series, which cross-attention sees once more (arXiv:2501.13554); ``training.series`` makes
    both. None: no series."""
    attributes: Float[Tensor, "samples H W"] | None = None
    """Of ``Sampling.restore``: in latents, 1 where hair, glasses or another attribute is to follow
    the prompt; None: everywhere. After FreeCure (arXiv:2411.15277), which knows these places from a
    face parser and lets self-attention look at the prediction without identity there; here both
    predictions are blended, which needs no layer of the network."""
    source: Float[Tensor, "samples C H W"] | None = None
    """Latents of pictures to edit; see ``Sampling.strength``. None: draw from nothing."""
    mask: Float[Tensor, "samples H W"] | None = None
    """Of an edit: 1 where to draw, 0 where the source stays; None: everywhere."""
    more: Mapping[str, Tensor] | None = None
    """Of videos: what else a method is told of the reference and the prompt, by the names of
    ``Batch``, such as ``reference_latents``."""


class Stopped(VisageError):
    """Drawing was ended by its callback."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(step)

    def __str__(self) -> str:
        return f"Drawing was stopped after step {self.step}, as asked; draw again for a picture."


class Method(nn.Module, ABC):
    """A way to make a diffusion model keep one person's face.

    To add a method write one file in ``training/methods`` with these five answers, then name it in
    ``training/build.py`` and in one recipe. Everything that the optimiser touches is inside this
    one module's ``forward``: otherwise distributed training does not synchronise its gradients.

    A method is made as ``Kind(recipe, features, folder)``, where the folder holds what stands
    beside the features: a codec, the empty prompt. An export is such a folder too.
    """

    recipe: TrainRecipe
    features: Features
    """What it was prepared for: the encoder whose vectors it takes, the sizes it draws."""
    codec: Codec
    """Between its latents and pictures."""

    @abstractmethod
    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the weights that are learnt, and that an export holds."""

    def optimised(self) -> dict[str, nn.Parameter]:
        """Name all that the optimiser moves and a checkpoint holds.

        Beside ``trainable`` that is what the objective's own networks learn, such as an adversary:
        ``generate`` has no use for it.
        """
        objective = getattr(self, "objective", None)
        own = objective.trainable() if objective is not None else {}
        return self.trainable() | {f"objective.{name}": weight for name, weight in own.items()}

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalar losses by name: ``loss``, to descend, and its terms, for the record."""

    @abstractmethod
    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples *frames 3 height width"]:
        """Draw one picture, or one video, per row of ``condition``, RGB in 0 to 1.

        Not to be called by two threads at once on one method.

        Raises:
            Stopped: ``callback`` returned True.
            BadValue: The condition or the sampling does not fit the method.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what ``generate`` needs beside the base model, and nothing for the optimiser.

        Safetensors only; ``training.build.load_export`` reads it.
        """

    @abstractmethod
    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of ``trainable`` that ``save`` wrote there, on the CPU.

        Raises:
            BadWeights: They are missing, altered, or of another shape than this method's.
        """

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take the weights that ``save`` wrote there; see ``read``."""
        held = self.read(folder)
        for name, weight in self.trainable().items():
            weight.copy_(held[name])
