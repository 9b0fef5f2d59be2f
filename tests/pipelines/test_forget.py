"""A person in a store of several runs, forgotten: nothing is left, and nothing comes back."""

import json
import shutil
import sys
from dataclasses import replace
from io import StringIO

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from rich.console import Console
from safetensors.numpy import load_file, save_file

from infra.errors import BadInput, UnreadableSource
from infra.lineage import CORPUS_TAG
from infra.mlflow_run import connect
from infra.storage import open_folder
from infra.tracking import tracking_uri
from pipelines.cli import main
from pipelines.curate import curate
from pipelines.forget import NOTE, SHEET, begin, find, finish
from pipelines.forgetting.tombstones import Tombstones
from pipelines.people import read_mains
from pipelines.recipes import Source, Workers, photos
from stages.forgotten import tombstone
from training.features import Features, write_index

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
HERS = {"her.png", "same.png", "mirrored.jpg"}


def draw(album, astronaut, six_people):
    with Image.open(astronaut) as image:
        face = image.convert("RGB").crop((60, 0, 400, 340))
    face.save(album / "her.png")
    (album / "her.txt").write_text("an astronaut whom nobody shall remember")
    (album / "same.png").write_bytes((album / "her.png").read_bytes())
    ImageOps.mirror(face).resize((300, 300)).save(album / "mirrored.jpg")
    with Image.open(six_people) as image:
        image.crop((1050, 225, 1280, 455)).resize((460, 460)).save(album / "other.jpg")
    Image.new("RGB", (400, 400), "white").save(album / "blank.jpg")


def run(album, store, **changes):
    base = photos()
    recipe = replace(
        base,
        source=Source(path=str(album), license="CC0"),
        faces=replace(base.faces, detect_px=1280),
        people=replace(base.people, min_photos=1),
        workers=Workers(lookers=1),
    )
    console = Console(file=StringIO(), width=200)
    return curate(replace(recipe, **changes), str(store), console)


def decided(result):
    return pads.dataset(f"{result.path}/decisions").to_table().to_pylist()


def features_of(store, result):
    """Make features of a run by hand: two rows of one shard, and the index."""
    home = store / "features"
    (home / "shards").mkdir(parents=True)
    table = pq.read_table(f"{result.path}/export/parquet").sort_by("id")
    ids = table["id"].to_pylist()
    vectors = np.array([faces[0] for faces in table["face_embeddings"].to_pylist()], np.float32)
    about = {
        "ids": ids, "labels": [""] * len(ids), "captions": table["caption"].to_pylist(),
        "buckets": [0] * len(ids), "counts": {},
    }  # fmt: skip
    tensors = {"identity": vectors, "latents": np.arange(len(ids) * 4.0).reshape(-1, 4)}
    shard = home / "shards/shard-00000.safetensors"
    save_file(tensors, shard, {"rows": json.dumps(about)})
    write_index(
        home,
        [{"id": id_, "person": id_, "caption": "", "shard": 0, "row": n}
         for n, id_ in enumerate(ids)],
    )  # fmt: skip
    Features(
        corpus="c0ffee", image_px=64, codec="", latent_shape=(1, 2, 2), text_shape=(0, 0),
        identity_dim=128, embedder=table["embedder"][0].as_py(), backend="dlib",
        identity_mean=(0.0,), identity_std=(1.0,),
    ).write(home)  # fmt: skip
    return shard


def half_written(store, result):
    """Leave a run as a crash leaves it: no end, a file cut short, a file on its way."""
    half = store / "photos-half"
    shutil.copytree(result.path, half, ignore=shutil.ignore_patterns("export", "run.json", ".lock"))
    whole = next((half / "ingest/data").rglob("*.parquet"))
    whole.with_name("cut.parquet").write_bytes(whole.read_bytes()[:-100])
    whole.with_name("new.parquet.123.tmp").write_bytes(whole.read_bytes())


