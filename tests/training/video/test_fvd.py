import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from infra.errors import BadWeights
from training.video.fvd import DIM, I3DNetwork, _same, load_i3d

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = I3DNetwork().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv3d):  # otherwise nothing of the input is left at the end
            torch.nn.init.kaiming_normal_(layer.weight)
    return network


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_it_has_the_layers_and_parameters_of_i3d(network):
    held = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264
    assert held["Mixed_4f.b1b.conv3d.weight"].shape == (320, 160, 3, 3, 3)
    assert {"Conv3d_1a_7x7.bn.running_var", "Mixed_5c.b3b.conv3d.weight",
            "logits.conv3d.bias"} <= set(held)  # fmt: skip
    assert len(held) == 57 * 6 + 2  # a convolution and five of its norm, and the logits


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "expected"),
    [
        (4, 3, 2, (0, 1)),
        (5, 3, 2, (1, 1)),
        (224, 7, 2, (2, 3)),
        (7, 3, 1, (1, 1)),
        (4, 2, 2, (0, 0)),
    ],
)
def test_padding_is_that_of_tensorflow(side, kernel, stride, expected):
    ones = torch.ones(1, 1, 1, 1, side)
    padded = _same(ones, (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    assert (int(padded.argmax()), int(padded.flip(0).argmax())) == expected


@pytest.mark.slow
def test_every_16_frames_are_a_window_with_logits_of_its_own(weights):
    i3d = load_i3d(f"file:{weights}")
    frames = RNG.integers(0, 256, (35, 24, 32, 3), dtype=np.uint8)
    frames[16:32] = frames[:16]
    first, second = i3d(frames)
    assert first.shape == (DIM,)
    np.testing.assert_allclose(first, second, atol=1e-4)
    assert np.abs(i3d(frames[:9])[0] - first).max() > 0.01


def test_videos_below_9_frames_have_no_window(weights):
    frames = np.zeros((8, 24, 32, 3), dtype=np.uint8)
    assert load_i3d(f"file:{weights.parent}")(frames).shape == (0, DIM)


def test_torchscript_and_pickles_are_refused_unread(tmp_path):
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    with pytest.raises(BadWeights, match=r"may be a pickle.*safetensors"):
        load_i3d(f"file:{path}")


def test_weights_of_another_network_are_refused_by_name_and_shape(network, tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BadWeights, match="names no layer as pytorch-i3d does"):
        load_i3d(f"file:{tmp_path / 'other.safetensors'}")
    held = {name: weight.clone() for name, weight in network.state_dict().items()}
    held["logits.conv3d.weight"] = torch.zeros(157, 1024, 1, 1, 1)  # of Charades
    save_file(held, tmp_path / "charades.safetensors")
    with pytest.raises(BadWeights, match=r"\(157, 1024, 1, 1, 1\), not \(400,"):
        load_i3d(f"file:{tmp_path / 'charades.safetensors'}")


def test_a_damaged_file_and_an_ambiguous_folder_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BadWeights, match="cannot be read"):
        load_i3d(f"file:{tmp_path}")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(BadWeights, match="holds 2 files"):
        load_i3d(f"file:{tmp_path}")
