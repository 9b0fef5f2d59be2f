"""ConsistentID's facial encoder: parts of a face, each seen by itself and fused into its word.

Shapes: B samples, F faces, S states of width I of an image (the class state, then R x C patches); P
parts; E the text's width.
"""

from math import isqrt
from typing import Any

from diffusers.models.embeddings import IPAdapterPlusImageProjection
from jaxtyping import Float
from torch import Tensor, nn

from infra.errors import BadValue
from training.nets.face_parts import PARTS, aligned_part_masks
from training.nets.faceid import HEAD_DIM
from training.nets.faceid_layout import IMAGE_PROJECTION, published_names
from training.nets.published import perceiver_names
from training.nets.words import WordFuser

PHRASE = "a person with one face, two ears, two eyes, a nose and a mouth"
"""What the words of ``PARTS`` are read in."""
DIM, BLOCKS = 1024, 8
"""Of the perceiver, as published."""


class FacialEncoder(nn.Module):
    """A perceiver sees each part's patches and makes a vector of them, which its word is told.

    The original cuts five pictures out of a face by a parser's masks, the rest black, and runs the
    image encoder on each. Here it ran once, on the whole aligned crop: of its states each part is
    shown those of the patches that it covers, by the landmarks; all others, and the class state,
    are zeros. So a part's states know what is around it, and no parser is needed.

    A narrow base has a narrower perceiver: twice its width, up to the published 1024.

    References:
        Huang et al., "ConsistentID: Portrait Generation with Multimodal Fine-Grained Identity
        Preserving", arXiv:2404.16771; ``FacialEncoder`` of its attention.py.
    """

    masks: Float[Tensor, "P S"]

    def __init__(self, image_shape: tuple[int, int], width: int) -> None:
        """Make it for states of ``image_shape`` (tokens x width) and words of ``width``.

        Raises:
            BadValue: The patches are not those of a square.
        """
        super().__init__()
        tokens, image_width = image_shape
        side = isqrt(tokens - 1)
        if side**2 != tokens - 1 or not side:
            raise BadValue(
                "features.image_shape",
                image_shape,
                "parts are found on a square grid of patches after a class state, as CLIP's; "
                "prepare the features with such an encoder.",
            )
        heads = max(1, min(DIM, 2 * width) // HEAD_DIM)
        make: Any = IPAdapterPlusImageProjection
        self.visual_projection: nn.Module = make(
            embed_dims=image_width,
            output_dims=width,
            hidden_dims=heads * HEAD_DIM,
            depth=BLOCKS,
            heads=heads,
            dim_head=HEAD_DIM,
            num_queries=1,
        )
        self.fuse_module = WordFuser(width)
        masks = aligned_part_masks(side, side)[0].flatten(1)
        self.register_buffer("masks", nn.functional.pad(masks, (1, 0)), persistent=False)

    def forward(
        self, image: Float[Tensor, "B F S I"], words: Float[Tensor, "P E"]
    ) -> Float[Tensor, "B F P E"]:
        """Return the words of each face with its parts fused into them."""
        shown = image[:, :, None] * self.masks[:, :, None]
        seen = self.visual_projection(shown.flatten(0, 2))
        parts = seen.unflatten(0, (*image.shape[:2], len(PARTS)))[..., 0, :]
        fused: Tensor = self.fuse_module(words.expand_as(parts), parts)
        return fused

    @staticmethod
    def published_names() -> dict[str, str]:
        """Return the published name of each weight, keys and values apart."""
        four = perceiver_names()
        around = {ours: theirs for ours, theirs in four.items() if not ours.startswith("layers.")}
        block = {ours: four[ours] for ours in four if ours.startswith("layers.0.")}
        perceiver = {"latents": "latents"} | around
        for i in range(BLOCKS):
            perceiver |= {
                ours.replace("layers.0.", f"layers.{i}.", 1): theirs.replace(
                    "layers.0.", f"layers.{i}.", 1
                )
                for ours, theirs in block.items()
            }
        names = {f"visual_projection.{o}": f"visual_projection.{t}" for o, t in perceiver.items()}
        fuser = WordFuser.published_names()
        return names | {f"fuse_module.{o}": f"fuse_module.{t}" for o, t in fuser.items()}


def projection_names() -> dict[str, str]:
    """Return the published name of each weight of FaceID-Plus' projection, as it is by itself."""
    names = published_names((), lora=False, plus=True)
    prefix = f"{IMAGE_PROJECTION}."
    return {o.removeprefix(prefix): t.removeprefix("image_proj.") for o, t in names.items()}