def shown(store, result):
    """Leave pages that may show her: an evaluation's on those features, and a loop's."""
    for corpus in ("c0ffee", "other"):
        folder = store / f"trained/evaluations/{corpus}"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"corpus": corpus}))
        (folder / "contact.png").write_bytes(b"png")
        run_ = store / f"trained/{corpus}"
        for name in ("sheets", "step-0000001/export"):
            (run_ / name).mkdir(parents=True)
        (run_ / "step-0000001/export/features.json").write_text(json.dumps({"corpus": corpus}))
        (run_ / "sheets/step-0000001.png").write_bytes(b"png")
    (store / "mlartifacts/sheets").mkdir(parents=True)
    (store / "mlartifacts/sheets/step-0000001.png").write_bytes(b"png")
    for run_ in (result.run, "other"):
        folder = store / f"loop-{run_}"
        folder.mkdir()
        steps = {"curate": {"result": {"path": f"{store}/{run_}"}}}
        (folder / "loop.json").write_text(json.dumps({"steps": steps}))
        (folder / "report.html").write_text("faces")


@pytest.fixture(scope="module")
def world(tmp_path_factory, local_ray, astronaut, six_people):  # noqa: ARG001
    """A store with two runs and features, in which she is; what there was of her before."""
    home = tmp_path_factory.mktemp("forget")
    (album := home / "album").mkdir()
    draw(album, astronaut, six_people)
    store = home / "store"
    first = run(album, store)
    second = run(album, store, keep=replace(photos().keep, min_side_px=320))
    shard = features_of(store, first)
    half_written(store, first)
    shutil.copytree(store / "features", home / "elsewhere")
    shown(store, first)
    rows = [row for row in decided(first) if row["member"] in HERS]
    exported = pq.read_table(f"{first.path}/export/parquet").to_pylist()
    hers = next(row for row in exported if row["member"] in HERS)
    needles = {row["id"].encode()[:12] for row in rows} | {
        hers["blob"],
        hers["sha256"].encode(),
        np.array(hers["face_embeddings"][0], np.float32).tobytes(),
        b"an astronaut whom nobody",
    }
    return home, first, second, needles, shard


def holding(store, needles):
    """Return the files with any of the needles: in their bytes, and in what Parquet packs."""
    found = set()
    for path in store.rglob("*"):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet" and path.name != "cut.parquet":
            # Unpacked: compression must not hide anything from the search.
            sink = path.with_suffix(".plain")
            table = pq.read_table(path, partitioning=None)
            pq.write_table(table, sink, compression="none", use_dictionary=False)
            data += sink.read_bytes()
            sink.unlink()
        if any(needle in data for needle in needles):
            found.add(path.relative_to(store).as_posix())
    return found


def test_a_photo_with_no_face_or_several_says_what_to_give(world, tmp_path, six_people):
    store = open_folder(str(world[0] / "store"))
    blank = tmp_path / "blank.jpg"
    Image.new("RGB", (300, 300)).save(blank)
    with pytest.raises(BadInput, match=r"shows 0 faces\. Give one that shows the person alone"):
        find(store, str(blank), "")
    with pytest.raises(BadInput, match=r"shows [2-9] faces"):
        find(store, str(six_people), "")
    with pytest.raises(UnreadableSource, match="Give a JPEG"):
        find(store, str(tmp_path / "none.jpg"), "")
    with pytest.raises(BadInput, match=r"either --face PHOTO or --id ID"):
        find(store, "", "")


def test_without_somebody_to_ask_nothing_is_forgotten(world, monkeypatch, capsys):
    home, first, *_ = world
    monkeypatch.setattr(sys, "stdin", StringIO())
    face, store = str(home / "album/her.png"), str(home / "store")
    before = decided(first)
    assert main(["forget", "--face", face, "--store", store]) == 2
    said = capsys.readouterr()
    assert "then give --yes" in said.err
    assert f"3 rows in {first.run}" in said.out
    assert (home / "store" / SHEET).exists()
    assert decided(first) == before
    assert main(["forget", "--id", "f" * 32, "--store", store]) == 0
    assert "Nothing of them is in the store" in capsys.readouterr().out


