"""ConsisID's transformer: CogVideoX with a reference face beside its latents and in its layers.

The network is diffusers' own ``ConsisIDTransformer3DModel``; here it grows out of a base, and takes
less memory. Shapes: B samples, Q queries, K keys of width ``kv``, N tokens of width ``dim``; layers
x P tokens x V of an image encoder's states.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.consisid_transformer_3d import (
    ConsisIDTransformer3DModel,
    LocalFacialExtractor,
    PerceiverAttention,
    PerceiverCrossAttention,
)
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from infra.errors import BadValue, BadWeights
from infra.weights import locate
from training.features import Features
from training.nets.references import Settings, model_folder, seeded, split_reference
from training.nets.video_presets import load_video_network
from training.settings import BaseModelSettings

ADDED = ("local_facial_extractor.", "perceiver_cross_attention.")
"""How the names of the weights begin that ConsisID adds to its base."""
_CLASS = "ConsisIDTransformer3DModel"
_OF_15 = ("ofs_embed_dim", "patch_size_t")
"""What only CogVideoX 1.5 says of itself; ConsisID grew out of the version before it."""
_TINY: Settings = {
    "cross_attn_dim_head": 8, "cross_attn_num_heads": 2, "LFE_dim_head": 8, "LFE_num_heads": 2,
    "LFE_num_querie": 4, "LFE_num_id_token": 2, "LFE_ff_mult": 2,
}  # fmt: skip


def load_consis_id(base: BaseModelSettings, features: Features, seed: int = 0) -> Any:  # noqa: ANN401 - half untyped
    """Load ConsisID's transformer, or grow it out of a base that takes a picture.

    Grown, it has the base's weights; what is added is drawn from ``seed``, but for the last layers
    of the cross-attentions, which begin as zeros, so that the first step is the base's: ours, for
    diffusers' module draws these too.

    Args:
        base: ``weights`` is ``random:<preset>`` of a CogVideoX that takes a picture, or
            ``file:<folder>`` of such a pipeline or of a ConsisID pipeline.
        features: Say how wide vectors and states of the face are, and of how many layers.
        seed: What new weights are drawn from.

    Raises:
        BadValue: The base takes no picture, or is of another version; or there are no features of
            the face, or others than its ConsisID reads.
        BadWeights: The folder holds no such network in safetensors.
    """
    if not (features.face_states_shape[0] and features.face_pooled_dim):
        cure = "it looks at a face's states too; prepare the videos with a face encoder."
        raise BadValue("method.kind", "consis_id", cure)
    if is_consis_id(base.weights):
        network = _read(model_folder(base.weights, "transformer"))
    else:
        network = seeded(lambda: _grown(load_video_network(base, seed), base, features), seed)
    _check(network, base, features)
    return lightened(network).eval()


def is_consis_id(reference: str) -> bool:
    """Tell whether a reference is of a ConsisID, not of a base that it could grow out of."""
    scheme, _ = split_reference(reference)
    if scheme == "random":
        return False
    home = locate(reference)
    path = (home / "transformer" if (home / "transformer").is_dir() else home) / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("_class_name") == _CLASS


def lightened(network: Any) -> Any:  # noqa: ANN401
    """Let gradient checkpointing reach what ConsisID adds, and attention be computed in one go.

    In diffusers neither is so: each of 21 cross-attentions keeps its scores, in float32, for all
    17,550 tokens. What is computed is the same. Classes change, and with them ``forward`` alone:
    weights keep their names, and ``enable_gradient_checkpointing`` finds the modules by itself.
    """
    network.local_facial_extractor.__class__ = Extractor
    for attention, _ in network.local_facial_extractor.layers:
        attention.__class__ = ExtractorAttention
    for attention in network.perceiver_cross_attention:
        attention.__class__ = CrossAttention
    # What `compile_repeated_blocks` compiles; ConsisID's class does not say.
    network._repeated_blocks = ["ConsisIDBlock"]
    return network


class Extractor(LocalFacialExtractor):  # type: ignore[misc]  # untyped
    """The local facial extractor, which gradient checkpointing reaches."""

    gradient_checkpointing = False

    def forward(
        self, id_embeds: Float[Tensor, "B value"], vit_hidden_states: list[Tensor]
    ) -> Float[Tensor, "B queries kv"]:
        """Return what cross-attention looks at; ``vit_hidden_states`` are B x P x V each."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            given = (super().forward, id_embeds, vit_hidden_states)
            return torch.as_tensor(self._gradient_checkpointing_func(*given))
        return torch.as_tensor(super().forward(id_embeds, vit_hidden_states))


