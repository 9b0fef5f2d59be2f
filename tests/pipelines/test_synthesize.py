"""``visage synthesize``: what is drawn, marked, measured, refused, and found again."""

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open

import pipelines.synthesize as job
from infra.errors import BadInput, BadValue, UnreadableSource
from pipelines.cli import main
from pipelines.exported import export_files
from pipelines.features.recipes import PrepareRecipe
from pipelines.features.shards import Plan as Shards
from pipelines.features.shards import shard_path, write_shard
from pipelines.synthesis.faces import Looker
from pipelines.synthesis.settings import SynthesizeSettings
from pipelines.synthesize import synthesize
from serving.provenance.certificates import local_identity
from serving.provenance.credentials import MADE_BY_A_MODEL, Credentials
from serving.provenance.settings import ProvenanceSettings
from stages.models.dlib_faces import embedder_card
from tests.pipelines.corpora import photographs
from tests.training.measured import measured_features
from training.build import make_method
from training.features import Features, Prepared
from training.methods.base import BaseGenerator
from training.recipes import lfw64
from training.settings import BaseModelSettings, MethodSettings, Scale

UNSIGNED = ProvenanceSettings(watermark="none", credentials=False)
QUIET = Console(file=io.StringIO())
FEW = replace(lfw64(), method=MethodSettings(kind="base", width=32), scale=Scale(threads=1))

ARC2FACE = replace(
    FEW,
    method=MethodSettings(kind="arc2face"),
    base=BaseModelSettings(weights="random:tiny-sd128"),
)
MODELS = pytest.mark.parametrize(
    ("model", "aligned"), [pytest.param("model", True, id="base"), ("arc2face", False)]
)


def write_corpus(home, vectors, *, embedder=None, **columns):
    """Write real people's vectors, two photographs each, as the export of a run."""
    rows = len(vectors)
    rng = np.random.default_rng(0)
    table = {
        "id": [f"{n:032x}" for n in range(rows)],
        "label": [f"p{n // 2:03d}" for n in range(rows)],
        "identity": [""] * rows,
        "num_faces": [1] * rows,
        "face_embeddings": [[vector.tolist()] for vector in vectors],
        "embedder": [embedder or embedder_card().tag] * rows,
        "face_yaws_deg": [[float(yaw)] for yaw in rng.uniform(-30, 30, rows)],
    }
    (home / "export/parquet").mkdir(parents=True)
    pq.write_table(pa.table(table | columns), home / "export/parquet/part-00000.parquet")
    return str(home)


