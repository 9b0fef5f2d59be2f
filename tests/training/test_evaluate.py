"""The measure itself, on generators whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from infra.errors import BadValue
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from tests.training.measured import measured_features
from training.build import make_method
from training.crops import aligned, aligned_landmarks_px
from training.evaluate import evaluate
from training.evaluation.drawing import Plan, held_out, parts
from training.evaluation.recognise import Recogniser, is_aligned
from training.evaluation.scorers import load_scorer
from training.features import Features, Prepared, write_index
from training.method import AS_USUAL, Method
from training.recipes import lfw64, tiny
from training.settings import DataSettings, MethodSettings
from training.video.inception import Inception

PLAN = Plan(seeds=2, steps=2)


class Faces:
    """A codec whose latents are pictures."""

    def encode(self, pictures):
        return pictures

    def decode(self, latents):
        return latents


class Copier(Method):
    """A generator that knows a picture for every vector it has seen."""

    def __init__(self, vectors, pictures):
        super().__init__()
        self.vectors, self.pictures, self.codec = vectors, pictures, Faces()

    def trainable(self):
        return {}

    def forward(self, batch):
        away = torch.cdist(batch["identity"], batch["target_identity"]).mean()
        return {"loss": away, "mse": away}

    def generate(self, condition, rng, sampling=AS_USUAL, *, callback=None):  # noqa: ARG002 - it knows them
        nearest = torch.cdist(condition.identity, self.vectors).argmin(dim=1)
        return self.pictures[nearest] * float(sampling.scale > 0)

    def save(self, folder):
        raise NotImplementedError

    def read(self, folder):
        raise NotImplementedError


@pytest.fixture(scope="module")
def six(tmp_path_factory, six_people):
    """Six people with two photographs each, as features; and their faces at 64 px."""
    photo = np.asarray(Image.open(six_people).convert("RGB"))
    found = DlibDetector(1280, min_score=0.2).detect([photo])[0]
    embedder = DlibEmbedder()
    chips = embedder.align(photo, found.landmarks_px)
    vectors = torch.from_numpy(embedder.embed(chips))
    faces = torch.from_numpy(np.stack(aligned(chips, 64))).permute(0, 3, 1, 2).float() / 255
    folder, count = tmp_path_factory.mktemp("people"), len(chips)
    (folder / "shards").mkdir()
    where = torch.from_numpy(aligned_landmarks_px(64))
    save_file({
        "identity": vectors.repeat(2, 1), "latents": faces.repeat(2, 1, 1, 1),
        "landmarks": where.repeat(2 * count, 1, 1), "mask": torch.ones(2 * count, 64, 64),
    }, folder / "shards/shard-00000.safetensors")  # fmt: skip
    write_index(folder, [
        {"id": f"{row:03d}", "person": f"p{row % count}", "caption": "", "shard": 0, "row": row}
        for row in range(2 * count)
    ])  # fmt: skip
    Features(corpus="x", image_px=64, codec="", latent_shape=(3, 64, 64), text_shape=(0, 0),
             identity_dim=128, embedder=embedder.card.tag, backend="dlib",
             identity_mean=tuple(vectors.mean(0).tolist()),
             identity_std=(1.0,) * 128).write(folder)  # fmt: skip
    return Prepared(folder), vectors, faces


def scored(method, prepared, *, share=0.999999, plan=PLAN, scorers=(), people=200):
    """Evaluate with the given encoders of whole pictures, on nearly everybody held out."""
    recogniser = Recogniser(prepared.features, aligned=is_aligned(prepared))
    held = {kind: load_scorer(kind, f"random:tiny-{kind}") for kind in scorers}
    chosen = held_out(prepared, share, people)
    return evaluate(method, prepared, chosen, plan, recogniser, scorers=held)


@pytest.fixture(scope="module")
def good(six):
    prepared, vectors, faces = six
    return scored(Copier(vectors, faces), prepared)


@pytest.fixture(scope="module")
def bad(six):
    prepared, vectors, faces = six
    return scored(Copier(vectors, faces[:1].expand_as(faces)), prepared)


def test_a_generator_that_keeps_everybody_is_told_from_one_that_keeps_nobody(good, bad):
    keeps, loses = good.scores, bad.scores
    assert keeps["auc"].n >= 5
    assert keeps["auc"].value > 0.95
    assert keeps["same_person_share"].value > 0.8
    assert abs(loses["auc"].value - 0.5) < 0.2
    assert keeps["own_distance"].high < loses["own_distance"].low
    assert keeps["facesim_published"].low > loses["facesim_published"].high
    assert keeps["auc_ceiling"].value == keeps["facesim_ceiling"].value == 1.0


def test_shuffled_references_are_chance_or_worse(good):
    assert good.scores["auc_floor"].value < 0.6


def test_the_right_vector_lowers_the_loss(good):
    assert good.scores["loss_gain"].low > 0
    assert good.p_values["loss_gain"] < 0.05


def test_scores_stand_on_what_is_kept_of_each_person(good):
    assert {len(values) for values in good.each.values()} == {good.scores["auc"].n}
    for name, values in good.each.items():
        assert np.nanmean(values) == pytest.approx(good.scores[name].value), name


def test_the_same_picture_for_every_seed_has_no_diversity(good):
    assert good.scores["diversity"].value == pytest.approx(0, abs=1e-3)


def test_the_sheet_shows_photographs_every_seed_and_nobody(good):
    for row in good.rows:
        headings = [heading for heading, _, _ in row]
        assert headings == ["reference", "real second", "seed 0", "seed 1", "identity off"]
        assert np.array_equal(row[0][1], row[1][1])
        assert row[4][1].max() == 0
        assert float(row[2][2]) < 0.6


def test_a_model_that_draws_whom_it_was_trained_on_leaks(six):
    prepared, vectors, faces = six
    training, held = prepared.split(0.5)
    assert len(held)
    leaking = Copier(vectors, faces[training[0] % len(faces)][None].expand_as(faces))
    keeping = Copier(vectors, faces)
    assert scored(leaking, prepared, share=0.5).scores["leakage"].value == 1.0
    kept = scored(keeping, prepared, share=0.5).scores
    assert kept["leakage"].value == kept["leakage_real"].value == 0.0


def test_without_a_face_nothing_is_made_up(six):
    prepared, vectors, faces = six
    recogniser = Recogniser(prepared.features, aligned=False)
    people = held_out(prepared, 0.999999, 200)
    blank = Copier(vectors, torch.full_like(faces, 0.5))
    found = evaluate(blank, prepared, people, PLAN, recogniser, scorers={})
    assert [found.scores[n].value for n in ("facesim", "same_person_share", "face_share")] == [
        0
    ] * 3
    for name in ("auc", "own_distance", "facesim_published", "diversity"):
        assert name not in found.scores
        assert "face" in found.absent[name]


def test_people_with_one_photograph_are_scored_without_a_ceiling(tmp_path):
    prepared = Prepared(measured_features(tmp_path / "f", photos=1))
    found = scored(make(lfw64(), prepared, kind="base"), prepared)
    assert found.absent["auc_ceiling"] == "held-out people have one photograph each"
    assert "auc" in found.scores
    assert [heading for heading, _, _ in found.rows[0]][1] == "seed 0"


def make(recipe, prepared, *, kind):
    recipe = replace(
        recipe,
        data=DataSettings(path=str(prepared.folder)),
        method=MethodSettings(kind=kind, width=32),
    )
    return make_method(recipe, prepared).eval()


def test_an_adapter_draws_whole_pictures_with_prompts(tmp_path):
    folder = measured_features(
        tmp_path / "f", aligned=False, text=(7, 32), captions=("a man", "a woman in a hat", "")
    )
    prepared = Prepared(folder)
    found = scored(
        make(tiny(), prepared, kind="ip_adapter_faceid"), prepared, scorers=("clip", "dino")
    )
    scores = found.scores
    assert scores["face_share"].value == 0
    assert "auc" in found.absent
    assert {"clip_t", "clip_i", "dino", "loss_gain"} <= set(scores)
    assert scores["clip_t"].n == sum(c != "" for c in captions_of_second(prepared))
    assert "cannot fill the 32 dimensions" in found.absent["fid_clip"]


def captions_of_second(prepared):
    from training.evaluation.fidelity import captions_of

    return captions_of(prepared, held_out(prepared, 0.999999, 200).second)


def test_enough_pictures_have_a_frechet_distance_that_says_how_many(tmp_path):
    prepared = Prepared(measured_features(tmp_path / "f", people=40, photos=2))
    found = scored(make(lfw64(), prepared, kind="base"), prepared, scorers=("clip",),
                   plan=Plan(seeds=1, steps=1))  # fmt: skip
    assert "fid" not in found.scores
    fid = found.scores["fid_clip"]
    assert fid.n == 40
    assert fid.low <= fid.value <= fid.high
    assert any("of 40 pictures" in note for note in found.notes)
    assert found.absent["clip_t"] == "nothing was asked for in words"
    assert found.absent["fid_dino"] == "no --dino was given"


def test_inception_gives_fid_between_all_drawn_pictures_and_the_photographs(six):
    prepared, vectors, faces = six
    mean = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    colours = Inception(mean, DlibDetector(320, min_score=0.0), "cpu")
    recogniser = Recogniser(prepared.features, aligned=True)
    people = held_out(prepared, 0.999999, 9)
    keeps, loses = (
        evaluate(Copier(vectors, drawn), prepared, people, Plan(seeds=1, steps=1), recogniser,
                 scorers={}, inception=colours)
        for drawn in (faces, faces[:1].expand_as(faces))
    )  # fmt: skip
    assert keeps.scores["fid"].n == len(people.names) > 3
    assert keeps.scores["fid"].value < 1e-3 < loses.scores["fid"].value
    assert any(note.startswith("fid: of ") for note in keeps.notes)


def test_the_same_people_are_held_out_for_every_run_and_others_are_another_digest(six):
    prepared, _, _ = six
    everybody = held_out(prepared, 0.999999, 200)
    assert everybody.digest == held_out(prepared, 0.999999, 200).digest
    assert everybody.digest != held_out(prepared, 0.999999, 3).digest
    assert everybody.digest != held_out(prepared, 0.5, 200).digest
    with pytest.raises(BadValue, match="no person is held out"):
        held_out(prepared, 0.0, 200)


def test_large_pictures_are_drawn_a_few_at_a_time():
    assert [part.stop - part.start for part in parts(120, 64)] == [50, 50, 20]
    assert next(parts(120, 512)) == slice(0, 8)
    assert next(parts(120, 2048)) == slice(0, 1)
