"""Which picture of a prompt people would prefer, by a CLIP that was taught it; differentiable.

HPSv2 (arXiv:2306.09341) is such a CLIP, ViT-H/14, fine-tuned on choices between pictures of one
prompt. Any CLIP in the layout of transformers will do; one that was not taught preferences tells
how well prompt and picture agree.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.evaluation.scorers import load_scorer
from training.method import Batch

ENTRIES = {"reward_scorer": "clip_text", "reward_watch": "watch_text"}
"""Where in the batch CLIP's vectors of the prompts are, by the setting that names the CLIP."""
REMEMBERED = 100_000
"""Captions whose vectors are kept: 0.4 GB, where each has 1,024 numbers."""

_log = logging.getLogger(__name__)


class Preference:
    """Scores pictures against CLIP's vectors of their prompts, an entry of the batch; a ``Reward``.

    A score is the cosine of both vectors, times CLIP's own inverse temperature: the softmax of the
    scores of some pictures is how likely each is preferred. Where nothing was said (a vector of
    zeros) there is no score: NaN. No module, so that it is neither trained, saved nor divided among
    workers.

    Attributes:
        reference: Of its weights.
        setting: Of ``LossSettings``, that named it.
        entry: Of the batch, see ``ENTRIES``.
    """

    def __init__(self, reference: str, setting: str = "reward_scorer") -> None:
        """Load it; see ``load_scorer``."""
        self.reference, self.setting, self.entry = reference, setting, ENTRIES[setting]
        self._scorer = load_scorer("clip", reference)
        self._cut = False

    def to(self, device: torch.device) -> None:
        """Move it."""
        self._scorer.network.to(device)

    def vectors(self, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
        """Return what the batch is to hold of some prompts; zeros of those that say nothing.

        Each is read alone: in company its vector would depend, in the last digits, on the others.
        """
        dim = int(self._scorer.network.config.projection_dim)
        made = torch.zeros(len(prompts), dim)
        for at, prompt in enumerate(prompts):
            if prompt:
                vectors, cut = self._scorer.prompts([prompt])
                made[at] = torch.from_numpy(vectors[0])
                self._say_cut(prompt, cut)
        return made

    def __call__(self, pictures: Float[Tensor, "B 3 H W"], batch: Batch) -> Float[Tensor, " B"]:
        """Score each picture for its prompt.

        Raises:
            BadValue: Nobody put CLIP's vectors of the prompts into the batch.
        """
        network = self._scorer.network.to(pictures.device)
        scores: Tensor = network.logit_scale.exp() * self._agreement(pictures, batch)
        return scores

    @torch.no_grad()
    def clip_t(self, pictures: Float[Tensor, "B 3 H W"], batch: Batch) -> Float[Tensor, " B"]:
        """Return CLIP-T, the bare cosine, of pictures as files hold them; without gradients.

        It is what evaluation calls ``clip_t``, from -1 to 1; papers write it times 100.

        Raises:
            BadValue: See ``__call__``.
        """
        levels = (pictures.float().clamp(0, 1) * 255).round()
        # Half precision would move it by as much as it is to tell.
        with torch.autocast(pictures.device.type, enabled=False):
            return self._agreement(levels / 255, batch)

    def _agreement(self, pictures: Float[Tensor, "B 3 H W"], batch: Batch) -> Float[Tensor, " B"]:
        if self.entry not in batch:
            cure = "make it with training.build, or put CLIP's vectors of the prompts there."
            why = f"the batch has no `{self.entry}`; {cure}"
            raise BadValue(f"losses.{self.setting}", self.reference, why)
        wanted = batch[self.entry].float()
        network = self._scorer.network.to(pictures.device)
        seen = network.get_image_features(pixel_values=self._scorer.ready(pictures)).pooler_output
        cosines = nn.functional.cosine_similarity(seen.float(), wanted, dim=1)
        return torch.where(wanted.any(dim=1), cosines, torch.nan)

    def _say_cut(self, prompt: str, cut: int) -> None:
        if cut and not self._cut:
            _log.warning(
                "%s cuts prompts that are longer than it reads, as %r.", self.reference, prompt
            )
        self._cut = self._cut or cut > 0


class Captions:
    """CLIP's vectors of what is said of samples, as entries of the batch.

    They are computed where they are first needed, and then remembered.
    """

    def __init__(self, clips: Mapping[str, Preference], captions: Sequence[str]) -> None:
        """Compute nothing yet.

        Args:
            clips: By the batch's entry.
            captions: By the number of the sample; empty where nothing is said.
        """
        self._captions = captions
        self._read = {
            name: lru_cache(REMEMBERED)(lambda caption, clip=clip: clip.vectors([caption])[0])
            for name, clip in clips.items()
        }

    def __call__(self, samples: Int64[np.ndarray, " B"]) -> dict[str, Float[Tensor, "B dim"]]:
        """Return the entries of some samples."""
        said = [self._captions[sample] for sample in samples.tolist()]
        return {
            name: torch.stack([read(caption) for caption in said])
            for name, read in self._read.items()
        }
