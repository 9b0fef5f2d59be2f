"""ID-Animator: a frozen AnimateDiff that also attends to a face, whose image it looks at.

Shapes: B samples, C channels, T frames, H rows, W columns of latents.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from jaxtyping import Float, Int64
from torch import Tensor, nn

from infra.errors import BadValue
from training.features import Features
from training.methods.on_video import OnVideo
from training.methods.video_conditions import Told
from training.nets.cross_attention import CrossAttention
from training.nets.face_states import check_image
from training.nets.faceid_layout import IMAGE_PROJECTION
from training.nets.published import keys_and_values_apart, keys_and_values_joined, perceiver_names
from training.nets.references import seeded
from training.nets.resampler import make_resampler
from training.nets.tuning import tune
from training.nets.video_base import ask, is_transformer
from training.settings import TrainRecipe

_COPIES = {"to_k_ip.0.weight": "to_k.weight", "to_v_ip.0.weight": "to_v.weight"}
_PUBLISHED = {"to_k_ip.0.weight": "to_k_ip.weight", "to_v_ip.0.weight": "to_v_ip.weight"}


class IDAnimator(OnVideo):
    """Tokens of a face's image, and keys and values for them in the cross-attention of each frame.

    The Resampler of IP-Adapter-Plus makes tokens (16 in the paper) of the image encoder's states of
    the reference face. In every cross-attention between a frame and the text, out = Attn(q, k_text,
    v_text) + scale * Attn(q, k_face, v_face), where k_face and v_face begin as the text's. Motion
    modules, which look from frame to frame, are as they were. A LoRA on the layers that are not
    theirs is optional. Only these are trained.

    The reference is another face of the same person than the one that is drawn: a random one of
    ``data.cross_share``'s others, the paper's random face reference. Captions are the paper's
    unified ones, of the person and of what they do, if they were prepared so. Neither the paper's
    loss on identity (``losses.video_identity``) nor the identity vector is part of the method.

    The export is IP-Adapter-Plus' layout, which ``AnimateDiffPipeline.load_ip_adapter`` reads. The
    original calls keys and values ``to_k_face`` and ``to_v_face`` in ``adapter_modules``, which
    only its own code reads.

    References:
        He et al., "ID-Animator: Zero-Shot Identity-Preserving Human Video Generation",
        arXiv:2404.15275; Ye et al., "IP-Adapter", arXiv:2308.06721. No training code of the first
        is published: the loss and the drops are the second's.
    """

    takes = ("image",)
    file = "id-animator.safetensors"

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Put the adapter into the base.

        Raises:
            BadValue: The base is no AnimateDiff, or no image states of faces were prepared.
        """
        super().__init__(recipe, features, folder)
        method = recipe.method
        check_image(features, method.kind)
        if is_transformer(self.network):
            cure = f"{method.kind} is an adapter for AnimateDiff; give such a base."
            raise BadValue("base.weights", recipe.base.weights, cure)
        self.attention = CrossAttention(
            self.network,
            recipe.base.weights,
            lambda hidden, width: IPAdapterAttnProcessor2_0(
                hidden, width, num_tokens=[method.tokens]
            ),
            _COPIES,
            lora_rank=method.lora_rank,
            seed=recipe.seed,
        )
        resampler = seeded(
            lambda: make_resampler(
                features.image_shape[1], self.network.config.cross_attention_dim, method.tokens
            ),
            recipe.seed,
        )
        # Where diffusers looks for it: the network itself repeats its tokens for each frame.
        self.network.encoder_hid_proj = MultiIPAdapterImageProjection([resampler])
        self.network.config.encoder_hid_dim_type = "ip_image_proj"
        tune(self.network, recipe.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name the Resampler, the keys and values, and the LoRA if there is one."""
        resampler = self.network.get_submodule(IMAGE_PROJECTION)
        weights = {f"{IMAGE_PROJECTION}.{n}": w for n, w in resampler.named_parameters()}
        return {f"network.{n}": w for n, w in (weights | self.attention.weights()).items()}

    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the keys and values, and of the LoRA, while the context lasts."""
        return self.attention.strength(scale)

    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the network, which makes the tokens itself."""
        image = told["image"]
        faces = image if image.ndim == 4 else image[:, None]
        return ask(self.network, z_t, t, told["text"], faces=[faces])

    def _names(self) -> dict[str, str]:
        inside = {"latents": "latents"} | perceiver_names()
        names = {f"{IMAGE_PROJECTION}.{ours}": f"image_proj.{to}" for ours, to in inside.items()}
        names |= self.attention.published_names("ip_adapter", _PUBLISHED)
        return {f"network.{ours}": theirs for ours, theirs in names.items()}

    def _published(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return keys_and_values_joined(named)

    def _adopted(self, published: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return keys_and_values_apart(published)
