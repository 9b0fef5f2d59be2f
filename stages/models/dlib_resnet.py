"""The dlib face-recognition network as a torch module, read straight from dlib's weight file.

dlib runs its own copy of this network one face at a time. As a torch module it is batched, about
ten times faster on a CPU, runs on a GPU, and can be differentiated: an identity loss needs that.
"""

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from infra.errors import BadWeights

CHIP_PX = 150
"""Side of the square face picture that the network was trained on."""
EMBEDDING_DIM = 128
MEAN_RGB = (122.782, 117.001, 104.298)

# (channels, goes down) of the fourteen residual blocks, in forward order.
_BLOCKS = [
    *[(32, False)] * 3,
    *[(64, True), *[(64, False)] * 3],
    *[(128, True), *[(128, False)] * 2],
    *[(256, True), *[(256, False)] * 2],
    (256, True),
]


class _Reader:
    """Walk dlib's serialisation format: control-byte integers, strings, float tensors."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, path.read_bytes(), 0

    def seek_past(self, tag: str) -> None:
        """Move behind the next layer tag, which is stored as a length and its characters."""
        found = self.data.find(bytes([1, len(tag)]) + tag.encode(), self.at)
        if found < 0:
            raise BadWeights(str(self.path), f"has no further {tag!r} layer after byte {self.at}")
        self.at = found + 2 + len(tag)

    def integer(self) -> int:
        """Read one integer: the first byte's low bits count bytes, its top bit is the sign."""
        control = self.data[self.at]
        size = control & 0x0F
        value = int.from_bytes(self.data[self.at + 1 : self.at + 1 + size], "little")
        self.at += 1 + size
        return -value if control & 0x80 else value

    def tensor(self) -> npt.NDArray[np.float32]:
        """Read one float32 tensor: a version, four dimensions, the values."""
        self.integer()
        count = 1
        for _ in range(4):
            count *= self.integer()
        if self.at + 4 * count > len(self.data):
            raise BadWeights(str(self.path), f"ends inside the tensor at byte {self.at}")
        values = np.frombuffer(self.data, "<f4", count, self.at)
        self.at += struct.calcsize("<f") * count
        return values


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the narrower side of the sum is zero-padded."""

    def __init__(self, channels_in: int, channels: int, *, down: bool) -> None:
        super().__init__()
        # dlib pads only where the stride is 1.
        stride, padding = (2, 0) if down else (1, 1)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.pool = nn.AvgPool2d(2, 2) if down else nn.Identity()

    def forward(
        self, x_FCHW: Float[Tensor, "faces channels_in rows columns"]
    ) -> Float[Tensor, "faces channels rows_out columns_out"]:
        y_FCHW = self.conv2(torch.relu(self.conv1(x_FCHW)))
        s_FCHW = self.pool(x_FCHW)
        rows, columns = (max(y_FCHW.shape[i], s_FCHW.shape[i]) for i in (2, 3))
        y_FCHW, s_FCHW = (_pad(t, y_FCHW.shape[1], rows, columns) for t in (y_FCHW, s_FCHW))
        return torch.relu(y_FCHW + s_FCHW)


def _pad(x_FCHW: Tensor, channels: int, rows: int, columns: int) -> Tensor:
    """Append zero channels, rows and columns up to the given size."""
    missing = (columns - x_FCHW.shape[3], rows - x_FCHW.shape[2], channels - x_FCHW.shape[1])
    if not any(missing):
        return x_FCHW
    return nn.functional.pad(x_FCHW, (0, missing[0], 0, missing[1], 0, missing[2]))


class DlibResnet(nn.Module):
    """Map aligned faces to 128-d identity vectors; two photos below L2 0.6 show one person.

    The vectors are raw: their norm is about 1.4 and carries meaning, so do not normalise them.

    References:
        Davis King, "High Quality Face Recognition with Deep Metric Learning", dlib blog, 2017:
        99.38 % on LFW at the threshold 0.6. The architecture is ResNet-34 (arXiv:1512.03385)
        with fewer layers and half the filters.
    """

    mean_rgb: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_rgb", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        channels_in = [32] + [channels for channels, _ in _BLOCKS]
        self.blocks = nn.Sequential(
            *(
                _Residual(before, channels, down=down)
                for before, (channels, down) in zip(channels_in, _BLOCKS, strict=False)
            )
        )
        self.fc = nn.Linear(256, EMBEDDING_DIM, bias=False)

    def forward(self, rgb_F3HW: Float[Tensor, "faces 3 150 150"]) -> Float[Tensor, "faces 128"]:
        """Embed RGB chips with values 0 to 255."""
        x_FCHW = (rgb_F3HW - self.mean_rgb) / 256
        x_FCHW = nn.functional.max_pool2d(torch.relu(self.stem(x_FCHW)), 3, 2)
        embedding: Tensor = self.fc(self.blocks(x_FCHW).mean(dim=(2, 3)))
        return embedding

    @torch.inference_mode()
    def embed(self, chips: UInt8[np.ndarray, "faces 150 150 3"]) -> Float[np.ndarray, "faces 128"]:
        """Embed chips as they come from the aligner, on the device of the weights."""
        rgb_F3HW = torch.from_numpy(chips).to(self.stem.weight.device).permute(0, 3, 1, 2).float()
        return np.asarray(self(rgb_F3HW).cpu().numpy())


def load_dlib_resnet(path: Path) -> DlibResnet:
    """Read the network from ``dlib_face_recognition_resnet_model_v1.dat``.

    Every convolution is followed by a fixed scale and shift per channel (batch norm, folded by
    dlib's author); both are folded once more, into the convolution, which saves a pass over
    memory per layer and changes results by rounding only.

    Raises:
        BadWeights: The file is not dlib's, or is cut short.
    """
    reader, model = _Reader(path), DlibResnet()
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for convolution in convolutions:
            reader.seek_past("con_4")
            weights = _after_header(reader, convolution.weight.numel() + convolution.out_channels)
            reader.seek_past("affine_")
            affine = _after_header(reader, 2 * convolution.out_channels)
            split, half = convolution.weight.numel(), convolution.out_channels
            scale, shift = torch.tensor(affine[:half]), torch.tensor(affine[half:])
            kernel = torch.tensor(weights[:split]).view_as(convolution.weight)
            convolution.weight.copy_(kernel * scale.view(-1, 1, 1, 1))
            assert convolution.bias is not None
            convolution.bias.copy_(torch.tensor(weights[split:]) * scale + shift)
        reader.seek_past("fc_2")
        model.fc.weight.copy_(
            torch.tensor(_after_header(reader, model.fc.weight.numel())).view(256, 128).T
        )
    return model.eval()


def _after_header(reader: _Reader, expected: int) -> npt.NDArray[np.float32]:
    """Skip a layer's own settings and read its parameter tensor of ``expected`` values."""
    start = reader.at
    # The settings are a handful of integers whose number differs by layer version: the tensor is
    # the first place behind them that reads as version 2 and a shape of the expected size.
    for at in range(start, start + 128):
        reader.at = at
        if reader.data[at : at + 2] != b"\x01\x02":
            continue
        reader.integer()
        shape = [reader.integer() for _ in range(4)]
        if int(np.prod(shape)) == expected:
            reader.at = at
            return reader.tensor()
    raise BadWeights(str(reader.path), f"has no tensor of {expected} values near byte {start}")
