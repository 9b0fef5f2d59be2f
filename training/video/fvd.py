"""I3D, and what it says of videos: the vectors behind the Fréchet video distance.

I3D is written here because no package has it; the name of every weight is that of pytorch-i3d
(``Mixed_3b.b1a.conv3d.weight``), in which ``i3d_pretrained_400.pt`` is passed around: DeepMind's
network that learnt Kinetics-400. The usual ``i3d_torchscript.pt`` cannot be read: TorchScript can
run code. Save the former's ``state_dict`` as safetensors.

What differs from the published FVD: the network was carried over from TensorFlow, and a video is
cut into windows of 16 frames, all of which count, so that few videos still fill the dimensions; its
interval is over videos. Frames are resized as there: bilinear to 224 x 224, no antialiasing.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from infra.errors import BadWeights
from training.video.motion import Frames
from training.video.weights import filled, read_file

DIM = 400
"""Kinetics' classes, whose logits are compared."""
WINDOW = 16
"""Frames of which one vector is made, as published."""
FEWEST = 9
"""Below this I3D's last pooling has nothing to pool."""
_SIDE_PX = 224
_MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32), "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64), "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64), "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128), "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip
"""Channels of each block: what comes in; then of its branches 1, 2a, 2b, 3a, 3b and 4."""
_POOLED = {"3b": ((1, 3, 3), (1, 2, 2)), "4b": ((3, 3, 3), (2, 2, 2)), "5b": ((2, 2, 2), (2, 2, 2))}
"""Kernel and stride of the pooling before a block."""


def _same(
    x: Float[Tensor, "B C T H W"], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> Float[Tensor, "B C t h w"]:
    """Pad with zeros as TensorFlow's ``SAME`` does: what is odd goes to the end."""
    padding: list[int] = []
    for side, size, step in zip(reversed(x.shape[2:]), kernel[::-1], stride[::-1], strict=True):
        missing = max(size - (side % step or step), 0)
        padding += [missing // 2, missing - missing // 2]
    return nn.functional.pad(x, padding)


def _pooled(
    x: Float[Tensor, "B C T H W"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "B C t h w"]:
    """Take the highest value of each window; zeros at the edge change nothing after a ReLU."""
    return nn.functional.max_pool3d(_same(x, kernel, stride), kernel, stride)


class _Unit(nn.Module):
    """A convolution, batch norm and ReLU."""

    def __init__(self, channels: int, out: int, size: int = 1, step: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (size,) * 3, (step,) * 3
        self.conv3d = nn.Conv3d(channels, out, self.kernel, self.stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B c t h w"]:
        features: Tensor = self.bn(self.conv3d(_same(x, self.kernel, self.stride))).relu()
        return features


class _Mixed(nn.Module):
    """Four branches, side by side."""

    def __init__(self, channels: int, *out: int) -> None:
        super().__init__()
        self.b0 = _Unit(channels, out[0])
        self.b1a, self.b1b = _Unit(channels, out[1]), _Unit(out[1], out[2], 3)
        self.b2a, self.b2b = _Unit(channels, out[3]), _Unit(out[3], out[4], 3)
        self.b3b = _Unit(channels, out[5])

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B c T H W"]:
        highest = _pooled(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(highest)
        return torch.cat(branches, dim=1)


class I3DNetwork(nn.Module):
    """Inception-v1 inflated to three dimensions.

    References:
        Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics
        Dataset", arXiv:1705.07750.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = _Unit(64, 64)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, channels in _MIXED.items():
            self.add_module(f"Mixed_{name}", _Mixed(*channels))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, DIM, 1)})

    def forward(self, x: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 400"]:
        """Return logits, the mean over time; pixels are -1 to 1."""
        x = _pooled(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in _MIXED:
            if name in _POOLED:
                x = _pooled(x, *_POOLED[name])
            x = self.get_submodule(f"Mixed_{name}")(x)
        x = nn.functional.avg_pool3d(x, (2, 7, 7), stride=1)
        said: Tensor = self.logits["conv3d"](x).mean(dim=(2, 3, 4))
        return said


class I3D:
    """What I3D says of videos."""

    def __init__(self, network: I3DNetwork, device: str) -> None:
        self._network, self._device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, frames: Frames) -> Float32[np.ndarray, "windows 400"]:
        """Return the logits of every window of 16 frames; a shorter video is one window.

        What is left behind the last whole window is not looked at. Videos of fewer than 9 frames
        have no window.
        """
        length = min(len(frames), WINDOW)
        if length < FEWEST:
            return np.zeros((0, DIM), dtype=np.float32)
        said = []
        for start in range(0, len(frames) - length + 1, length):
            window = torch.from_numpy(frames[start : start + length]).to(self._device)
            pixels = nn.functional.interpolate(
                window.permute(0, 3, 1, 2).float() / 127.5 - 1,
                (_SIDE_PX, _SIDE_PX),
                mode="bilinear",
            )
            said.append(self._network(pixels.transpose(0, 1)[None]))
        return np.asarray(torch.cat(said).float().cpu().numpy(), dtype=np.float32)


def load_i3d(reference: str, device: str = "cpu") -> I3D:
    """Load I3D of Kinetics-400.

    Args:
        reference: ``file:<path>`` of safetensors with pytorch-i3d's names.
        device: ``cpu`` or ``cuda``.

    Raises:
        BadValue: The reference has another scheme.
        BadWeights: The file is a pickle or TorchScript, or holds no I3D of 400 classes.
    """
    path, held = read_file(reference)
    if not any(name.startswith("Mixed_3b.") for name in held):
        cure = "Convert i3d_pretrained_400.pt, not another port of I3D."
        raise BadWeights(str(path), "names no layer as pytorch-i3d does", cure)
    return I3D(filled(I3DNetwork(), path, held, "pytorch-i3d, 400 classes"), device)
