"""The measure itself, on generators whose answer is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from training.evaluate import identity_kept
from training.features import Features, Prepared, write_index
from training.method import Method


class Copier(Method):
    """A generator that knows a picture for every vector it has seen."""

    def __init__(self, vectors, pictures):
        super().__init__()
        self.vectors, self.pictures = vectors, pictures

    def trainable(self):
        return {}

    def forward(self, batch):
        away = torch.cdist(batch["identity"], batch["target_identity"]).mean()
        return {"loss": away, "mse": away}

    def generate(self, condition, rng, *, steps=30, guidance=2.0):  # noqa: ARG002 - it knows them
        nearest = torch.cdist(condition.identity, self.vectors).argmin(dim=1)
        return self.pictures[nearest]

    def save(self, folder):
        raise NotImplementedError


@pytest.fixture(scope="module")
def people(tmp_path_factory, six_people):
    """Six people with two photographs each, as features; and their faces at 64 px."""
    from safetensors.torch import save_file

    from stages.models.dlib_faces import DlibDetector, DlibEmbedder
    from training.crops import aligned

    photo = np.asarray(Image.open(six_people).convert("RGB"))
    found = DlibDetector(1280, min_score=0.2).detect([photo])[0]
    embedder = DlibEmbedder()
    chips = embedder.align(photo, found.landmarks_px)
    vectors = torch.from_numpy(embedder.embed(chips))
    faces = torch.from_numpy(np.stack(aligned(chips, 64))).permute(0, 3, 1, 2).float() / 255
    folder, count = tmp_path_factory.mktemp("people"), len(chips)
    (folder / "shards").mkdir()
    twice = {"identity": vectors.repeat(2, 1), "latents": torch.zeros(2 * count, 1, 2, 2)}
    save_file(twice, folder / "shards/shard-00000.safetensors")
    write_index(folder, [
        {"id": f"{row:03d}", "person": f"p{row % count}", "caption": "", "shard": 0, "row": row}
        for row in range(2 * count)
    ])  # fmt: skip
    Features(corpus="x", image_px=64, codec="", latent_shape=(1, 2, 2), text_shape=(0, 0),
             identity_dim=128, embedder="dlib", backend="dlib", identity_mean=(0.0,) * 128,
             identity_std=(1.0,) * 128).write(folder)  # fmt: skip
    return Prepared(folder), vectors, faces


def test_a_generator_that_keeps_everybody_is_told_from_one_that_keeps_nobody(people):
    prepared, vectors, faces = people
    everyone = np.arange(len(prepared))
    good = identity_kept(Copier(vectors, faces), prepared, everyone)
    bad = identity_kept(Copier(vectors, faces[:1].expand_as(faces)), prepared, everyone)
    assert good.people == len(faces) >= 5
    assert good.auc > 0.95
    assert good.same_person_share > 0.8
    assert abs(bad.auc - 0.5) < 0.2
    assert good.own_distance < bad.own_distance
    assert good.ceiling_auc == 1.0


def test_shuffled_references_are_chance_or_worse(people):
    prepared, vectors, faces = people
    good = identity_kept(Copier(vectors, faces), prepared, np.arange(len(prepared)))
    assert good.floor_auc < 0.6


def test_the_right_vector_lowers_the_loss(people):
    prepared, vectors, faces = people
    good = identity_kept(Copier(vectors, faces), prepared, np.arange(len(prepared)))
    assert good.loss_gain > 0
    assert good.loss_gain_p < 0.05
