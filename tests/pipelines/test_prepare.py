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

from infra.errors import BadValue, UnreadableSource
from pipelines.features.recipes import PrepareRecipe, lfw64, sdxl, tiny
from pipelines.prepare import prepare
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from training.features import Features, Prepared
from training.identity import DlibEncoder
from training.nets.codec import load_codec
from training.nets.presets import load_vae
from training.nets.text import load_text_encoder
from training.nets.vision import load_image_encoder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


CAPTIONS = ["an astronaut", "", "a person " * 20, ""]


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


IDENTITIES = ["a" * 32, "a" * 32, "b" * 32, ""]


def row(number, label, picture, found, vectors, embedder):
    packed = io.BytesIO()
    picture.save(packed, "PNG")
    return {
        "id": f"{number:04d}",
        "label": label,
        "identity": IDENTITIES[number],
        "caption": CAPTIONS[number],
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


@pytest.fixture(scope="module")
def small(corpus, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    out = tmp_path_factory.mktemp("tiny")
    return run(replace(tiny(), people="self"), corpus, out), Prepared(out)


EVERY = np.arange(3)


def test_pictures_become_latents_of_an_autoencoder(small):
    done, held = small
    assert (done.people, held.features.latent_shape) == (3, (4, 16, 16))
    landmarks = held.read("landmarks", EVERY)
    assert bool(((landmarks > 0) & (landmarks < 64)).all())
    masks = held.read("mask", EVERY)
    assert bool(((masks.mean(dim=(1, 2)) > 0.01) & (masks.mean(dim=(1, 2)) < 0.9)).all())
    assert torch.isfinite(held.read("latents", EVERY)).all()


def test_captions_are_what_the_text_encoder_says_of_them(small):
    done, held = small
    assert held.features.text_shape == (77, 32)
    assert held.features.text_encoder == "random:tiny-sd"
    said, _ = load_text_encoder("random:tiny-sd").encode(CAPTIONS[:3])
    torch.testing.assert_close(held.read("text", EVERY), said, atol=2e-3, rtol=1e-3)
    assert done.cut_captions == 1
    empty = held.empty()["text"]
    torch.testing.assert_close(held.read("text", EVERY)[1], empty, atol=2e-3, rtol=1e-3)


def test_the_image_encoder_sees_the_face(small):
    _, held = small
    assert held.features.image_shape == (17, 32)
    image = held.read("image", EVERY)
    alike, other = (image[0] - image[1]).norm(), (image[0] - image[2]).norm()
    assert alike < other / 2, "two crops of one photograph show the same aligned face"
    nobody = load_image_encoder("random:tiny-clip").empty()
    torch.testing.assert_close(held.empty()["image"], nobody, atol=2e-3, rtol=1e-3)


def test_sdxl_has_pooled_text_sizes_and_buckets(corpus, tmp_path):
    recipe = replace(
        sdxl(), image_px=64, aspects=("1:1", "3:2"), codec="random:tiny-sdxl",
        text_encoder="random:tiny-sdxl",
    )  # fmt: skip
    wide = widened(corpus, tmp_path / "corpus", ["0000", "0002"])
    done = run(recipe, wide, tmp_path / "out")
    held = Prepared(tmp_path / "out")
    assert (done.samples, held.features.pooled_dim) == (3, 32)
    assert held.features.latent_shapes == ((4, 16, 16), (4, 12, 20))
    assert held.buckets.tolist() == [1, 0, 1]
    assert held.read("latents", np.array([0, 2])).shape == (2, 4, 12, 20)
    assert held.read("mask", np.array([1])).shape == (1, 16, 16)
    assert held.read("pooled", EVERY).shape == (3, 32)
    assert held.empty().keys() == {"text", "pooled"}
    sizes = held.read("size", EVERY).tolist()
    assert [size[:2] for size in sizes] == [[512, 800], [340, 340], [460, 748]]
    assert [size[4:] for size in sizes] == [[48, 80], [64, 64], [48, 80]]
    landmarks = held.read("landmarks", EVERY)
    edges = torch.tensor([[80.0, 48], [64, 64], [80, 48]])[:, None]
    assert bool(((landmarks > 0) & (landmarks < edges)).all()), "the face stays inside"


def widened(corpus, folder, ids):
    """Copy a corpus with black beside some pictures, so that they are wide."""
    (folder / "export/parquet").mkdir(parents=True)
    for path in (corpus / "export/parquet").iterdir():
        rows = pq.read_table(path).to_pylist()
        for each in rows:
            if each["id"] in ids:
                picture = Image.open(io.BytesIO(each["blob"]))
                wide = Image.new("RGB", (picture.width + 288, picture.height))
                wide.paste(picture, (0, 0))
                packed = io.BytesIO()
                wide.save(packed, "PNG")
                each |= {"blob": packed.getvalue(), "width_px": wide.width}
        pq.write_table(pa.Table.from_pylist(rows), folder / "export/parquet" / path.name)
    return folder


def test_prepared_twice_the_bytes_are_the_same(corpus, tmp_path):
    for name in ("one", "two"):
        run(tiny(), corpus, tmp_path / name)
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_altered_weights_are_prepared_with_anew(corpus, tmp_path):
    load_vae("random:tiny-sd").save_pretrained(tmp_path / "base/vae")
    recipe = replace(tiny(), codec=f"file:{tmp_path / 'base'}", text_encoder="", image_encoder="")
    run(recipe, corpus, tmp_path / "out")
    before = Prepared(tmp_path / "out")
    old = before.read("latents", EVERY).clone()
    load_vae("random:tiny-sd", seed=1).save_pretrained(tmp_path / "base/vae")
    run(recipe, corpus, tmp_path / "out")
    after = Prepared(tmp_path / "out")
    assert after.features.weights["codec"] != before.features.weights["codec"]
    assert not after.read("latents", EVERY).equal(old)


def test_people_without_labels_are_found_by_their_vectors(corpus, tmp_path):
    recipe = replace(lfw64(), people="embedding")
    done = run(recipe, corpus, tmp_path / "out")
    assert done.people == 2
    one, other, another = Prepared(tmp_path / "out").people
    assert one == other != another


def test_what_would_be_enlarged_too_much_is_left_out_and_counted(corpus, tmp_path):
    plain = replace(tiny(), text_encoder="", image_encoder="", image_px=512)
    done = run(replace(plain, max_enlarge=1.2), corpus, tmp_path / "some")
    assert (done.samples, done.too_small, done.enlarged, done.left_out) == (2, 1, 1, 1)
    with pytest.raises(UnreadableSource, match=r"3 pictures would be enlarged more than 1 times"):
        run(replace(plain, image_px=1024, max_enlarge=1.0), corpus, tmp_path / "none")


def test_a_corpus_of_several_encoders_is_refused(corpus, tmp_path):
    folder = widened(corpus, tmp_path / "corpus", [])
    path = folder / "export/parquet/part-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(
        pa.Table.from_pylist([each | {"embedder": "buffalo_l/w600k@0"} for each in rows]), path
    )
    with pytest.raises(UnreadableSource, match=r"several encoders: buffalo_l.*dlib"):
        run(tiny(), folder, tmp_path / "out")


def test_a_corpus_without_a_face_is_refused(corpus, tmp_path):
    folder = widened(corpus, tmp_path / "corpus", [])
    for path in (folder / "export/parquet").iterdir():
        rows = pq.read_table(path).to_pylist()
        pq.write_table(pa.Table.from_pylist([each | {"num_faces": 0} for each in rows]), path)
    with pytest.raises(UnreadableSource, match="nobody in it has a face"):
        run(lfw64(), folder, tmp_path / "out")


def test_what_a_worker_refuses_is_said_without_its_traceback(corpus, tmp_path):
    with pytest.raises(BadValue) as refused:
        run(replace(tiny(), text_encoder="random:sd16"), corpus, tmp_path)
    assert str(refused.value).startswith("weights cannot be 'random:sd16'")


def test_gpus_that_are_not_there_are_not_waited_for(corpus, tmp_path):
    with pytest.raises(BadValue, match="has 0 GPUs"):
        prepare(
            replace(lfw64(), corpus=str(corpus)), str(tmp_path), Console(file=StringIO()),
            gpus_per_task=0.5,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"crop": "aligned"}, "an aligned face has 128 px"),
        ({"crop": "portrait", "aspects": ("3:2",)}, "only `cover` has other shapes"),
        ({"codec": "patches", "aspects": ("1:1", "3:2")}, "fitted to one shape"),
        ({"aspects": ()}, "give at least one"),
        ({"batch_rows": 0}, "give 1 or more"),
        ({"max_enlarge": -1.0}, "give 0 or more"),
        ({"pair_below": -1.0}, "give 0 or more"),
        ({"pairs": "pairs"}, "pairs are of identities: give identity"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change, why):
    with pytest.raises(BadValue, match=why):
        PrepareRecipe(name="mine", **change)


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(UnreadableSource, match="visage curate"):
        run(lfw64(), tmp_path, tmp_path / "out")
    with pytest.raises(UnreadableSource, match="visage prepare"):
        Features.read(tmp_path / "out")
