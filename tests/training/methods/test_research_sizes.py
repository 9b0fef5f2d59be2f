"""The table of methods says how many parameters these train, counted at true size."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection

from tests.training.methods.adapters import FEATURES
from tests.training.test_methods_table import millions, rows
from training.nets import dp_adapter, face_chain_fact, infinite_id, uni_id
from training.nets.presets import UNETS
from training.recipes import recipe

TRUE = replace(FEATURES, identity_dim=512, image_shape=(257, 1280), text_shape=(77, 768))


def counted(name, beside):
    """Count what a recipe's method trains, in millions."""
    ours = recipe(name)
    base = ours.base.weights.removeprefix("random:")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS[base])
        parts = beside(unet, ours.method, unet.config.cross_attention_dim)
    return millions([weight for part in parts for weight in part])


def of_infinite_id(unet, method, width):
    yield infinite_id.InfiniteAdapter(unet, "x").weights().values()
    yield infinite_id.FaceTokens(TRUE, method.tokens, width).parameters()


def of_face_chain_fact(unet, method, width):
    yield face_chain_fact.FactAdapter(unet, "x", 0).weights().values()
    yield face_chain_fact.FaceTokens(TRUE, method.tokens, width).parameters()


def of_dp_adapter(unet, method, width):
    yield dp_adapter.DualAdapter(unet, "x").weights().values()
    yield IPAdapterFaceIDImageProjection(512, width, num_tokens=method.tokens, mult=2).parameters()


def of_uni_id(unet, method, width):
    yield uni_id.UniAdapter(unet, "x").weights().values()
    yield uni_id.Words(TRUE, method.text_tokens, width).parameters()
    yield uni_id.Tokens(TRUE, method.tokens, width).parameters()


@pytest.mark.parametrize(
    ("row", "name", "beside"),
    [
        ("`infinite_id` on SDXL", "infinite_id_sdxl", of_infinite_id),
        ("`face_chain_fact` on SD 1.5", "face_chain_fact_sd15", of_face_chain_fact),
        ("`dp_adapter` on SD 1.5", "dp_adapter_sd15", of_dp_adapter),
        ("`uni_id` on SDXL", "uni_id_sdxl", of_uni_id),
    ],
)
def test_as_many_parameters_are_trained_as_the_table_says(row, name, beside):
    (stated,) = [number for told, _, number in rows() if told == row]
    assert stated == counted(name, beside)