class ExtractorAttention(PerceiverAttention):  # type: ignore[misc]  # untyped
    """Attention of the extractor: queries look at the face and at themselves."""

    def forward(
        self, image_embeds: Float[Tensor, "B K dim"], latents: Float[Tensor, "B Q dim"]
    ) -> Float[Tensor, "B Q dim"]:
        """Return what is added to ``latents``."""
        face, asking = self.norm1(image_embeds), self.norm2(latents)
        return _attended(self, asking, torch.cat([face, asking], dim=1))


class CrossAttention(PerceiverCrossAttention):  # type: ignore[misc]  # untyped
    """Cross-attention of a video's tokens to a face, which gradient checkpointing reaches."""

    gradient_checkpointing = False

    def forward(
        self, image_embeds: Float[Tensor, "B K kv"], hidden_states: Float[Tensor, "B N dim"]
    ) -> Float[Tensor, "B N dim"]:
        """Return what is added to ``hidden_states``."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            given = (self._looked, image_embeds, hidden_states)
            return torch.as_tensor(self._gradient_checkpointing_func(*given))
        return self._looked(image_embeds, hidden_states)

    def _looked(self, image_embeds: Tensor, hidden_states: Tensor) -> Tensor:
        return _attended(self, self.norm2(hidden_states), self.norm1(image_embeds))


def _attended(
    layer: Any,  # noqa: ANN401 - one of two classes of diffusers, which are untyped
    asking: Float[Tensor, "B Q dim"],
    asked: Float[Tensor, "B K kv"],
) -> Float[Tensor, "B Q dim"]:
    """Attend with the projections of a layer; both are normalised already."""
    given: list[Tensor] = [layer.to_q(asking), *layer.to_kv(asked).chunk(2, dim=-1)]
    q, k, v = (each.view(*each.shape[:2], layer.heads, -1).transpose(1, 2) for each in given)
    attended = scaled_dot_product_attention(q, k, v)
    return torch.as_tensor(layer.to_out(attended.transpose(1, 2).flatten(2)))


def _grown(network: Any, base: BaseModelSettings, features: Features) -> Any:  # noqa: ANN401
    """Put the parts of ConsisID beside the weights of a base."""
    config = dict(network.config)
    if config["in_channels"] != 2 * config["out_channels"]:
        cure = "ConsisID shows the face in channels of a picture; give a base that takes one (I2V)."
        raise BadValue("base.weights", base.weights, cure)
    if any(config.get(name) for name in _OF_15):
        cure = "this is CogVideoX 1.5, and ConsisID grew out of the version before; give CogVideoX."
        raise BadValue("base.weights", base.weights, cure)
    maker: Any = ConsisIDTransformer3DModel
    known = maker._get_init_keys(maker)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    settings = {name: value for name, value in config.items() if name in known} | {
        "is_train_face": True,
        "LFE_id_dim": features.identity_dim + features.face_pooled_dim,
        "LFE_vit_dim": features.face_states_shape[2],
        "LFE_num_scale": features.face_states_shape[0],
        "LFE_depth": 2 * features.face_states_shape[0],
        # As the network computes what its cross-attentions look at.
        "LFE_output_dim": int(width / 3 * 2),
    }
    if "tiny" in base.weights and split_reference(base.weights)[0] == "random":
        settings |= _TINY
    grown = maker.from_config(settings)
    missing, unknown = grown.load_state_dict(network.state_dict(), strict=False)
    assert not unknown, "what CogVideoX has ConsisID has too"
    assert all(name.startswith(ADDED) for name in missing), "and no more than that is new"
    for attention in grown.perceiver_cross_attention:
        nn.init.zeros_(attention.to_out.weight)
    return grown


def _check(network: Any, base: BaseModelSettings, features: Features) -> None:  # noqa: ANN401
    config = network.config
    if not config.is_train_face or config.is_kps:
        cure = "give a ConsisID that looks at faces, and at no drawing of their key points."
        raise BadValue("base.weights", base.weights, cure)
    layers, _, wide = features.face_states_shape
    theirs = (config.LFE_num_scale, config.LFE_vit_dim, config.LFE_id_dim)
    ours = (layers, wide, features.identity_dim + features.face_pooled_dim)
    if theirs != ours:
        raise BadValue(
            "base.weights",
            base.weights,
            f"it reads {theirs[0]} layers of states of width {theirs[1]} and {theirs[2]} numbers "
            f"of a face, and the features have {ours[0]}, {ours[1]} and {ours[2]}; prepare them "
            "with the encoders that it was trained with.",
        )


def _read(folder: Path) -> Any:  # noqa: ANN401 - diffusers' loaders have no types
    kind: Any = ConsisIDTransformer3DModel
    try:
        if torch.get_default_device().type == "meta":  # for a plan: of what size it is
            return kind.from_config(kind.load_config(folder))
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadWeights(str(folder), f"cannot be read: {error}") from error
