"""The settings of a training run: what a recipe is made of.

Frozen like the recipes of curation, and free of torch, so that help and plans are instant.
"""

from dataclasses import dataclass, field
from typing import Literal

from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """What is trained on."""

    path: str = ""
    """Folder that `visage prepare` wrote: features.json, index.parquet, shards."""
    heldout_share: float = 0.2
    """Share of the people that training never sees, chosen by their names' hashes."""

    def __post_init__(self) -> None:
        if not 0 <= self.heldout_share < 1:
            raise BadValue("data.heldout_share", self.heldout_share, "give 0 up to below 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModelSettings:
    """The diffusion model that a method builds on."""

    weights: str = "random:tiny-sd"
    """`random:<preset>` for the true architecture with seeded random weights, `file:<folder>` for
    a diffusers folder (safetensors only), such as `unet` in an export of the method `base`. Of no
    use to `base` itself, which begins from nothing."""
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity of arXiv:2202.00512."""
    beta_schedule: Literal["scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    """Noise schedule: Stable Diffusion's, or the cosine of arXiv:2102.09672."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSettings:
    """How the model learns an identity."""

    kind: Literal["base", "arc2face", "instant_id", "ip_adapter_faceid"] = "ip_adapter_faceid"
    """base: a small network from scratch; ip_adapter_faceid: an adapter on a frozen base;
    instant_id: one with a ControlNet on landmarks (published with tokens 16, identity_norm raw);
    arc2face: all of Stable Diffusion 1.5, told a person in place of a prompt."""
    variant: Literal["faceid", "plus", "portrait"] = "faceid"
    """ip_adapter_faceid: `plus` also looks at the reference face's image (prepared with an image
    encoder); `portrait` takes several reference faces, 16 tokens each as published, no LoRA."""
    tokens: int = 4
    """base, ip_adapter_faceid, instant_id: identity tokens that the vector is projected to."""
    shortcut: bool = True
    """plus: add the image's part to the identity tokens (V2) instead of replacing them (V1)."""
    lora_rank: int = 0
    """ip_adapter_faceid: rank of the LoRA on all attention layers (128 in the paper); 0: none."""
    width: int = 96
    """base: channels of the first level."""
    condition: Literal["identity", "none"] = "identity"
    """base: `identity` learns identity from the start; `none` learns faces only, to be the frozen
    base of an adapter."""
    identity_norm: Literal["raw", "unit", "standard"] = "unit"
    """What the encoder's raw vector becomes: itself, unit length (ArcFace's habit), or
    standardised by the corpus' mean and deviation (dlib's vectors are crowded)."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadValue("method.tokens", self.tokens, "give 1 or more.")
        if self.variant == "plus" and self.tokens != 4:
            raise BadValue("method.tokens", self.tokens, "`plus` is published with 4.")
        if self.variant == "portrait" and self.lora_rank:
            raise BadValue("method.lora_rank", self.lora_rank, "`portrait` is published without.")

    @property
    def takes_text(self) -> bool:
        """Whether a picture is also asked for in words."""
        return self.kind not in ("base", "arc2face")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """Which losses, and how much of each."""

    mse: float = 1.0
    masked: float = 0.0
    """MSE inside the face mask only, per sample normalised by its area."""
    identity: float = 0.0
    """Distance of the one-step clean picture's identity to the target's, of samples that are more
    signal than noise."""
    min_snr_gamma: float = 0.0
    """Clip of the signal-to-noise weight (arXiv:2303.09556 uses 5); 0: unweighted."""

    def __post_init__(self) -> None:
        if min(self.mse, self.masked, self.identity, self.min_snr_gamma) < 0:
            raise BadValue("losses", self, "weights are 0 or more.")
        if self.mse == self.masked == self.identity == 0:
            raise BadValue("losses", self, "at least one weight must be above 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DropSettings:
    """How often conditions are left out, so that guidance can be used (arXiv:2207.12598)."""

    identity: float = 0.05
    text: float = 0.05
    both: float = 0.05

    def __post_init__(self) -> None:
        if (
            min(self.identity, self.text, self.both) < 0
            or self.identity + self.text + self.both > 1
        ):
            raise BadValue("drop", self, "give shares that sum to at most 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, or fall to 0 at the last step."""
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    """Decay of the moving average of what is trained; 0: none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How many hands, and how numbers are kept."""

    workers: int = 1
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 shares nothing, 3 shares optimiser state, gradients and weights."""
    offload: bool = False
    """Keep the optimiser's state in the memory of the CPU; of ZeRO 1 to 3."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    """Compile the base model's repeated blocks."""
    channels_last: bool = False
    threads: int = 0
    """CPU threads per worker; 0: all that the worker has."""
    max_failures: int = 3
    """Crashes of workers after which many workers start again from the newest checkpoint."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise BadValue("scale.workers", self.workers, "give 1 or more.")
        if self.offload and not self.zero_stage:
            raise BadValue("scale.offload", True, "give scale.zero_stage 1, 2 or 3 with it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """All that decides a training run, and all that MLflow records of it."""

    name: str
    data: DataSettings = field(default_factory=DataSettings)
    base: BaseModelSettings = field(default_factory=BaseModelSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    drop: DropSettings = field(default_factory=DropSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    scale: Scale = field(default_factory=Scale)
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 8
    """Samples per optimiser step, over all workers: numbers of workers change no result."""
    microbatch: int = 8
    """Samples per worker per forward pass; the rest of its share is accumulated."""
    log_every: int = 20
    """Steps between reports."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """The newest so many are kept."""
    keep_best: str = ""
    """Also keep the checkpoint that is best by this: a loss (the lowest) or `loss_gain` of
    validation (the highest)."""
    validate_people: int = 0
    """Held-out people whose `loss_gain` is measured at each checkpoint."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "microbatch", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise BadValue(name, getattr(self, name), "give 1 or more.")
        if self.batch % self.scale.workers:
            raise BadValue(
                "batch", self.batch, f"give a multiple of scale.workers ({self.scale.workers})."
            )
        share = self.batch // self.scale.workers
        if share % min(self.microbatch, share):
            raise BadValue(
                "microbatch", self.microbatch, f"give a divisor of each worker's share, {share}."
            )
