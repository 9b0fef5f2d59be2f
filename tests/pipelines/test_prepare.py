"""From an exported corpus to features that training reads."""

import io
from dataclasses import replace
from io import StringIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from infra.errors import UnreadableSource
from pipelines.prepare import prepare
from pipelines.prepare_recipes import lfw64, sd15
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from training.features import Features, Prepared
from training.identity import DlibEncoder
from training.nets.codec import load_codec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, astronaut, six_people):
    """An export of two files: three faces of two people, and one picture without a face."""
    folder = tmp_path_factory.mktemp("corpus") / "export/parquet"
    folder.mkdir(parents=True)
    photo = Image.open(astronaut).convert("RGB")
    other = Image.open(six_people).convert("RGB").crop((1050, 225, 1280, 455)).resize((460, 460))
    pictures = [("ann", photo), ("ann", photo.crop((60, 0, 400, 340))), ("bea", other)]
    detector, embedder = DlibDetector(800, min_score=0.2), DlibEmbedder()
    rows = []
    for number, (label, picture) in enumerate(pictures):
        pixels = np.asarray(picture)
        found = detector.detect([pixels])[0]
        vectors = embedder.embed(embedder.align(pixels, found.landmarks_px))
        rows.append(row(number, label, picture, found, vectors, embedder.card.tag))
    blank = row(3, "", Image.new("RGB", (300, 300)), None, None, embedder.card.tag)
    pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "part-00000.parquet")
    pq.write_table(pa.Table.from_pylist([rows[2], blank]), folder / "part-00001.parquet")
    return folder.parents[1]


def row(number, label, picture, found, vectors, embedder):
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return {
        "id": f"{number:04d}",
        "label": label,
        "caption": "",
        "blob": packed.getvalue(),
        "width_px": picture.width,
        "height_px": picture.height,
        "num_faces": 0 if found is None else len(found.scores),
        "face_boxes_px": [] if found is None else found.boxes_px.tolist(),
        "face_landmarks_px": [] if found is None else found.landmarks_px.reshape(-1, 10).tolist(),
        "face_embeddings": [] if vectors is None else vectors.tolist(),
        "embedder": embedder,
    }


def run(recipe, corpus, out):
    return prepare(replace(recipe, corpus=str(corpus)), str(out), Console(file=StringIO()))


@pytest.fixture(scope="module")
def prepared(corpus, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    out = tmp_path_factory.mktemp("features")
    return run(lfw64(), corpus, out), out


def test_every_face_becomes_a_sample_and_the_rest_is_counted(prepared):
    done, out = prepared
    assert (done.samples, done.people, done.left_out) == (3, 2, 1)
    held = Prepared(out)
    assert held.people == ["ann", "ann", "bea"]
    assert held.features.latent_shape == (12, 16, 16)
    assert held.features.embedder.startswith("dlib-resnet@")


def test_latents_are_the_picture_and_landmarks_lie_on_its_face(prepared):
    _, out = prepared
    held = Prepared(out)
    latents = held.read("latents", np.arange(3))
    pictures = load_codec(held.features.codec, out).decode(latents).clamp(0, 1)
    vectors = DlibEncoder()(pictures, held.read("landmarks", np.arange(3)))
    away = (vectors - held.read("identity", np.arange(3))).norm(dim=1)
    assert away.max() < 0.4, "what is decoded is still the person"


def test_the_same_command_again_prepares_nothing(prepared, corpus):
    done, out = prepared
    before = {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    assert run(lfw64(), corpus, out) == done
    assert {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()} == before


def test_a_lost_shard_is_prepared_again_and_nothing_else(prepared, corpus):
    done, out = prepared
    kept, lost = out / "shards/shard-00000.safetensors", out / "shards/shard-00001.safetensors"
    before, bytes_ = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert run(lfw64(), corpus, out) == done
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == bytes_


def test_squares_become_latents_of_an_autoencoder(corpus, tmp_path):
    recipe = replace(sd15(), image_px=64, codec="random:tiny-sd", people="self")
    done = run(recipe, corpus, tmp_path)
    held = Prepared(tmp_path)
    assert (done.people, held.features.latent_shape) == (3, (4, 16, 16))
    landmarks = held.read("landmarks", np.arange(3))
    assert bool(((landmarks > 0) & (landmarks < 64)).all())
    masks = held.read("mask", np.arange(3))
    assert bool(((masks.mean(dim=(1, 2)) > 0.01) & (masks.mean(dim=(1, 2)) < 0.9)).all())
    assert torch.isfinite(held.read("latents", np.arange(3))).all()


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(UnreadableSource, match="visage curate"):
        run(lfw64(), tmp_path, tmp_path / "out")
    with pytest.raises(UnreadableSource, match="visage prepare"):
        Features.read(tmp_path / "out")
