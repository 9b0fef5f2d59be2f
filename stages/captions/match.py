"""How well a caption and its picture go together, as CLIP sees it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float32
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from infra.errors import BadWeights
from stages.captions.weights import folder
from stages.types import RGB


class ClipMatch:
    """Scores pairs of a picture and a text.

    The score is the plain cosine, as LAION's filters use it; CLIPScore is 2.5 times its positive
    part. A text is cut at the model's length, 77 tokens, where what is left out is unseen.

    Args:
        model: Folder of a CLIP model, by reference.
        device: Where it runs.

    Raises:
        BadValue: The reference has no known scheme.
        BadWeights: There is no such model.

    References:
        Hessel et al., "CLIPScore", arXiv:2104.08718; Schuhmann et al., "LAION-400M",
        arXiv:2111.02114 (0.3 for ViT-B/32).
    """

    def __init__(self, model: str, *, device: str = "cpu") -> None:
        path = folder(model)
        self.device = device
        try:
            self.processor: Any = CLIPProcessor.from_pretrained(path, local_files_only=True)
            self.model: Any = CLIPModel.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, TypeError) as problem:
            why = f"is no CLIP model: {problem}"
            raise BadWeights(str(path), why, "Name the folder of one, such as ViT-B/32.") from None
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[RGB], texts: Sequence[str]) -> list[float]:
        """Return one cosine per pair."""
        inputs = self.processor(
            text=list(texts),
            images=[Image.fromarray(picture) for picture in pictures],
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        seen = self.model(**inputs)
        return _cosines(seen.image_embeds.float().cpu(), seen.text_embeds.float().cpu())


def _cosines(
    one: Float32[torch.Tensor, "pairs dim"], other: Float32[torch.Tensor, "pairs dim"]
) -> list[float]:
    cosines: list[float] = torch.nn.functional.cosine_similarity(one, other).tolist()
    return cosines
