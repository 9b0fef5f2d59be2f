"""Which weights a reference stands for."""

import pytest

from infra.errors import BadWeights
from training.nets.references import weights_version


@pytest.fixture
def pipeline(tmp_path):
    for name in ("vae/w.safetensors", "vae/config.json", "unet/w.safetensors", "vae/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def version(folder):
    return weights_version(f"file:{folder}", ("vae",))


def test_random_weights_are_told_by_preset_and_seed():
    assert weights_version("random:sd15", ("vae",)) == "random:sd15#0"


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("vae/w.safetensors", True),
        ("vae/config.json", True),
        ("unet/w.safetensors", False),
        ("vae/README.md", False),
    ],
)
def test_a_version_changes_with_every_byte_that_matters(pipeline, name, matters):
    before = version(pipeline)
    assert len(before) == 64
    (pipeline / name).write_text("altered")
    assert (version(pipeline) != before) == matters


def test_a_model_alone_and_a_single_file_have_versions(pipeline):
    alone = version(pipeline / "vae")
    assert len(alone) == 64
    assert alone != version(pipeline)
    assert version(pipeline / "vae/config.json") != version(pipeline / "vae/w.safetensors")


def test_what_is_not_there_has_no_version(tmp_path):
    with pytest.raises(BadWeights, match="does not exist"):
        version(tmp_path / "nothing")
