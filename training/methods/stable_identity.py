"""StableIdentity: a person's vector becomes two tokens where names are, learnt in two phases.

Shapes: B samples; V variants, of K tokens each, E wide; D identity.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features, Prepared
from training.methods.on_subject_words import SubjectWordsOnBase
from training.nets.identity_tokens import normalised
from training.nets.name_embeddings import FAMILY, GIVEN, NameTokens
from training.nets.published import renamed
from training.noise import STEPS, NoiseSchedule
from training.objective import Objective
from training.settings import BaseModelSettings, TrainRecipe
from training.subject import training_samples

EMBEDS_FILE = "learned_embeds.safetensors"
"""What ``load_textual_inversion`` looks for in a folder."""
ENCODER_FILE = "identity_encoder.safetensors"
RECONSTRUCT_BELOW = 0.6
"""Share of the schedule, its clean end, in which the picture itself is compared."""


class TwoPhaseSchedule(NoiseSchedule):
    """Weighs a squared error of the prediction so that it is one of the noise, or of the picture.

    At times below 0.6 of the schedule |x0 - x0'|², above it |e - e'|²: the picture where its
    pixels can be seen, the noise where only its layout is decided. Both follow from the
    signal-to-noise ratio s: of predicted noise they are 1/s and 1 times its error, of predicted
    velocity 1/(1 + s) and s/(1 + s).

    Both phases are as the paper writes them. Its code undoes the autoencoder's scale before it
    compares pictures, so that this phase weighs 1/0.18215², 30 times, more; it adds 0.1 of the same
    losses on a mask of the hair; and of a base that predicts velocity, as its own does, it takes
    the velocity for noise when it estimates the picture.

    References:
        StableIdentity, arXiv:2401.15975, section 3.3 (alpha 0.6); train.py of its code.
    """

    def __init__(self, settings: BaseModelSettings) -> None:
        super().__init__(settings)
        alpha_bar = self.alphas_cumprod[int(RECONSTRUCT_BELOW * STEPS)]
        self.turn = float(alpha_bar / (1 - alpha_bar))

    def weight(self, snr: Float[Tensor, " B"], gamma: float) -> Float[Tensor, " B"]:
        """Return the weight of each sample.

        Raises:
            BadValue: ``gamma`` is above 0: these weights are the method's own.
        """
        if gamma:
            raise BadValue(
                "losses.min_snr_gamma", gamma, "stable_identity weighs its two phases; set it to 0."
            )
        if self.prediction == "epsilon":
            return torch.where(snr > self.turn, 1 / snr, 1.0)
        return torch.where(snr > self.turn, 1 / (1 + snr), snr / (1 + snr))


class StableIdentity(SubjectWordsOnBase):
    """Train what turns the subject's vector into a name's two tokens, inside the face mask.

    The vector is the mean of the subject's photographs', by the corpus' identity encoder; the
    original has one photograph, and a face recognition network of its own. It is one of the
    weights: an export holds it, and training may move it.

    References:
        Wang et al., "StableIdentity: Inserting Anybody into Anywhere at First Sight",
        arXiv:2401.15975.
    """

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        if recipe.method.tokens != 2:
            raise BadValue(
                "method.tokens", recipe.method.tokens, "a name is 2: one given, one family name."
            )
        self.schedule = TwoPhaseSchedule(recipe.base)
        self.schedule.weight(torch.ones(1), recipe.losses.min_snr_gamma)
        self.objective = Objective(
            recipe.losses, self.schedule, self.codec, features, self._gives()
        )
        self._names = [self.words.embedded(each) for each in (GIVEN, FAMILY)]
        self.tokens = NameTokens(features.identity_dim, self._names, recipe.seed)
        self.vector = nn.Parameter(_mean_vector(recipe, features, folder))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the vector, and the weights of what makes tokens of it."""
        return {"vector": self.vector} | dict(self.tokens.named_parameters("tokens"))

    def embeddings(self) -> Float[Tensor, "V K E"]:
        """Return the two tokens of the subject."""
        tokens: Tensor = self.tokens(self.vector[None])
        return tokens

    def save(self, folder: Path) -> None:
        """Write an export: the tokens as textual inversion, and what they are made by."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / ENCODER_FILE, self.trainable())
        # By a network of its own: with ZeRO 3 one worker saves, and this one's layers, when they
        # are called, wait for all.
        alone = NameTokens(len(self.vector), self._names, self.recipe.seed)
        held = {name: w.detach().cpu().float() for name, w in self.tokens.named_parameters()}
        alone.load_state_dict(held)
        word = alone(self.vector.detach().cpu().float()[None])[0]
        save_tensors(folder / EMBEDS_FILE, {self.recipe.method.subject_word: word})
        self.save_prompts(folder)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        path, ours = folder / ENCODER_FILE, self.trainable()
        return renamed(read_tensors(path), ours, {name: name for name in ours}, path)


def _mean_vector(recipe: TrainRecipe, features: Features, folder: Path) -> Float[Tensor, " D"]:
    """Return the mean of the subject's normalised vectors; in an export, the one it was."""
    if (folder / ENCODER_FILE).is_file():
        return read_tensors(folder / ENCODER_FILE)["vector"]
    prepared = Prepared(folder)
    mine, _ = training_samples(prepared, recipe)
    seen = prepared.read("identity", mine)
    return normalised(seen, recipe.method.identity_norm, features).mean(dim=0)
