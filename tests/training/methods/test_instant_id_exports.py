"""InstantID's export, read by diffusers."""

import re
from dataclasses import replace

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)

from infra.errors import BadWeights
from tests.training.methods.adapters import (
    DIM,
    FEATURES,
    SD,
    SDXL,
    condition,
    drawn,
    empty,
    moved,
    painted,
    pipeline,
)
from tests.training.methods.test_instant_id import BASES, made
from training.build import load_export
from training.nets.landmarks_drawing import drawn_landmarks, frontal_landmarks_px


def saved(home, base=SD):
    method = moved(made(home / "features", base=base)).eval()
    method.save(home / "export")
    return method


def identity_pipeline(folder, base):
    """InstantID's pipeline: ControlNet's own, but IdentityNet is told identity in place of text."""
    controlnet = ControlNetModel.from_pretrained(
        folder, subfolder="ControlNetModel", use_safetensors=True, local_files_only=True
    )
    kind = StableDiffusionXLControlNetPipeline if base == SDXL else (
        StableDiffusionControlNetPipeline
    )  # fmt: skip
    parts = dict(pipeline(base).components)
    pipe = kind(**parts, controlnet=controlnet) if base == SDXL else kind(
        **parts, controlnet=controlnet, requires_safety_checker=False
    )  # fmt: skip
    pipe.load_ip_adapter(
        str(folder), subfolder="", weight_name="ip-adapter.safetensors", image_encoder_folder=None,
        local_files_only=True,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def painted_by(pipe, asked, base, count=2):
    held, noise = empty(), drawn(count, 4, 16, 16, seed=7)
    resampler = pipe.unet.encoder_hid_proj.image_projection_layers[0]
    face = torch.from_numpy(frontal_landmarks_px(64, 64))[None]
    pictures = []
    for i in range(count):
        vectors = torch.stack([torch.zeros(1, DIM), asked.identity[i : i + 1]])
        tokens = resampler(vectors)
        hook = pipe.controlnet.register_forward_pre_hook(
            lambda _, args, named, tokens=tokens: (args, named | {"encoder_hidden_states": tokens}),
            with_kwargs=True,
        )
        told = {
            "prompt_embeds": asked.text[i : i + 1], "negative_prompt_embeds": held["text"][None],
        }  # fmt: skip
        if base == SDXL:
            told |= {
                "pooled_prompt_embeds": asked.pooled[i : i + 1],
                "negative_pooled_prompt_embeds": held["pooled"][None],
            }
        pictures += pipe(
            image=drawn_landmarks(face, 64, 64), latents=noise[i : i + 1], height=64, width=64,
            ip_adapter_image_embeds=[vectors[:, None]], num_inference_steps=3, guidance_scale=2.0,
            output_type="pt", **told,
        ).images  # fmt: skip
        hook.remove()
    return torch.stack(pictures)


@BASES
@torch.no_grad()
def test_diffusers_loads_what_is_saved_and_paints_the_same(tmp_path, base):
    method = saved(tmp_path, base)
    asked, pipe = condition(method), identity_pipeline(tmp_path / "export", base)
    ours, theirs = painted(method, asked), painted_by(pipe, asked, base)
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - painted(method, asked, control=0.0)).abs().max() > 1e-3
    held = pipe.unet.encoder_hid_proj.image_projection_layers[0].state_dict()
    mine = method.resampler.state_dict()
    assert all(torch.equal(weight, mine[name]) for name, weight in held.items())
    net = method.controlnet.state_dict()
    assert all(torch.equal(w, net[n]) for n, w in pipe.controlnet.state_dict().items())


@BASES
def test_an_export_alone_paints_what_was_saved(tmp_path, base):
    method = saved(tmp_path, base)
    (tmp_path / "features/empty.safetensors").unlink()
    again = load_export(tmp_path / "export")
    assert torch.equal(painted(again), painted(method))
    files = {p.relative_to(tmp_path / "export").as_posix() for p in
             (tmp_path / "export").rglob("*") if p.is_file()}  # fmt: skip
    assert {"ip-adapter.safetensors", "ControlNetModel/config.json",
            "ControlNetModel/diffusion_pytorch_model.safetensors"} <= files  # fmt: skip
    text = (tmp_path / "export/README.md").read_text()
    assert "ip-adapter.bin" in text


def test_weights_for_another_network_are_refused(tmp_path):
    saved(tmp_path)
    other = made(tmp_path / "other", base=SDXL)
    with pytest.raises(BadWeights, match="is of an export with base 'random:tiny-sd#0'"):
        other.read(tmp_path / "export")
    narrow = replace(FEATURES, identity_dim=16)
    with pytest.raises(BadWeights, match="identity_dim 32"):
        made(tmp_path / "narrow", features=narrow).read(tmp_path / "export")


def test_the_model_card_loads_it_as_it_says(tmp_path):
    method = saved(tmp_path)
    told = {"folder": str(tmp_path / "export"), "identity": condition(method).identity}
    text = (tmp_path / "export/README.md").read_text()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(code, told)  # the card's own code
    assert told["pictures"].shape == (2, 3, 64, 64)
    assert told["controlnet"].config.cross_attention_dim == 32
    assert told["parts"]["image_proj"]["latents"].shape == (1, 16, 64)
    assert "1.to_k_ip.weight" in told["parts"]["ip_adapter"]
