from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from infra.errors import BadValue, BadWeights
from stages.models.backend import load_detector
from tests.stages.models.photos import astronaut
from training.video.inception import Inception, load_inception


@pytest.fixture(scope="module")
def detector():
    return load_detector("dlib", "", 320, 0.0, "cpu")


@pytest.fixture(scope="module")
def mean_colour(detector):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return Inception(network, detector, "cpu")


def test_pictures_are_seen_in_minus_1_to_1_and_pale_as_published(mean_colour):
    picture = np.full((1, 10, 20, 3), (255, 0, 51), dtype=np.uint8)
    assert mean_colour(picture)[0] == pytest.approx([1, -1, -0.6], abs=1e-5)
    # In 0 to 1, which the network takes for numbers less ImageNet's mean, over its deviation.
    pale = [(1 * 0.229 + 0.485) * 2 - 1, 0.456 * 2 - 1, (0.2 * 0.225 + 0.406) * 2 - 1]
    assert mean_colour(picture, published=True)[0] == pytest.approx(pale, abs=1e-5)


def test_faces_are_cut_out_of_the_pictures_that_have_one(mean_colour):
    photo = astronaut()[:300, 100:400]
    crops = mean_colour.faces(np.stack([np.full_like(photo, 128), photo]))
    assert crops.shape == (1, 224, 224, 3)
    assert crops.std() > 20
    assert mean_colour.faces(np.full_like(photo, 128)[None]).shape == (0, 224, 224, 3)


def test_a_pickle_is_refused(detector, tmp_path):
    (tmp_path / "inception_v3_google.pth").write_bytes(b"")
    with pytest.raises(BadWeights, match="may be a pickle"):
        load_inception(f"file:{tmp_path / 'inception_v3_google.pth'}", detector)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_without_torchvision_it_says_what_to_install(detector, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "inception.safetensors")
    with pytest.raises(BadValue, match="Install the build that belongs to torch"):
        load_inception(f"file:{tmp_path}", detector)


def test_published_vectors_are_those_of_consisid_s_code(detector, tmp_path):
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    network = models.inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    save_file(network.state_dict(), tmp_path / "inception.safetensors")
    network.fc = torch.nn.Identity()
    picture = astronaut()[:299, :299]
    same = np.asarray(Image.fromarray(picture).resize((299, 299), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(same / 255).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(pixels).numpy()
    seen = load_inception(f"file:{tmp_path}", detector)(picture[None], published=True)
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