def crowd(people=40, dim=128):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((people, dim)).repeat(2, axis=0)
    return (vectors + 0.3 * rng.standard_normal(vectors.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, and two models that were never trained."""
    home = tmp_path_factory.mktemp("home")
    features = measured_features(home / "features", people=4, photos=2)
    make_method(FEW, Prepared(features)).save(home / "model")
    features = measured_features(home / "whole", aligned=False, people=4, photos=2)
    make_method(ARC2FACE, Prepared(features)).save(home / "arc2face")
    write_corpus(home / "corpus", crowd(), gender=["female", "female", "male", "male"] * 20)
    return home


def asked(home, **changes):
    return SynthesizeSettings(**{
        "model": f"file:{home}/model", "corpus": f"{home}/corpus", "people": 3, "pictures": 2,
        "steps": 1, "aligned": True, "people_per_part": 1, "provenance": UNSIGNED, **changes,
    })  # fmt: skip


def rows_of(folder):
    return pads.dataset(folder / "export/parquet").to_table().sort_by(
        [("person", "ascending"), ("picture", "ascending")]
    )  # fmt: skip


@MODELS
def test_the_same_seed_gives_the_same_files_and_another_one_other_people(
    home, tmp_path, model, aligned
):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        settings = asked(home, seed=seed, model=f"file:{home}/{model}", aligned=aligned)
        synthesize(settings, str(tmp_path / name), QUIET)
    files = [sorted((tmp_path / name / "export/parquet").iterdir()) for name in "ab"]
    assert len(files[0]) == 3
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    ours, others = rows_of(tmp_path / "a"), rows_of(tmp_path / "c")
    assert not set(ours["identity"].to_pylist()) & set(others["identity"].to_pylist())
    assert ours["asked_vector"][0] != others["asked_vector"][0]


@MODELS
def test_a_picture_is_the_same_whatever_it_is_drawn_together_with(home, tmp_path, model, aligned):
    drawn = {"model": f"file:{home}/{model}", "aligned": aligned}
    for name, together in (("a", 1), ("b", 3)):
        synthesize(asked(home, people_per_part=together, **drawn), str(tmp_path / name), QUIET)
    pixels = [
        [np.asarray(Image.open(io.BytesIO(blob)), np.int16) for blob in rows["blob"].to_pylist()]
        for rows in (rows_of(tmp_path / "a"), rows_of(tmp_path / "b"))
    ]
    # Sums of another order round otherwise.
    assert np.abs(np.array(pixels[0]) - np.array(pixels[1])).max() <= 1
    assert np.abs(pixels[0][0] - pixels[0][2]).max() > 1, "two people are drawn as one"


def test_a_broken_off_corpus_goes_on_and_draws_nothing_twice(home, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    synthesize(asked(home), str(whole), QUIET)
    calls = []

    def look(self, pictures, blobs, do=Looker.look):
        calls.append(len(blobs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return do(self, pictures, blobs)

    monkeypatch.setattr(Looker, "look", look)
    with pytest.raises(KeyboardInterrupt):
        synthesize(asked(home), str(out), QUIET)
    (first,) = (out / "export/parquet").iterdir()
    when = first.stat().st_mtime_ns
    assert json.loads((out / "synthesize.json").read_text())["finished_at"] == ""
    synthesize(asked(home), str(out), QUIET)
    assert first.stat().st_mtime_ns == when
    assert len(calls) == 4, "one part was whole, one is drawn again, one for the first time"
    assert rows_of(out).equals(rows_of(whole))
    assert synthesize(asked(home), str(out), QUIET).pictures == 6
    assert len(calls) == 4


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_command_goes_on_to_the_same_corpus(home, tmp_path):
    words = ["--model", f"file:{home}/model", "--corpus", f"{home}/corpus", "--people", "20",
             "--pictures", "2", "--steps", "1", "--aligned", "--people-per-part", "1",
             "--provenance.no-credentials", "--out", str(tmp_path / "out")]  # fmt: skip
    command = [str(Path(sys.executable).with_name("visage")), "synthesize", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    done = tmp_path / "out/export/parquet/part-00001.parquet"
    until = time.monotonic() + 120
    while not done.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert done.exists()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    command[-1] = str(tmp_path / "whole")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert rows_of(tmp_path / "out").equals(rows_of(tmp_path / "whole"))
    assert rows_of(tmp_path / "out").num_rows == 40


def test_every_picture_says_that_nobody_took_it(home, tmp_path):
    provenance = ProvenanceSettings(watermark="none", home=str(tmp_path / "keys"))
    done = synthesize(asked(home, provenance=provenance), str(tmp_path / "out"), QUIET)
    assert done.signed_by == "a test root that only this machine believes"
    credentials = Credentials(local_identity(tmp_path / "keys"))
    rows = rows_of(tmp_path / "out").to_pylist()
    assert len({row["id"] for row in rows}) == 6
    for row in rows:
        assert row["synthetic"] is True
        with Image.open(io.BytesIO(row["blob"])) as picture:
            assert picture.text["Synthetic"] == "true"
            assert "does not exist" in picture.text["Description"]
        found = credentials.read(row["blob"], "image/png")
        assert (found.state, found.made.model[:6]) == ("trusted", "lfw64/")
        assert MADE_BY_A_MODEL.encode() in row["blob"]


def test_people_are_balanced_by_labels_that_the_corpus_has(home, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "people: [{share: 0.5, gender: female}, {share: 0.5, gender: male}]\n"
        "pictures: [{share: 0.5, yaw_deg: [-5, 5]}, {share: 0.5, yaw_deg: [20, 30]}]\n"
    )
    settings = asked(home, people=4, plan=str(plan))
    done = synthesize(settings, str(tmp_path / "out"), QUIET)
    assert done.people_cells == {"gender female": 2, "gender male": 2}
    kinds = rows_of(tmp_path / "out")["picture_cell"].to_pylist()
    assert kinds.count("yaw_deg -5 to 5") == kinds.count("yaw_deg 20 to 30") == 4


@pytest.mark.parametrize(
    ("plan", "error", "why"),
    [
        ("people: [{share: 1, age: old}]", UnreadableSource, "no column 'age'.* is guessed"),
        ("people: [{share: 1, gender: other}]", BadValue, "nobody in the corpus is like that"),
        ("pictures: [{share: 1, exposure: [0, 1]}]", BadValue, "has measured it on no face"),
    ],
)
def test_what_the_corpus_does_not_say_is_never_guessed(home, tmp_path, plan, error, why):
    (tmp_path / "plan.yaml").write_text(plan)
    with pytest.raises(error, match=why):
        synthesize(asked(home, plan=str(tmp_path / "plan.yaml")), str(tmp_path / "out"), QUIET)


def test_variations_that_could_pass_for_somebody_else_are_refused(home, tmp_path):
    with pytest.raises(BadValue, match=r"with below 0\.5, give up to 15\.0"):
        synthesize(asked(home, variation_deg=16.0), str(tmp_path / "out"), QUIET)


def test_a_folder_of_other_settings_is_left_as_it_is(home, tmp_path):
    synthesize(asked(home), str(tmp_path / "out"), QUIET)
    with pytest.raises(BadValue, match="holds what other settings"):
        synthesize(asked(home, seed=5), str(tmp_path / "out"), QUIET)
    assert rows_of(tmp_path / "out").num_rows == 6


def test_a_corpus_of_another_encoder_is_refused(home, tmp_path):
    other = write_corpus(tmp_path / "other", crowd(), embedder="arcface@0")
    with pytest.raises(BadValue, match=r"measured with arcface@0, and the model .* dlib"):
        synthesize(asked(home, corpus=other), str(tmp_path / "out"), QUIET)


def test_a_model_that_is_told_more_than_identity_is_refused(home, tmp_path):
    features = home / "features"
    told = replace(FEW, method=MethodSettings(kind="base", width=32, condition="none"))
    make_method(told, Prepared(features)).save(tmp_path / "nobody")
    with pytest.raises(BadValue, match="not told identity alone; give an export of arc2face"):
        synthesize(asked(home, model=f"file:{tmp_path}/nobody"), str(tmp_path / "out"), QUIET)


def test_anonymised_and_faceless_rows_are_nobody(home, tmp_path):
    vectors = crowd()
    vectors[:4] = 0
    corpus = write_corpus(tmp_path / "corpus", vectors)
    few = write_corpus(tmp_path / "few", vectors[2:6])
    with pytest.raises(BadInput, match="two or more"):
        synthesize(asked(home, corpus=few), str(tmp_path / "out"), QUIET)
    assert synthesize(asked(home, corpus=corpus), str(tmp_path / "out2"), QUIET).people == 3


class Album(BaseGenerator):
    """Draws a person as one of two photographs: which of them, follows from the vector."""

    photos: torch.Tensor

    def generate(self, condition, *_, **__):
        """Show a photograph for each side of the space."""
        return self.photos[(condition.identity[:, 0] > 0).long()]


def test_drawn_faces_are_measured_as_photographs_are_and_can_be_prepared(
    home, tmp_path, monkeypatch, astronaut, six_people
):
    shown = [row["blob"] for row in photographs(astronaut, six_people)
             if row["caption"] in ("her 1", "other")]  # fmt: skip
    tensors = [torch.from_numpy(np.array(Image.open(io.BytesIO(blob)))).permute(2, 0, 1) / 255
               for blob in shown]  # fmt: skip
    album = Album(FEW, Features.read(home / "model"), home / "model")
    album.photos = torch.stack(tensors)
    monkeypatch.setattr(job, "load_export", lambda _: album)
    out = tmp_path / "out"
    done = synthesize(asked(home, aligned=False, variation_deg=1.0), str(out), QUIET)
    rows = rows_of(out).to_pylist()
    assert all(row["num_faces"] == 1 and len(row["face_embeddings"][0]) == 128 for row in rows)
    assert all(abs(row["face_yaws_deg"][0]) < 60 for row in rows)
    scores = {name: score["value"] for name, score in done.scores.items()}
    assert scores["face_share"] == 1.0
    assert scores["consistency"] > 0.9
    assert scores["separable_share"] < 0.5, "three people have two faces, and it is seen"
    assert "data:image/jpeg" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["pictures"] == 6

    _, files = export_files(str(out), "identity")
    (tmp_path / "shards").mkdir()
    recipe = PrepareRecipe(
        name="few", image_px=64, codec="random:tiny-sd", people="identity", caption="alt"
    )
    assert write_shard((0, Path(files[0])), Shards(recipe, tmp_path, recipe.codec, ())) == 2
    with safe_open(shard_path(tmp_path, 0), framework="np") as held:
        told = json.loads(held.metadata()["rows"])
    assert told["identities"] == [rows[0]["identity"]] * 2
    assert not told["counts"].get("faceless")


def test_the_command_says_what_came_of_it(home, tmp_path, capsys):
    words = ["--people", "2", "--pictures", "1", "--steps", "1", "--aligned", "--json"]
    where = ["--corpus", f"{home}/corpus", "--out", str(tmp_path / "out")]
    unsigned = ["--provenance.no-credentials"]
    assert main(["synthesize", "--model", f"file:{home}/model", *where, *unsigned, *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["people"], said["pictures"]) == (2, 2)
    assert said["scores"]["face_share"]["value"] == 0.0
    assert Path(said["path"], "report.html").exists()
    assert main(["synthesize", *where, *words]) == 2
    assert "model cannot be ''" in capsys.readouterr().err
