"""What ``visage evaluate`` shows; the measure itself is tested beside training/evaluate.py."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from pipelines.evaluate import SHEET_DRAWS, contact_sheet, table
from training.build import build
from training.evaluate import IdentityKept
from training.nets.codec import load_codec
from training.recipes import DataSettings, MethodSettings, lfw64


@pytest.fixture
def job(tmp_path):
    from tests.training.conftest import noise_features

    recipe = replace(
        lfw64(),
        data=DataSettings(path=str(noise_features(tmp_path)), heldout_share=0.0),
        method=MethodSettings(kind="base", width=32),
        batch=4,
        microbatch=4,
    )
    return build(recipe)


def test_the_sheet_shows_each_person_once_with_the_reference_on_the_left(job):
    sheet = np.asarray(contact_sheet(job.method, job.prepared, np.arange(24), guidance=2.0))
    side, people = 64, 6  # 32 px pictures, shown at twice their size
    assert sheet.shape == (people // 2 * side, 2 * (1 + SHEET_DRAWS) * side, 3)
    codec = load_codec(job.prepared.features.codec, job.prepared.folder)
    first = job.prepared.people.index("p0")
    real = codec.decode(job.prepared.read("latents", np.array([first])))[0].clamp(0, 1)
    shown = sheet[:side:2, :side:2].transpose(2, 0, 1) / 255
    assert np.abs(shown - real.numpy()).max() < 0.01


def test_the_table_stands_beside_its_ceiling_and_floor():
    scores = IdentityKept(
        people=9, auc=0.8, own_distance=0.6, other_distance=0.8, same_person_share=0.2,
        ceiling_auc=0.99, floor_auc=0.5, loss_gain=0.01, loss_gain_p=1e-9,
    )  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=100).print(table(scores))
    assert all(words in out.getvalue() for words in ("0.800", "0.990", "0.500", "1e-09", "20%"))
