"""The weights of the losses, part of a recipe; free of torch, as ``training.settings`` is."""

from dataclasses import dataclass, fields

from infra.errors import BadValue

LOSSES = ("mse", "masked", "identity", "triplet", "localise", "fair", "edit_direction", "prior",
          "contrastive_disentangle", "decorrelate", "identity_adversary", "reward",
          "enhanced_contrast", "dpo", "ipo", "video_identity", "motion")  # fmt: skip
"""The fields of `LossSettings` that are weights of losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """Which losses, and how much of each; 0: not computed. See `training/README.md`."""

    mse: float = 1.0
    masked: float = 0.0
    """MSE inside the face mask only, per sample normalised by its area."""
    identity: float = 0.0
    """Distance of the one-step clean picture's identity to the target's, of samples that are more
    signal than noise."""
    identity_pack: str = ""
    """Of all losses that look at who is seen, on features measured with insightface: the folder of
    the model pack that they were measured with."""
    triplet: float = 0.0
    """The same picture must be nearer to the target's identity than to another person's."""
    localise: float = 0.0
    """Cross-attention to the identity stays inside the face mask (0.001 in FastComposer)."""
    fair: float = 0.0
    """What the adapter adds outside the face mask (0.01 in FaceChain-FACT)."""
    edit_direction: float = 0.0
    """A change of prompt changes the face as it would the base's (0.02 in MasterWeaver)."""
    prior: float = 0.0
    """MSE of the samples that show the subject's class (1 in DreamBooth)."""
    contrastive_disentangle: float = 0.0
    """Identity tokens unlike the tokens of all else, and enough alone (DisenBooth)."""
    decorrelate: float = 0.0
    """Two photographs of a person give one embedding, each number of it a thing of its own."""
    identity_adversary: float = 0.0
    """What is not the face tells nobody's identity to an adversary that learns to read it."""
    reward: float = 0.0
    """Identity, and what else is scored, of pictures that are drawn over several steps."""
    enhanced_contrast: float = 0.0
    """Told all, the network paints the person that it paints when told the identity alone."""
    dpo: float = 0.0
    """Each pair's winner is learnt rather than its loser, as compared with the frozen base; on
    features with `preferences.parquet`."""
    ipo: float = 0.0
    """The same, up to a margin and no further (arXiv:2310.12036)."""
    video_identity: float = 0.0
    """Of videos: `identity` of some frames in which the face is seen."""
    motion: float = 0.0
    """Of videos: MSE where the person moves, by how fast (1 in Proteus-ID, beside `mse`)."""
    dpo_beta: float = 5000.0
    """Of `dpo` and `ipo`: how strictly the base is kept to (2,000 for Stable Diffusion 1.5, 5,000
    for SDXL in Diffusion-DPO)."""
    dpo_first_stage: float = 0.5
    """Of `dpo` and `ipo`: share of the steps in which pairs of stage 1 are learnt, before those of
    stage 2; all steps where there is one stage."""
    video_identity_frames: int = 4
    """Frames of each video that `video_identity` looks at."""
    triplet_margin: float = 1.0
    """How much nearer, in the units of `identity`."""
    reward_steps: int = 4
    """Calls of the network in which a picture is drawn for `reward`."""
    reward_gradient_steps: int = 1
    """The last so many are what `reward` is sent back through."""
    reward_aesthetic: float = 0.0
    """Of `reward`: how much a picture's look counts beside 1 of identity, if a scorer is set."""
    reward_semantic: float = 0.0
    """Of `reward` on videos: how much it counts that the frames are preferred as the base's are, if
    a scorer is set."""
    reward_scorer: str = ""
    """Of `reward`: CLIP that says how well a picture fits its prompt and looks, file:<folder>;
    HPSv2 is one. Without, neither of these two counts, unless code sets a scorer of its own. A
    sample without a caption counts for identity alone."""
    reward_watch: str = ""
    """Of `reward`: CLIP whose CLIP-T, of what is drawn and its caption, is recorded as
    `reward_clip_t` and never descended, file:<folder>; may be that of `reward_scorer`. Rewards are
    hacked: a run says when it falls."""
    min_snr_gamma: float = 0.0
    """Clip of the signal-to-noise weight (arXiv:2303.09556 uses 5); 0: unweighted."""

    def __post_init__(self) -> None:
        numbers = [each.name for each in fields(self) if each.type in (float, int)]
        if min(getattr(self, name) for name in numbers) < 0:
            raise BadValue("losses", self, "weights are 0 or more.")
        if not any(getattr(self, name) for name in LOSSES):
            raise BadValue("losses", self, "at least one weight must be above 0.")
        if self.reward_watch and not self.reward:
            cure = "it watches losses.reward; set that above 0 too, or leave this empty."
            raise BadValue("losses.reward_watch", self.reward_watch, cure)
        if self.dpo_beta == 0 and (self.dpo or self.ipo):
            raise BadValue("losses.dpo_beta", 0.0, "give more than 0; thousands are usual.")
        if self.dpo_first_stage > 1:
            raise BadValue("losses.dpo_first_stage", self.dpo_first_stage, "give a share, 0 to 1.")
        if self.video_identity_frames < 1:
            cure = "give 1 or more."
            raise BadValue("losses.video_identity_frames", self.video_identity_frames, cure)
        if not 1 <= self.reward_gradient_steps <= self.reward_steps:
            raise BadValue(
                "losses.reward_gradient_steps",
                self.reward_gradient_steps,
                f"give 1 to losses.reward_steps ({self.reward_steps}).",
            )
