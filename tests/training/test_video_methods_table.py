"""The table of methods tells of those for videos what their recipes train, at true size."""

import pytest
import torch

from tests.training.test_methods_table import millions, rows
from training.build import method_class
from training.features import Features
from training.nets.isolated_lora import IsolatedLoRA
from training.nets.video_presets import load_video_network
from training.recipes import RECIPES

ANIMATEDIFF = {
    "codec": "random:animatediff-sd15", "latent_shape": (4, 64, 64), "image_px": 512,
    "text_shape": (0, 0), "frames": 16, "clip_frames": 16,
}  # fmt: skip
COGVIDEOX = {
    "codec": "random:cogvideox-5b", "latent_shape": (16, 60, 90), "image_px": 588,
    "text_shape": (226, 4096), "frames": 13, "clip_frames": 49,
}  # fmt: skip


def told(**shape):
    return Features(
        corpus="c0ffee", identity_dim=512, embedder="a@0", backend="insightface",
        identity_mean=(0.0,) * 512, identity_std=(1.0,) * 512, image_shape=(257, 1280),
        face_states_shape=(5, 577, 1024), face_pooled_dim=768, fps=8.0, **shape,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "recipe", "shape"),
    [
        ("`id_animator` on AnimateDiff for SD 1.5", "id_animator_sd15_8xh200", ANIMATEDIFF),
        ("`consis_id` on CogVideoX-5B-I2V", "consis_id_cogvideox_5b_8xh200", COGVIDEOX),
        ("`magic_id` on CogVideoX-2B", "magic_id_cogvideox_2b",
         COGVIDEOX | {"codec": "random:cogvideox-2b"}),
        ("`proteus_id` on CogVideoX-5B-I2V", "proteus_id_cogvideox_5b_8xh200", COGVIDEOX),
    ],
)  # fmt: skip
def test_as_many_parameters_are_trained_as_the_table_says(
    row, recipe, shape, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "training.methods.video_conditions.read_empty",
        lambda _: {"text": torch.zeros(shape["text_shape"])},
    )
    monkeypatch.setattr("training.methods.on_video.Objective", lambda *_: torch.nn.Module())
    asked = RECIPES[recipe]()
    with torch.device("meta"):
        method = method_class(asked.method.kind)(asked, told(**shape), tmp_path)
    (stated,) = [number for name, _, number in rows() if name == row]
    assert stated == millions(method.trainable().values())


def test_the_isolated_lora_has_as_many_as_the_table_says():
    asked = RECIPES["personal_video_animatediff"]()
    with torch.device("meta"):
        network = load_video_network(asked.base)
        lora = IsolatedLoRA(network, rank=asked.method.lora_rank, seed=0)
    (stated,) = [number for name, _, number in rows() if name.startswith("`personal_video`")]
    assert stated == millions(lora.weights().values())
