"""Pictures become the states that CLIP's own pipeline makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from infra.errors import BadValue, BadWeights
from training.nets.clip_presets import VISIONS
from training.nets.vision import load_image_encoder


def tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def photo(astronaut):
    return Image.open(astronaut).convert("RGB")


def test_a_picture_has_tokens_and_one_vector(photo):
    encoder = load_image_encoder("random:tiny-clip")
    pictures = torch.cat([tensor(photo.resize((64, 64))), torch.zeros(1, 3, 64, 64)])
    states, vectors = encoder.encode(pictures), encoder.pooled(pictures)
    assert states.shape == (2, 17, 32) == (2, encoder.tokens, encoder.width)
    assert vectors.shape == (2, 32) == (2, encoder.pooled_dim)
    assert not states[0].equal(states[1])
    again = load_image_encoder("random:tiny-clip")
    assert states.equal(again.encode(pictures))
    other = load_image_encoder("random:tiny-clip", seed=1)
    assert not states.equal(other.encode(pictures))


def test_the_empty_picture_is_zeros_to_the_network():
    encoder = load_image_encoder("random:tiny-clip")
    zeros = torch.zeros(1, 3, encoder.image_px, encoder.image_px)
    plain = encoder._model(zeros, output_hidden_states=True).hidden_states[-2][0]
    torch.testing.assert_close(encoder.empty(), plain)


def test_pictures_are_prepared_as_clip_prepares_them(photo):
    encoder = load_image_encoder("random:tiny-clip")
    photo = photo.resize((80, 80))
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    theirs = processor(photo, return_tensors="pt")["pixel_values"]
    ours = encoder._ready(tensor(photo))
    # Theirs is resized and rounded in 8 bits, twice; CLIP's deviation is about 0.26.
    levels = (ours - theirs).abs() * 0.26 * 255
    assert levels.mean() < 0.5
    assert levels.max() < 4


def test_states_are_those_before_the_last_layer(photo):
    encoder = load_image_encoder("random:tiny-clip")
    told = encoder._model(encoder._ready(tensor(photo)), output_hidden_states=True)
    layers = encoder._model.vision_model.encoder.layers
    last = layers[-1](encoder.encode(tensor(photo)).clone(), None)
    assert torch.allclose(last, told.hidden_states[-1], atol=1e-6)


@pytest.mark.parametrize("part", ["", "image_encoder"])
def test_a_folder_is_read_alone_or_inside_a_pipeline(tmp_path, photo, part):
    made = load_image_encoder("random:tiny-clip", seed=3)
    made._model.save_pretrained(tmp_path / part)
    read = load_image_encoder(f"file:{tmp_path}")
    assert read.encode(tensor(photo)).equal(made.encode(tensor(photo)))


def test_half_precision_is_kept(photo):
    encoder = load_image_encoder("random:tiny-clip", dtype=torch.bfloat16)
    assert encoder.encode(tensor(photo)).dtype == torch.bfloat16


def test_clip_h_has_its_published_shape():
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISIONS["clip-h"]))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 632.08
    told = model(torch.zeros(1, 3, 224, 224, device="meta"), output_hidden_states=True)
    assert told.hidden_states[-2].shape == (1, 257, 1280)
    assert told.image_embeds.shape == (1, 1024)


def test_other_references_are_refused_with_the_cure(tmp_path):
    with pytest.raises(BadWeights, match=r"config\.json and"):
        load_image_encoder(f"file:{tmp_path}")
    with pytest.raises(BadValue, match="Did you mean 'clip-h'"):
        load_image_encoder("random:clip-g")
