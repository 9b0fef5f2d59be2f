"""The objective: what a prediction costs, term by term.

A loss is a function of one step, named in ``LOSSES``; its weight is the field of that name in
``LossSettings``. Shapes: B samples, C channels, H rows, W columns of latents.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.losses import masked, mse, weighted_mean
from training.method import Batch
from training.nets.codec import Codec
from training.noise import Noised, NoiseSchedule
from training.objectives.contrastive_disentangle import contrastive_disentangle
from training.objectives.decorrelate import decorrelate, make_projection
from training.objectives.dpo import dpo, ipo
from training.objectives.edit_direction import edit_direction
from training.objectives.enhanced_contrast import enhanced_contrast
from training.objectives.fair import fair
from training.objectives.identity import identity
from training.objectives.identity_adversary import identity_adversary, make_adversary
from training.objectives.localise import localise
from training.objectives.motion import motion
from training.objectives.prior import prior
from training.objectives.reward import reward
from training.objectives.step import Gives, Step, Term, Tools, needed
from training.objectives.triplet import triplet
from training.objectives.video_identity import video_identity
from training.settings import LossSettings, TrainRecipe

PREDICTION = Gives()
"""What every method gives: its prediction."""


def _mse(_: Tools, step: Step) -> Float[Tensor, ""]:
    return weighted_mean(mse(step.pred, step.noised.target), step.weight)


def _masked(tools: Tools, step: Step) -> Float[Tensor, ""]:
    cure = "prepare the pictures with masks of the faces, or set it to 0."
    mask = needed(step.batch, "mask", "masked", tools.settings.masked, cure)
    return weighted_mean(masked(step.pred, step.noised.target, mask), step.weight)


LOSSES: dict[str, Term] = {
    "mse": Term(_mse),
    "masked": Term(_masked),
    "identity": Term(identity, sees=True, still=True),
    "triplet": Term(triplet, sees=True, still=True, compares=True, people=True),
    "localise": Term(localise, ("attention",)),
    "fair": Term(fair, ("residuals",)),
    "edit_direction": Term(edit_direction, ("ask", "base", "more"), compares=True),
    "prior": Term(prior),
    "motion": Term(motion),
    "contrastive_disentangle": Term(contrastive_disentangle, ("ask", "embed")),
    "decorrelate": Term(decorrelate, ("embed", "vector"), network=make_projection, compares=True),
    "identity_adversary": Term(identity_adversary, network=make_adversary, still=True),
    "reward": Term(reward, ("ask",), sees=True),
    "enhanced_contrast": Term(enhanced_contrast, ("ask", "more"), sees=True, still=True),
    "dpo": Term(dpo, ("ask", "base")),
    "ipo": Term(ipo, ("ask", "base")),
    "video_identity": Term(video_identity, sees=True),
}

_CURES = {
    "ask": "this method's network cannot be asked twice in a step; set it to 0.",
    "base": "this method has no frozen base to compare with; use an adapter on a base, or set it "
    "to 0.",
    "more": "this method is told the person, and nothing that could be left out beside; use an "
    "adapter that is told prompts, or set it to 0.",
    "attention": "this method has no attention to identity beside text that could be looked at; "
    "use an adapter whose tokens stand beside text's, such as ip_adapter_faceid, or set it to 0.",
    "residuals": "this method adds nothing to attention that could be looked at; use an adapter "
    "such as ip_adapter_faceid, or set it to 0.",
    "embed": "this method makes no identity tokens; use another, such as ip_adapter_faceid, or set "
    "it to 0.",
    "vector": "this method makes its identity tokens of something else than the person's vector, "
    "so it cannot be shown two photographs of a person; use another, such as ip_adapter_faceid, or "
    "set it to 0.",
}
"""What to do where a method does not give what a loss needs."""


def check_company(recipe: TrainRecipe, people: int) -> None:
    """Refuse losses that would be 0 in every microbatch of a run, for want of company.

    Who gives each sample its ``negative_identity`` or ``edit_text`` asks the method itself, and not
    ``training.build.build``: its batches have neither.

    Args:
        recipe: Of the run.
        people: How many there are in its samples, those of a subject's class among them.

    Raises:
        BadValue: A loss compares samples, and a microbatch has one; or it compares people, and all
            samples are of one; or it is of a class, and no samples are.
    """
    share = recipe.batch // (recipe.scale.workers // recipe.scale.sequence)
    others = "give data.subject and data.prior_share with it, or set it to 0."
    for name, term in LOSSES.items():
        if not (weight := float(getattr(recipe.losses, name))):
            continue
        cure = ""
        if term.compares and min(recipe.microbatch, share) == 1:
            cure = "it compares samples of a microbatch; set microbatch to 2 or more"
            cure += ", and batch to as many for each worker." if share == 1 else "."
        elif term.people and people == 1:
            cure = f"it compares people, and all samples are of one; {others}"
        elif name == "prior" and not recipe.data.prior_share:
            cure = f"no samples are of the class; {others}"
        if cure:
            raise BadValue(f"losses.{name}", weight, cure)


class Objective(nn.Module):
    """The weighted sum of the losses that a recipe asks for.

    Args:
        settings: The weights.
        schedule: The noise of the step.
        codec: The method's.
        features: What the batch is read from.
        gives: What the method shows beside its prediction, in each call.

    Raises:
        BadValue: A loss needs what the method does not give, or is of pictures only.
    """

    def __init__(
        self,
        settings: LossSettings,
        schedule: NoiseSchedule,
        codec: Codec,
        features: Features,
        gives: Gives = PREDICTION,
    ) -> None:
        super().__init__()
        self.settings, self.schedule = settings, schedule
        weights = {name: float(getattr(settings, name)) for name in LOSSES}
        self.weights = {
            name: weight for name, weight in weights.items() if weight > 0 or name == "mse"
        }
        for name in (name for name in self.weights if weights[name] > 0):
            if LOSSES[name].still and features.frames:
                cure = "these are videos; use losses.video_identity, and set it to 0."
                raise BadValue(f"losses.{name}", weights[name], cure)
            for need in LOSSES[name].needs:
                if not getattr(gives, need):
                    raise BadValue(f"losses.{name}", weights[name], _CURES[need])
        self.identity_loss: nn.Module | None = None
        if any(LOSSES[name].sees for name in self.weights):
            # Only here: it brings the identity network.
            from training.identity import IdentityLoss, differentiable_encoder

            encoder = differentiable_encoder(features, settings.identity_pack)
            self.identity_loss = IdentityLoss(encoder)
        # No module: the codec, which it holds, is the method's.
        known: Any = self.identity_loss
        self.tools = Tools(settings, schedule, codec, features, gives, known)
        self.captions: dict[str, Any] = {}
        """Each ``Preference`` that is to find its vectors of the samples' captions in the batch, by
        the entry's name; a method that asks in prompts of its own brings theirs, and empties it."""
        if "reward" in self.weights and (settings.reward_scorer or settings.reward_watch):
            self._load_clips()
        self.networks = self.tools.networks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for name in self.weights:
                if (make := LOSSES[name].network) is not None:
                    self.networks[name] = make(self.tools)

    def _load_clips(self) -> None:
        """Load what scores looks and what is watched: once, where they are the same."""
        from training.preference import Preference

        settings, reading = self.settings, list[Preference]()
        scorer = Preference(settings.reward_scorer) if settings.reward_scorer else None
        if scorer is not None:
            self.tools.aesthetic = scorer
            if settings.reward_aesthetic or settings.reward_semantic:
                reading.append(scorer)
        if settings.reward_watch:
            watch = scorer
            if watch is None or watch.reference != settings.reward_watch:
                watch = Preference(settings.reward_watch, "reward_watch")
            self.tools.watch = {"clip_t": watch.clip_t}
            reading.append(watch)
        self.captions = {clip.entry: clip for clip in reading}

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the losses' own networks: moved and kept at resume, of no use to an export."""
        return dict(self.networks.named_parameters(prefix="networks"))

    def needs(self, what: str) -> bool:
        """Tell whether a loss of weight above 0 needs a field of ``Gives``."""
        return any(what in LOSSES[name].needs for name in self._counted())

    def _counted(self) -> list[str]:
        return list(self.weights) if torch.is_grad_enabled() else ["mse"]

    def forward(
        self,
        pred: Float[Tensor, "B C *T H W"],
        noised: Noised,
        batch: Batch,
        asked: Bool[Tensor, " B"],
        **shown: Any,  # noqa: ANN401 - fields of ``Step``
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; ``mse`` is told even where it weighs nothing.

        Without gradients nobody descends, and only ``mse`` is computed: validation asks for it.

        Args:
            pred: The main prediction.
            noised: What it was asked of.
            batch: The microbatch.
            asked: Whose identity was given.
            shown: The fields of ``Step`` from ``ask`` on that the method ``gives``, for those
                that ``needs`` tells.
        """
        weight = self.schedule.weight(noised.snr, self.settings.min_snr_gamma)
        if "is_prior" in batch:
            of_subject = ~batch["is_prior"].bool()
            weight, asked = weight * of_subject, asked & of_subject
        step = Step(pred, noised, batch, asked, weight, **shown)
        terms = {name: LOSSES[name].loss(self.tools, step) for name in self._counted()}
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        told = {name: term.detach() for name, term in (terms | step.record).items()}
        return {"loss": total} | told
