"""The settings of a training run: what a recipe is made of.

Frozen like the recipes of curation, and free of torch, so that help and plans are instant.
"""

from dataclasses import dataclass, field
from typing import Literal

from infra.errors import BadValue
from training.loss_settings import LossSettings as LossSettings
from training.optimiser_settings import OptimiserSettings as OptimiserSettings
from training.video.settings import VideoSettings as VideoSettings

LOOKING = ("consistent_id", "fast_composer", "photo_verse", "infinite_id", "face_chain_fact",
           "uni_id", "id_animator")  # fmt: skip
"""Kinds of method that look at the reference faces' images too."""
PER_SUBJECT = ("dis_booth", "lora", "sefi_ide", "stable_identity", "personal_video", "magic_id")
"""Kinds of method that are tuned to one person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """What is trained on."""

    path: str = ""
    """Folder that `visage prepare` wrote: features.json, index.parquet, shards."""
    heldout_share: float = 0.2
    """Share of the people that training never sees, chosen by their names' hashes."""
    subject: str = ""
    """Whose photographs are trained on, by the name in the corpus; empty: everybody's."""
    cross_share: float = 1.0
    """Share of the samples that are shown another picture of the person, or another moment of a
    video; the others are shown their own."""
    prior_share: float = 0.0
    """With a subject: share of the samples that show other people, the class that tuning must not
    forget; see losses.prior."""

    def __post_init__(self) -> None:
        if not 0 <= self.heldout_share < 1:
            raise BadValue("data.heldout_share", self.heldout_share, "give 0 up to below 1.")
        if not 0 <= self.cross_share <= 1:
            raise BadValue("data.cross_share", self.cross_share, "give a share, 0 to 1.")
        if not 0 <= self.prior_share < 1:
            raise BadValue("data.prior_share", self.prior_share, "give 0 up to below 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModelSettings:
    """The diffusion model that a method builds on."""

    weights: str = "random:tiny-sd"
    """`random:<preset>` for the true architecture with seeded random weights, `file:<folder>` for
    a diffusers folder (safetensors only), such as `unet` in an export of the method `base`. Of no
    use to `base` itself, which begins from nothing."""
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, or the velocity of arXiv:2202.00512."""
    beta_schedule: Literal["scaled_linear", "squaredcos_cap_v2", "linear"] = "scaled_linear"
    """Noise schedule: Stable Diffusion's, the cosine of arXiv:2102.09672, or AnimateDiff's."""
    zero_snr: bool = False
    """Whether the last time is noise alone (arXiv:2305.08891), as in CogVideoX."""
    snr_shift: float = 1.0
    """How much more noise than that schedule: 3 in CogVideoX 2B, 1 in 5B."""
    motion: str = ""
    """AnimateDiff's motion modules for a base of pictures; empty: `weights` has them, or they are
    drawn from a seed with `random:` ones."""

    def __post_init__(self) -> None:
        if self.snr_shift <= 0:
            raise BadValue("base.snr_shift", self.snr_shift, "give more than 0; 1 is none.")
        if self.zero_snr and self.prediction == "epsilon":
            cure = "where there is noise alone, noise says nothing; give v_prediction."
            raise BadValue("base.zero_snr", True, cure)


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSettings:
    """How the model learns an identity."""

    kind: Literal[
        "base", "arc2face", "instant_id", "ip_adapter_faceid", "consistent_id", "fast_composer",
        "photo_verse", "w_plus", "infinite_id", "face_chain_fact", "dp_adapter", "uni_id", "lora",
        "dis_booth", "stable_identity", "sefi_ide", "pva", "id_animator", "consis_id",
        "proteus_id", "personal_video", "magic_id",
    ] = "ip_adapter_faceid"  # fmt: skip
    """base: a small network from scratch; ip_adapter_faceid: an adapter on a frozen base;
    instant_id: one with a ControlNet on landmarks (published with tokens 16, identity_norm raw);
    arc2face: all of Stable Diffusion 1.5, told a person in place of a prompt; consistent_id: parts
    of the face fused into words; fast_composer: faces fused into words; photo_verse: pseudo-words
    and a branch for the image; w_plus: a latent space like StyleGAN's; infinite_id: learnt without
    text; face_chain_fact: attention of its own between those of the base; dp_adapter: one adapter
    for the face and one for the rest; uni_id: an adapter and words of the prompt. Tuned to one
    person, see data.subject: lora; dis_booth: a LoRA apart from all else; stable_identity: a name;
    sefi_ide: a word with a meaning for each stage of the drawing; pva: a face for a hole.
    Of videos: id_animator: attention to the reference face's image; consis_id: the face as low and
    as high frequencies; proteus_id: the face fused with words, told anew at each time. Of videos,
    tuned to one person: personal_video: a LoRA rewarded for videos that show them; magic_id: a LoRA
    that prefers the better of two videos."""
    variant: Literal["faceid", "plus", "portrait"] = "faceid"
    """ip_adapter_faceid: `plus` also looks at the reference face's image (prepared with an image
    encoder); `portrait` takes several reference faces, 16 tokens each as published, no LoRA."""
    tokens: int = 4
    """base, ip_adapter_faceid, instant_id: identity tokens that the vector is projected to;
    id_animator: of the face's image, 16 in the paper;
    photo_verse: pseudo-words, and as many tokens of the image; stable_identity: 2, a name's;
    sefi_ide: of the word."""
    shortcut: bool = True
    """plus: add the image's part to the identity tokens (V2) instead of replacing them (V1)."""
    lora_rank: int = 0
    """ip_adapter_faceid, consistent_id, id_animator: rank of the LoRA on all attention layers (128
    in the papers), but motion modules'; lora, dis_booth: the same (4 as published); magic_id: on
    motion modules' too; photo_verse: on keys and values of cross-attention; 0: none."""
    sparsity: float = 0.0
    """photo_verse: weight of the mean size of a pseudo-word's numbers, and a tenth of it that of
    the image branch's values; 0.01 as published."""
    width: int = 96
    """base: channels of the first level."""
    condition: Literal["identity", "text", "none"] = "identity"
    """base: `identity` learns identity from the start; `text` learns faces by their captions and
    `none` faces only, to be the frozen base of an adapter."""
    identity_norm: Literal["raw", "unit", "standard"] = "unit"
    """What the encoder's raw vector becomes: itself, unit length (ArcFace's habit), or
    standardised by the corpus' mean and deviation (dlib's vectors are crowded)."""
    curriculum: float = 0.0
    """face_chain_fact: share of the run in which the shares of dropped conditions grow from 0 to
    what `drop` says."""
    region_weight: float = 0.1
    """dp_adapter: weight of the loss by which each layer learns where the face is."""
    text_tokens: int = 3
    """uni_id: tokens of identity that are put into the prompt."""
    prompt: str = "a photo of a {}"
    """Of per-subject tuning: what pictures are learnt as, with one of these words in it."""
    subject_word: str = "sks person"
    """How the subject is called; a rare word and the class, or a placeholder such as `<person>`
    where tokens are learnt."""
    class_word: str = "person"
    """How everybody else of the class is called."""
    start: str = ""
    """pva: the export of a run over many people that tuning to one begins at, `file:<folder>`;
    magic_id: that of a run on the person's own videos."""
    face_attention: float = 0.003
    """sefi_ide: weight of the loss that lets the word look where the class' word would."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise BadValue("method.tokens", self.tokens, "give 1 or more.")
        if self.variant == "plus" and self.tokens != 4:
            raise BadValue("method.tokens", self.tokens, "`plus` is published with 4.")
        if self.sparsity < 0:
            raise BadValue("method.sparsity", self.sparsity, "give 0 or more.")
        if self.variant == "portrait" and self.lora_rank:
            raise BadValue("method.lora_rank", self.lora_rank, "`portrait` is published without.")

        if not 0 <= self.curriculum <= 1:
            raise BadValue("method.curriculum", self.curriculum, "give a share, 0 to 1.")
        if self.region_weight < 0:
            raise BadValue("method.region_weight", self.region_weight, "give 0 or more.")
        if self.text_tokens < 1:
            raise BadValue("method.text_tokens", self.text_tokens, "give 1 or more.")
        if self.prompt.count("{}") != 1:
            raise BadValue("method.prompt", self.prompt, "put {} where the word is to be, once.")

    @property
    def per_subject(self) -> bool:
        """Whether it learns one person, who is then in its weights."""
        return self.kind in PER_SUBJECT

    @property
    def takes_image(self) -> bool:
        """Whether it is told the image encoder's states of the reference faces."""
        if self.kind == "ip_adapter_faceid":
            return self.variant == "plus"
        return self.kind in LOOKING

    @property
    def takes_text(self) -> bool:
        """Whether a picture is also asked for in words."""
        if self.kind == "base":
            return self.condition == "text"
        return self.kind != "arc2face"


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
class Scale:
    """How many hands, and how numbers are kept."""

    workers: int = 1
    use_gpu: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 0 shares nothing, 3 shares optimiser state, gradients and weights."""
    sequence: int = 1
    """CogVideoX, ConsisID: so many workers share each sample's tokens (arXiv:2309.14509)."""
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
        if self.sequence < 1 or self.workers % self.sequence:
            cure = f"give a divisor of scale.workers ({self.workers})."
            raise BadValue("scale.sequence", self.sequence, cure)
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
    video: VideoSettings = field(default_factory=VideoSettings)
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
    validate_steps: int = 8
    """Calls of the network for each picture on the sheet that is then drawn of the first 4 of these
    people; 0: no sheet. Videos are not drawn."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "microbatch", "log_every", "save_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise BadValue(name, getattr(self, name), "give 1 or more.")
        if self.validate_people and self.method.per_subject:
            cure = f"{self.method.kind} learns one person; set it to 0."
            raise BadValue("validate_people", self.validate_people, cure)
        parts = self.scale.workers // self.scale.sequence
        if self.batch % parts:
            cure = f"give a multiple of scale.workers ({parts})."
            if self.scale.sequence > 1:
                cure = f"give a multiple of scale.workers by scale.sequence ({parts})."
            raise BadValue("batch", self.batch, cure)
        share = self.batch // parts
        if share % min(self.microbatch, share):
            raise BadValue(
                "microbatch", self.microbatch, f"give a divisor of each worker's share, {share}."
            )
