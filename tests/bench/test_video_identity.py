"""What the benchmark plants is what it says, and its table is written whatever it finds."""

import sys

import numpy as np
import pytest
import torch

from tests.bench import video_identity
from training.features import Prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "features"
    return Prepared(video_identity.plant(folder, people=12, clips=2))


def look(prepared, sample):
    """Cut a person's square out of the first frame."""
    latents = prepared.read("latents", np.array([sample]))[0, :, 0]
    mask = prepared.read("mask", np.array([sample]))[0, 0].bool()
    return latents[:, mask]


def test_a_person_looks_alike_in_both_clips_and_unlike_others(prepared):
    assert prepared.people[0] == prepared.people[12] != prepared.people[1]
    torch.testing.assert_close(look(prepared, 0), look(prepared, 12))
    assert (look(prepared, 0) - look(prepared, 1)).abs().mean() > 0.3


def test_a_look_follows_from_the_vector_by_one_rule_for_all(prepared):
    every = np.arange(12)
    vectors = prepared.read("identity", every)
    looks = torch.stack([look(prepared, n).flatten() for n in every])
    rule = torch.linalg.lstsq(vectors[:8], looks[:8], driver="gelsd", rcond=0.1).solution
    left = (vectors[8:] @ rule - looks[8:]).square().mean() / looks[8:].square().mean()
    assert left < 0.1  # of people whom the rule was not made from


def test_its_table_says_how_both_sides_went(monkeypatch, capsys):
    asked = ["video_identity", "--people", "20", "--clips", "1", "--steps", "2"]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", asked)
    video_identity.main()
    torch.set_num_threads(threads)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].split(maxsplit=1)[1].strip() for row in rows] == [
        "in training", "held out",
    ]  # fmt: skip
