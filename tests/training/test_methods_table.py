"""The table of methods in the README of training names them all, with the right numbers."""

import re
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.training.conftest import write_features
from tests.training.methods.adapters import FEATURES
from training.build import METHODS, build
from training.methods.sefi_ide import KINDS, STAGES
from training.nets.clip_presets import TEXTS
from training.nets.codec import PatchCodec
from training.nets.dis_booth import RestAdapter
from training.nets.face_parts import PARTS
from training.nets.faceid import FaceIDAdapter
from training.nets.instant_id import InstantIDAdapter
from training.nets.lora import AttentionLoRA
from training.nets.name_embeddings import NameTokens
from training.nets.presets import UNETS
from training.nets.words import WORDS_FILE
from training.recipes import RECIPES, lfw64
from training.settings import DataSettings, LossSettings

README = (Path(__file__).parents[2] / "training/README.md").read_text()


def rows():
    """Yield the first cells of every row: method, what is trained, millions of parameters."""
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"[\d.]+", cells[2] if len(cells) > 2 else ""):
            yield cells[0], cells[1], float(cells[2])


def millions(weights):
    return round(sum(weight.numel() for weight in weights) / 1e6, 1)


def faceid(base, **how):
    how = {"identity_dim": 512, "tokens": 4, "lora_rank": 128, "seed": 0} | how
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS[base])
        return millions(FaceIDAdapter(unet, base, **how).weights().values())


def instant_id():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS["sdxl"])
        ours = InstantIDAdapter(unet, "x", identity_dim=512, tokens=16, latent_px=8, seed=0)
    return millions(ours.weights().values())


def arc2face():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS["sd15"])
        text = CLIPTextModel(CLIPTextConfig(**TEXTS["sd15"][0]))
    return millions([*unet.parameters(), *text.parameters()])


def adapter(recipe):
    """Make a recipe's method at true size, told of CLIP-H and of ArcFace's vectors."""
    features = replace(
        FEATURES, codec="random:sd15", latent_shape=(4, 64, 64), image_px=512, text_shape=(0, 0),
        image_shape=(257, 1280), identity_dim=512,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as home, torch.device("meta"):
        words = {"states": torch.zeros(len(PARTS), 768, device="cpu")}
        save_file(words, Path(home) / WORDS_FILE)
        plain = replace(RECIPES[recipe](), losses=LossSettings())
        module, _, name = METHODS[plain.method.kind].partition(":")
        method = getattr(import_module(module), name)(plain, features, Path(home))
    return millions(method.trainable().values())


def attention_lora(rank, *more):
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS["sd15"])
        lora = AttentionLoRA(unet, rank=rank, seed=0)
    return millions([*lora.weights().values(), *(w for net in more for w in net.parameters())])


def name_tokens():
    """The MLP, and the vector itself."""
    net = NameTokens(512, [torch.zeros(2, 768)] * 2, seed=0)
    return millions([torch.zeros(512), *net.parameters()])


def test_every_kind_of_method_has_a_row():
    first = [re.match(r"`(\w+)`", name) for name, _, _ in rows()]
    assert {found[1] for found in first if found} == set(METHODS)


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ("`ip_adapter_faceid` on SD 1.5", lambda: faceid("sd15")),
        ("the same on SDXL", lambda: faceid("sdxl")),
        ("variant `plus` on SD 1.5", lambda: faceid("sd15", image_width=1280)),
        ("variant `portrait` on SD 1.5", lambda: faceid("sd15", tokens=16, lora_rank=0)),
        ("`instant_id` on SDXL", instant_id),
        ("`arc2face` on SD 1.5", arc2face),
        ("`lora` on SD 1.5", lambda: attention_lora(4)),
        ("`dis_booth` on SD 1.5", lambda: attention_lora(4, RestAdapter(1024, 768, seed=0))),
        ("`stable_identity` on SD 1.5", name_tokens),
        ("`sefi_ide` on SD 1.5", lambda: round(STAGES * len(KINDS) * 768 / 1e6, 3)),
        ("`pva` on SD 1.5 for inpainting", lambda: faceid("sd15", lora_rank=0)),
        ("`consistent_id` on SD 1.5", lambda: adapter("consistent_id_sd15")),
        ("`fast_composer` on SD 1.5", lambda: adapter("fast_composer_sd15")),
        ("`photo_verse` on SD 1.5", lambda: adapter("photo_verse_sd15")),
        ("`w_plus` on SD 1.5", lambda: adapter("w_plus_sd15")),
    ],
)
def test_as_many_parameters_are_trained_as_the_table_says(row, count):
    (stated,) = [number for name, _, number in rows() if name == row]
    assert stated == count()


def test_the_small_generator_has_as_many_as_the_table_says(tmp_path):
    folder = write_features(
        tmp_path / "features", shape=(12, 16, 16), dim=128, codec="file:codec.safetensors"
    )
    PatchCodec().save(folder / "codec.safetensors")
    data = DataSettings(path=str(folder), heldout_share=0.0)
    method = build(replace(lfw64(), data=data)).method
    (stated,) = [number for name, _, number in rows() if name == "`base`"]
    assert stated == millions(method.trainable().values())


def test_every_method_has_a_recipe():
    assert {make().method.kind for make in RECIPES.values()} == set(METHODS)


@pytest.mark.parametrize(
    ("row", "published"),
    [
        # Of the networks of the published code, in millions.
        ("`ip_adapter_faceid` on SD 1.5", 3.68 + 19.17 + 25.5),
        ("the same on SDXL", 8.93 + 340.8 + 185.8),
        ("variant `plus` on SD 1.5", 29.9 + 3.68 + 19.17 + 25.5),
        ("`instant_id` on SDXL", 422.8 + 1251),
        ("`arc2face` on SD 1.5", 859.5 + 123.1),
        ("`id_animator` on AnimateDiff for SD 1.5", 29.9 + 19.17 + 25.5),
        # Of the papers: 6.16 billion of ConsisID, 3.19 billion that Proteus-ID adds to 5.57.
        ("`consis_id` on CogVideoX-5B-I2V", 6160),
        ("`proteus_id` on CogVideoX-5B-I2V", 5570 + 3190),
    ],
)
def test_these_are_as_many_as_were_published(row, published):
    (stated,) = [number for name, _, number in rows() if name == row]
    assert stated == pytest.approx(published, rel=0.005)