def test_an_identity_and_a_row_are_found_by_id(world):
    home, first, *_ = world
    store = open_folder(str(home / "store"))
    rows = {row["id"]: row["member"] for row in decided(first)}
    mains = read_mains(store / first.run / "people").to_pylist()
    hers = next(row for row in mains if rows[row["id"]] in HERS)
    assert {rows[id_] for id_ in find(store, "", hers["identity"]).ids} == HERS
    assert {rows[id_] for id_ in find(store, "", hers["id"]).ids} == HERS


def test_a_forgotten_person_is_in_no_file_and_does_not_come_back(world, monkeypatch, capsys):
    import pipelines.forget as forgetting

    home, first, second, needles, shard = world
    folder, store = home / "store", open_folder(str(home / "store"))
    before = holding(folder, needles)
    assert {part.split("/")[0] for part in before} >= {first.run, second.run, "features"}

    # Interrupted in the middle: the same command goes on.
    found = find(store, str(home / "album/her.png"), "")
    assert found.runs == {first.run: 3, second.run: 3, "photos-half": 3, "features": 1}
    client = connect(tracking_uri(store))
    client.create_registered_model("faces")
    client.create_model_version("faces", "export", tags={CORPUS_TAG: "c0ffee"})
    begin(store, found, "her wish", also=(str(home / "elsewhere"),))
    monkeypatch.setattr(forgetting, "correct_run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(store, Console(file=StringIO()))
    assert (folder / NOTE).exists()
    monkeypatch.undo()
    assert main(["forget", "--id", "x", "--store", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["rows"] == 3
    assert told["models"] == ["faces/1"], "the model that still knows her"

    assert holding(folder, needles) == holding(home / "elsewhere", needles) == set()
    sheets = {path.parent.name for path in (folder / "trained").rglob("contact.png")}
    assert sheets == {"other"}, "who is on the others' is known: not she"
    drawn = {path.parents[1].name for path in folder.rglob("sheets/*.png")}
    assert drawn == {"other"}, "whose MLflow's copy is, is not known"
    assert not (folder / f"loop-{first.run}/report.html").exists()
    assert (folder / "loop-other/report.html").exists()
    assert not (folder / NOTE).exists()
    assert not (folder / SHEET).exists()
    buried = Tombstones.read(store)
    assert buried.rows == {tombstone(id_) for id_ in found.ids}
    (grave,) = (folder / "forgotten").iterdir()
    assert json.loads(grave.read_text())["reason"] == "her wish"

    for result in (first, second):
        rows = decided(result)
        record = json.loads((folder / result.run / "run.json").read_text())
        assert len(rows) == record["rows"] == 5, "a forgotten row is accounted for"
        assert record["reject"]["forgotten"] == 3
        assert record["keep"] == 1
        exported = pq.read_table(f"{result.path}/export/parquet")
        assert exported["member"].to_pylist() == ["other.jpg"]
        assert "forgotten" in (folder / result.run / "report.html").read_text()
    cut = (path for path in (folder / "photos-half").rglob("*") if "cut" in path.name)
    assert list(cut) == [], "what cannot be read is not left to chance"
    kept = load_file(shard)
    assert kept["identity"].shape == (1, 128)
    assert kept["latents"].shape == (1, 4)
    index = pq.read_table(folder / "features/index.parquet").to_pylist()
    assert [row["row"] for row in index] == [0]

    # Another run of the same source fetches nothing, and leaves her out.
    third = run(home / "album", folder, keep=replace(photos().keep, min_side_px=200))
    jobs = {j["job"]: j["reused"] for j in json.loads(
        (folder / third.run / "run.json").read_text())["jobs"]}  # fmt: skip
    assert jobs["ingest"], "what was fetched of the others is found again"
    assert third.reject["forgotten"] == 3
    assert holding(folder, needles) == set()

    # Nor does the same picture by another name.
    (home / "album/new name.png").write_bytes((home / "album/her.png").read_bytes())
    fourth = run(home / "album", folder)
    assert fourth.reject["forgotten"] == 4
    assert holding(folder, needles - {b"an astronaut whom nobody"}) == set()
