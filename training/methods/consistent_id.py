"""ConsistentID: identity tokens of the whole face, and each of its parts fused into a word.

Shapes: B samples; F reference faces, P parts of each; C channels, H rows, W columns of latents; N
pixels of a layer.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from jaxtyping import Float
from torch import Tensor

from stages.landmarks import arcface5
from stages.models.faces import SCHEMES
from training.features import Features
from training.method import Batch
from training.methods.faceid_conditions import Given
from training.methods.on_attention import AttentionAdapter, Told
from training.nets.attention_maps import Told as Noted
from training.nets.consistent_id import PHRASE, FacialEncoder, projection_names
from training.nets.cross_attention import CrossAttention
from training.nets.face_parts import PARTS, part_masks
from training.nets.face_states import check_image
from training.nets.faceid import HEAD_DIM, PlusProjection
from training.nets.references import seeded
from training.nets.tuning import tune
from training.nets.words import Words, spoken
from training.objectives.step import Gives
from training.settings import TrainRecipe

WEIGHTS = {"to_k_ip.0.weight": "to_k.weight", "to_v_ip.0.weight": "to_v.weight"}
_PUBLISHED = {"to_k_ip.0.weight": "to_k_ip.weight", "to_v_ip.0.weight": "to_v_ip.weight"}


class ConsistentID(AttentionAdapter):
    """Train FaceID-Plus' projection, its attention with a LoRA, and an encoder of face parts.

    The words of the parts are added to the prompt's states, once per face, with the parts fused
    into them. The original finds them in captions that a language model wrote; here prompts are
    prepared as states, where nobody knows which token is the nose. Nobody's words are plain, and
    nobody's identity tokens are those of a vector of zeros and an empty picture.

    ``losses.localise`` compares, in **cross**-attention, each part's word with where the part is
    in the target. The original looked at self-attention, whose columns are pixels, not words; and
    with fused attention at nothing. ``losses.masked`` is its other loss.

    References:
        Huang et al., "ConsistentID: Portrait Generation with Multimodal Fine-Grained Identity
        Preserving", arXiv:2404.16771; train.py and attention.py of its code.
    """

    file: ClassVar[str] = "consistentid.safetensors"
    modules_beside: ClassVar[tuple[str, ...]] = ("projection", "facial_encoder")

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        super().__init__(recipe, features, folder)
        check_image(features, "consistent_id")
        self.words = Words(features, folder, PHRASE, PARTS, "consistent_id")
        width, tokens = self.unet.config.cross_attention_dim, recipe.method.tokens
        self.projection, self.facial_encoder = seeded(
            lambda: (
                PlusProjection(
                    embed_dims=width,
                    output_dims=width,
                    hidden_dims=features.image_shape[1],
                    id_embeddings_dim=features.identity_dim,
                    heads=max(1, width // HEAD_DIM),
                    dim_head=HEAD_DIM,
                    num_tokens=tokens,
                ),
                FacialEncoder(features.image_shape, width),
            ),
            recipe.seed,
        )
        self.attention = CrossAttention(
            self.unet,
            recipe.base.weights,
            lambda hidden, text: IPAdapterAttnProcessor2_0(hidden, text, num_tokens=(tokens,)),
            WEIGHTS,
            lora_rank=recipe.method.lora_rank,
            seed=recipe.seed,
        )
        tune(self.unet, recipe.scale)

    def _save_more(self, folder: Path) -> None:
        self.words.save(folder)

    def _cross(self, given: Given) -> Told:
        """Return text with each face's words after it, and the whole faces' tokens."""
        text, scale, words = given.text, self.attention.scale, self.words.states
        if scale:
            fused = self.facial_encoder(self._images(given), words)
            text = torch.cat([text, spoken(words, fused, self._present(given), scale)], dim=1)
        return text, [self._tokens(given)]

    def _tokens(self, given: Given) -> Float[Tensor, "B F tokens E"]:
        """Return the tokens of each whole face."""
        tokens: Tensor = self.projection(given.faces.flatten(0, 1))
        return tokens.view(*given.faces.shape[:2], *tokens.shape[1:])

    def _gives(self) -> Gives:
        return replace(super()._gives(), embed=self.unet.config.cross_attention_dim)

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        return self._tokens(given).flatten(1, 2).float()

    def _attended(self, told: Noted, given: Given) -> Float[Tensor, "B N P"]:
        """Say how much of a layer's attention to words each part has, over all faces."""
        faces = given.faces.shape[1]
        columns = told.of_text()[..., -faces * len(PARTS) :]
        return columns.reshape(*columns.shape[:2], faces, len(PARTS)).sum(dim=2)

    def _regions(self, batch: Batch, given: Given) -> Float[Tensor, "B P H W"]:  # noqa: ARG002
        """Return where the parts are in the target."""
        latents, scheme = batch["latents"], SCHEMES[self.features.backend]
        points = torch.from_numpy(arcface5(batch["landmarks"].cpu().float().numpy(), scheme))
        height_px, width_px = self._sides_px(latents)
        return part_masks(points.to(latents.device), height_px, width_px, *latents.shape[2:])

    def _names(self) -> dict[str, str]:
        names = self.attention.published_names("adapter_modules", _PUBLISHED)
        ours = {f"unet.{name}": theirs for name, theirs in names.items()}
        ours |= {f"projection.{o}": f"image_proj.{t}" for o, t in projection_names().items()}
        facial = FacialEncoder.published_names()
        return ours | {f"facial_encoder.{o}": f"FacialEncoder.{t}" for o, t in facial.items()}
