"""Which picture of a prompt people would prefer, by a CLIP that was taught it; differentiable.

HPSv2 (arXiv:2306.09341) is such a CLIP, ViT-H/14, fine-tuned on choices between pictures of one
prompt. Any CLIP in the layout of transformers will do; one that was not taught preferences tells
how well prompt and picture agree.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.evaluation.scorers import load_scorer
from training.method import Batch
from training.objectives.step import needed


class Preference:
    """Scores pictures against ``clip_text`` of the batch; a ``Reward``.

    A score is the cosine of both vectors, times CLIP's own inverse temperature: the softmax of the
    scores of some pictures is how likely each is preferred. No module, so that it is neither
    trained, saved nor divided among workers.
    """

    def __init__(self, reference: str) -> None:
        """Load it; see ``load_scorer``."""
        self._scorer = load_scorer("clip", reference)

    def vectors(self, prompts: list[str]) -> Float[Tensor, "prompts dim"]:
        """Return what ``clip_text`` is to hold of some prompts."""
        return torch.from_numpy(self._scorer.prompts(prompts)[0])

    def __call__(self, pictures: Float[Tensor, "B 3 H W"], batch: Batch) -> Float[Tensor, " B"]:
        """Score each picture for its prompt.

        Raises:
            BadValue: Nobody put CLIP's vectors of the prompts into the batch.
        """
        cure = "this method does not ask in its own prompts; put CLIP's vectors of them there."
        wanted = needed(batch, "clip_text", "reward_scorer", 1.0, cure)
        network = self._scorer.network.to(pictures.device)
        seen = network.get_image_features(pixel_values=self._scorer.ready(pictures)).pooler_output
        agreement = nn.functional.cosine_similarity(seen.float(), wanted.float(), dim=1)
        scores: Tensor = network.logit_scale.exp() * agreement
        return scores
