import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from infra.errors import BadWeights
from training.nets.codec import Codec, PatchCodec, decoded, load_codec, save_codec


@pytest.fixture(scope="module")
def faces(astronaut):
    """Sixteen crops of a face, 64 px."""
    import numpy as np

    with Image.open(astronaut) as image:
        rgb = image.convert("RGB")
    crops = [
        rgb.crop((150 + i, 40 + i, 310 + i, 200 + i)).resize((64, 64)) for i in range(0, 64, 4)
    ]
    pixels = np.stack([np.asarray(crop) for crop in crops])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_a_few_components_keep_most_of_a_face(faces):
    codec = PatchCodec()
    assert codec.fit(faces) > 0.95
    assert isinstance(codec, Codec)
    assert (codec.decode(codec.encode(faces)) - faces).abs().mean() < 0.03


def test_latents_have_unit_variance(faces):
    codec = PatchCodec()
    codec.fit(faces)
    latents = codec.encode(faces)
    assert latents.shape == (16, 12, 16, 16)
    assert latents.std(dim=(0, 2, 3)).tolist() == pytest.approx([1.0] * 12, abs=0.01)


def test_all_components_lose_nothing(faces):
    codec = PatchCodec(patch_px=4, channels=48)
    codec.fit(faces)
    assert torch.allclose(codec.decode(codec.encode(faces)), faces, atol=1e-3)


def test_a_codec_is_written_and_read(faces, tmp_path):
    codec = PatchCodec()
    codec.fit(faces)
    codec.save(tmp_path / "codec.safetensors")
    again = load_codec("file:codec.safetensors", tmp_path)
    assert again.encode(faces).equal(codec.encode(faces))


def test_another_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "codec.safetensors")
    with pytest.raises(BadWeights, match="no patch codec"):
        load_codec("file:codec.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("keep", "words"), [(0, "does not exist"), (9, "is damaged"), (-40, "is damaged")]
)
def test_a_lost_or_cut_codec_is_refused_with_the_cure(tmp_path, keep, words):
    path = tmp_path / "codec.safetensors"
    PatchCodec().save(path)
    held = path.read_bytes()[:keep]
    path.unlink()
    if keep:
        path.write_bytes(held)
    with pytest.raises(BadWeights, match=f"{words}.*prepare the corpus again"):
        load_codec("file:codec.safetensors", tmp_path)


def test_a_codec_with_a_tensor_missing_is_refused(tmp_path):
    shape = {"patch_codec": '{"patch_px": 4, "channels": 12}'}
    save_file({"mean": torch.zeros(48)}, tmp_path / "codec.safetensors", shape)
    with pytest.raises(BadWeights, match="is damaged"):
        load_codec("file:codec.safetensors", tmp_path)


def test_a_codec_beside_its_features_goes_along_and_an_autoencoder_does_not(faces, tmp_path):
    codec = PatchCodec()
    codec.fit(faces)
    save_codec(codec, "file:codec.safetensors", tmp_path)
    again = load_codec("file:codec.safetensors", tmp_path)
    assert again.encode(faces).equal(codec.encode(faces))
    (tmp_path / "other").mkdir()
    save_codec(load_codec("random:tiny-sd", tmp_path), "random:tiny-sd", tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_pictures_are_decoded_in_the_codec_s_own_precision(faces):
    codec = PatchCodec()
    codec.fit(faces)
    latents = codec.encode(faces)
    rough = decoded(codec.to(torch.bfloat16), latents)
    assert rough.dtype == torch.float32
    assert 0 <= float(rough.min()) <= float(rough.max()) <= 1
    assert (rough - faces).abs().mean() < 0.05
