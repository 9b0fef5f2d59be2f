"""What little or odd input the commands about people are given: a word each, or an empty result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.cli import main
from training.features import Prepared

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("local_ray")]
ODD = 'O\u2019Brien, "x"\n\u00fc\u202e ..\\%2F \U0001f600\'--'
FACES = {"her 0": (60, 0, 400, 340), "her 1": (100, 0, 340, 240), "her 2": (20, 10, 440, 430)}


@pytest.fixture(scope="module")
def album(tmp_path_factory, astronaut, six_people):
    """Three photographs of one person in a folder with an odd name, one of another, and a wall."""
    home = tmp_path_factory.mktemp("album")
    (home / ODD).mkdir()
    (home / "other").mkdir()
    with Image.open(astronaut) as one, Image.open(six_people) as six:
        for name, box in FACES.items():
            one.convert("RGB").crop(box).resize((400, 400)).save(home / ODD / f"{name}.png")
        six.crop((1050, 225, 1280, 455)).resize((400, 400)).save(home / "other/a.png")
    Image.new("RGB", (400, 400), "white").save(home / "other/wall.png")
    return home


def words(album, store, *more):
    """Return the command that curates an album."""
    return [
        "curate", "photos", "--source.path", str(album), "--store", str(store),
        "--source.folders-are-people", "--faces.detect-px", "640", "--workers.lookers", "1",
        "--keep.min-face-share", "0", "--dedupe.semantic-column", "",
        "--export.formats", "parquet", *more,
    ]  # fmt: skip


def ending(command, code, capsys):
    """Give a command; return what it prints in the end, or the error that it says."""
    capsys.readouterr()
    assert main([*command, "--json"]) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err if code else json.loads(said.out.splitlines()[-1])


@pytest.fixture(scope="module")
def curated(album, tmp_path_factory, local_ray):  # noqa: ARG001 - Ray only has to be there
    store = tmp_path_factory.mktemp("curated") / "store"
    assert main(words(album, store, "--people.labels", "use")) == 0
    return store


def decided(run):
    return pads.dataset(Path(run) / "decisions").to_table().to_pylist()


def preparing(run, home, *more):
    return ["prepare", "lfw64", "--corpus", str(run), "--out", f"{home}/features", *more]


def run_of(store):
    (run,) = store.glob("photos-*")
    return run


def altered(curated, store, change):
    """Copy a store, change the vectors that were measured, and forget what followed from them."""
    shutil.copytree(curated, store)
    run = run_of(store)
    for path in sorted(run.glob("ingest/data/**/*.parquet")):
        table = pq.read_table(path, partitioning=None)
        rows = [row | change(row) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    for name in ("people", "export", "decisions", "run.json"):
        place = run / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return run


def one(_):
    return np.random.default_rng(0).normal(size=128).tolist()


def none(_):
    return [float("nan")] * 128


def far(row):
    """Return a vector of the picture's own, unlike all others."""
    rng = np.random.default_rng(int(row["id"][:8], 16))
    return rng.normal(size=128).tolist()


def bad(row):
    return none(row) if row["member"].endswith("her 0.png") else row["face_embeddings"][0]


@pytest.mark.parametrize(
    ("vector", "labels", "people", "pairs", "samples"),
    [
        (none, "use", 0, 0, "4 identity vectors hold NaN"),
        (none, "ignore", 0, 0, "4 identity vectors hold NaN"),
        (far, "ignore", 0, 0, "4 photographs are of nobody"),
        (one, "ignore", 1, 12, 4),
        (bad, "ignore", 1, 2, 2),
    ],
    ids=["no vectors", "none unlabelled", "one photo each", "all one person", "a bad one"],
)
def test_faces_that_say_little_make_few_people_or_none(
    curated, album, tmp_path, capsys, vector, labels, people, pairs, samples
):
    def change(row):
        return {"face_embeddings": [vector(row)]} if row["num_faces"] else {}

    store = tmp_path / "store"
    altered(curated, store, change)
    done = ending(words(album, store, "--people.labels", labels), 0, capsys)
    rows = decided(done["path"])
    assert len(rows) == 5, "nothing is lost"
    assert len({row["identity"] for row in rows} - {""}) == people
    made = ending(["pairs", done["path"], "--out", f"{tmp_path}/pairs"], 0, capsys)
    assert made["matches"].get("pair", 0) == pairs
    asked = ("--people", "identity", "--pairs", f"{tmp_path}/pairs")
    command = preparing(done["path"], tmp_path, *asked)
    if isinstance(samples, int):
        assert ending(command, 0, capsys)["samples"] == samples
    else:
        assert samples in ending(command, 2, capsys)


