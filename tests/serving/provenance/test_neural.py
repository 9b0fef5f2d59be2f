import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infra.errors import BadWeights
from serving.provenance.neural import NeuralMark
from serving.provenance.settings import ProvenanceSettings
from serving.provenance.watermark import Watermark, load_watermark
from tests.stages.models.photos import astronaut, group

PAYLOAD = 0xDEADBEEF
BITS, GRID = 256, 16


class Blocks(nn.Module):
    """Say a bit by a step of brightness inside each of 256 blocks: VideoSeal's interface."""

    def __init__(self, bits: int = BITS):
        super().__init__()
        self.bits = bits

    @torch.jit.export
    def embed(self, imgs: Tensor, msgs: Tensor) -> Tensor:
        side = [imgs.shape[2] // 16, imgs.shape[3] // 32]
        signs = (2 * msgs - 1).reshape(1, 1, 16, self.bits // 16)
        steps = torch.stack([signs, -signs], -1).reshape(1, 1, 16, 2 * (self.bits // 16))
        out = imgs.clone()
        wide = steps.repeat_interleave(side[0], 2).repeat_interleave(side[1], 3)
        out[:, :, : wide.shape[2], : wide.shape[3]] += wide * 0.25
        return out

    @torch.jit.export
    def detect(self, imgs: Tensor) -> Tensor:
        side = [imgs.shape[2] // 16, imgs.shape[3] // 32]
        inside = imgs.mean(1)[0, : 16 * side[0], : 32 * side[1]]
        means = inside.reshape(16, side[0], 16, 2, side[1]).mean(dim=[1, 4])
        found = (means[:, :, 0] - means[:, :, 1]).reshape(1, 256)[:, : self.bits]
        return torch.cat([torch.ones(1, 1), found], dim=1)

    def forward(self, imgs: Tensor) -> Tensor:
        return self.detect(imgs)


class Nothing(nn.Module):
    def forward(self, imgs: Tensor) -> Tensor:
        return imgs


def export(path, module):
    torch.jit.script(module).save(str(path))
    return f"file:{path}", hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def strong(tmp_path_factory):
    reference, digest = export(tmp_path_factory.mktemp("weights") / "blocks.jit", Blocks())
    settings = ProvenanceSettings(
        watermark="torchscript", weights=reference, weights_sha256=digest
    )  # fmt: skip
    return load_watermark(settings, b"secret")


@pytest.mark.parametrize("photo", [astronaut, group])
def test_a_network_that_is_given_marks_and_reads(strong, photo):
    assert isinstance(strong, Watermark)
    assert strong.strong
    marked = strong.embed(photo(), PAYLOAD)
    assert marked.dtype == np.uint8
    assert marked.shape == photo().shape
    reading = strong.read(marked)
    assert reading.payload == PAYLOAD
    assert reading.confidence_sigma > 10


@pytest.mark.parametrize("photo", [astronaut, group])
def test_what_it_did_not_mark_reads_as_none(strong, photo):
    reading = strong.read(photo())
    assert reading.payload is None
    assert reading.confidence_sigma < 5


def test_a_detector_that_leans_to_one_answer_is_no_mark(strong):
    """All bits alike would be a payload that agrees with itself, but for the mask."""
    assert strong.read(np.zeros((256, 256, 3), np.uint8)).payload is None


def test_others_who_have_the_weights_but_not_the_secret_read_nothing(strong, tmp_path):
    reference, digest = export(tmp_path / "blocks.jit", Blocks())
    other = NeuralMark(reference, digest, b"another")
    assert other.read(strong.embed(astronaut(), PAYLOAD)).payload is None


def test_code_that_nobody_vouched_for_is_not_loaded(tmp_path):
    reference, digest = export(tmp_path / "blocks.jit", Blocks())
    changed = tmp_path / "blocks.jit"
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(BadWeights, match="name the hash of a file that you trust"):
        NeuralMark(reference, digest, b"s")
    with pytest.raises(BadWeights, match="SHA-256"):
        NeuralMark(reference, "", b"s")
    with pytest.raises(BadWeights, match="does not exist"):
        NeuralMark("file:/no/such.jit", digest, b"s")


def test_what_is_no_such_network_is_refused(tmp_path):
    words = tmp_path / "words.jit"
    words.write_bytes(b"words")
    digest = hashlib.sha256(b"words").hexdigest()
    with pytest.raises(BadWeights, match="no watermark as TorchScript"):
        NeuralMark(f"file:{words}", digest, b"s")
    with pytest.raises(BadWeights, match="no watermark as TorchScript"):
        NeuralMark(*export(tmp_path / "nothing.jit", Nothing()), b"s")
    with pytest.raises(BadWeights, match="carries 32 bits, where 64 are needed"):
        NeuralMark(*export(tmp_path / "few.jit", Blocks(32)), b"s")