def test_without_any_face_nothing_is_kept_and_that_is_said(album, tmp_path, capsys):
    (tmp_path / "walls").mkdir()
    shutil.copy(album / "other/wall.png", tmp_path / "walls")
    done = ending(words(tmp_path / "walls", tmp_path / "store"), 0, capsys)
    assert (done["keep"], done["reject"]) == (0, {"no_face": 1})
    made = ending(["pairs", done["path"], "--out", f"{tmp_path}/pairs"], 0, capsys)
    assert made["matches"] == {}
    said = ending(preparing(done["path"], tmp_path), 2, capsys)
    assert "that run kept no picture" in said
    face = ["forget", "--face", str(album / ODD / "her 0.png"), "--store", f"{tmp_path}/store"]
    assert main([*face, "--yes"]) == 0
    assert "Nothing of them is in the store" in capsys.readouterr().out


def test_one_face_alone_is_nobody_unless_one_photograph_makes_a_person(album, tmp_path, capsys):
    (tmp_path / "album").mkdir()
    shutil.copy(album / "other/a.png", tmp_path / "album")
    command = words(tmp_path / "album", tmp_path / "store")
    done = ending(command, 0, capsys)
    assert [row["identity"] for row in decided(done["path"])] == [""]
    said = ending(preparing(done["path"], tmp_path, "--people", "identity"), 2, capsys)
    assert "1 photographs are of nobody. Curate it with --people.min-photos 1" in said
    done = ending([*command, "--people.min-photos", "1"], 0, capsys)
    made = ending(["pairs", done["path"], "--out", f"{tmp_path}/pairs"], 0, capsys)
    assert (made["matches"], made["identities"]) == ({}, 0), "of its identity it is not sure"
    told = ending(preparing(done["path"], tmp_path, "--people", "identity"), 0, capsys)
    assert (told["samples"], told["people"]) == (1, 1)


def test_a_label_may_hold_any_letters_and_goes_with_its_person(curated, album, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(curated, store)
    run = run_of(store)
    ending(preparing(run, store, "--people", "label"), 0, capsys)
    assert sorted(set(Prepared(store / "features").people)) == sorted([ODD, "other"])
    hers = {row["identity"] for row in decided(run) if row["label"] == ODD} - {""}
    photo = str(album / ODD / "her 0.png")
    old = store / "mlartifacts/0/artifacts/report.html"  # of an earlier end of the run
    old.parent.mkdir(parents=True)
    shutil.copy(run / "report.html", old)
    told = ending(["forget", "--face", photo, "--store", str(store), "--yes"], 0, capsys)
    assert told["rows"] == 3
    assert told["features"] == {str(store / "features"): 3}
    assert Prepared(store / "features").people == ["other"]
    assert not old.exists()
    spelled = [ODD, json.dumps(ODD)[1:-1], repr(ODD)[1:-1], *hers]
    for path in store.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".parquet":
            data += repr(pq.read_table(path, partitioning=None).to_pylist()).encode()
        assert not any(word.encode() in data for word in spelled), path


def test_a_store_that_is_half_written_is_refused_until_it_is_whole(
    curated, album, tmp_path, capsys, monkeypatch
):
    store = tmp_path / "store"
    run = altered(curated, store, lambda _: {})
    command = words(album, store, "--people.labels", "use")
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.export.write_part", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            main(command)
    for verb in (["pairs", str(run), "--out", f"{tmp_path}/pairs"], preparing(run, tmp_path)):
        assert "its export is not finished" in ending(verb, 2, capsys)
    assert not (tmp_path / "pairs/pairs.json").exists()
    done = ending(command, 0, capsys)
    assert done["keep"] == 4
    cut = next(run.glob("export/parquet/part-*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-40])
    for verb in (["pairs", str(run), "--out", f"{tmp_path}/pairs"], preparing(run, tmp_path)):
        said = ending(verb, 2, capsys)
        assert "is cut short or no Parquet file" in said
        assert cut.name in said
