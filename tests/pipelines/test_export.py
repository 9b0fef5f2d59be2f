import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.storage import open_folder
from pipelines.export import Part, webdataset_tar, with_captions, with_people, write_part
from pipelines.recipes import ExportSettings
from stages.captions.stage import CAPTIONED
from stages.columns import COLUMNS, schema


def picture(side, colour):
    packed = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(packed, "JPEG")
    return packed.getvalue()


def row(name, faces=1):
    return dict.fromkeys(n for n, c in COLUMNS.items() if not c.in_memory_only) | {
        "id": name,
        "url": f"http://h/{name}.jpg",
        "caption": f"a man called {name} - ü",
        "license": "CC0",
        "blob": picture(100, "red"),
        "mime": "image/jpeg",
        "width_px": 100,
        "height_px": 100,
        "pdq": bytes(32),
        "num_faces": faces,
        "face_boxes_px": [[10.0, 20.0, 60.0, 80.0]] * faces,
        "face_landmarks_px": [[30.0, 40, 50, 40, 40, 50, 32, 60, 48, 60]] * faces,
        "face_embeddings": [[0.5] * 4] * faces,
        "embedder": "test@0",
    }


PEOPLE = ["identity", "identity_score", "identity_name"]
INGESTED = [
    n for n, c in COLUMNS.items() if not c.in_memory_only and n not in (*PEOPLE, *CAPTIONED)
]
ROWS = pa.Table.from_pylist([row("c"), row("a"), row("b", 0), row("z")]).select(INGESTED)
ROWS = ROWS.cast(schema(INGESTED))
MAINS = pa.Table.from_pylist(
    [
        {"id": "c", "identity": "f" * 32, "identity_score": 0.5, "identity_name": "Ada Byron"},
        {"id": "a", "identity": "", "identity_score": 0.0, "identity_name": ""},
    ]
)
KEPT = with_people(pa.chunked_array([["a", "b", "c"]]), MAINS)


@pytest.fixture
def exported(tmp_path):
    home = open_folder(str(tmp_path))
    (home / "in").write_table("x.parquet", ROWS)
    part = Part("part-00000", (f"{home.path}/in/x.parquet",), 3)
    assert write_part(part, home / "in", KEPT, home / "out", ExportSettings(), "arcface5") == 3
    return home / "out"


def test_parquet_holds_the_kept_rows_whole_and_sorted(exported):
    table = pa.parquet.read_table(exported.files(".parquet")[0])
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert Image.open(io.BytesIO(table["blob"][0].as_py())).size == (100, 100)
    assert not {"status", "timings", "rejected_by"} & set(table.column_names)


def test_every_row_says_whose_its_main_face_is(exported):
    table = pa.parquet.read_table(exported.files(".parquet")[0])
    assert table["identity"].to_pylist() == ["", "", "f" * 32]
    assert table["identity_score"].to_pylist() == [0, None, 0.5]
    assert table["identity_name"].to_pylist() == ["", "", "Ada Byron"]
    lines = exported.read("instantid/captions/part-00000.jsonl").splitlines()
    assert [json.loads(line)["identity"] for line in lines] == ["", "f" * 32]


def test_a_line_of_captions_has_what_instantids_trainer_reads(exported):
    lines = [
        json.loads(x) for x in exported.read("instantid/captions/part-00000.jsonl").splitlines()
    ]
    assert [line["index"] for line in lines] == [0, 2], "a picture without a face has no place here"
    first = lines[0]
    assert first["additional_feature"] == first["caption"] == "a man called a - ü"
    assert (first["bbox"], np.shape(first["landmarks"])) == ([10, 20, 60, 80], (5, 2))
    with Image.open(f"{exported.path}/instantid/{first['face_file']}") as face:
        assert face.size == (50, 60)
    vector = np.load(f"{exported.path}/instantid/{first['insightface_feature_file']}")
    assert vector.tolist() == [0.5] * 4


def test_the_same_rows_give_the_same_tar(exported):
    records = ROWS.to_pylist()
    assert webdataset_tar(records) == webdataset_tar(records)
    assert exported.files(".tar") == [f"{exported.path}/webdataset/part-00000.tar"]


def test_webdataset_reads_the_tar(exported):
    import webdataset

    samples = list(webdataset.WebDataset(exported.files(".tar")[0], shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["a", "b", "c"]
    assert samples[0]["txt"].decode() == "a man called a - ü"
    assert json.loads(samples[0]["json"])["num_faces"] == 1
    assert np.load(io.BytesIO(samples[0]["npy"])).shape == (1, 4)


def said(name):
    made = dict.fromkeys(CAPTIONED) | {
        "id": name, "caption_merged": f"A person, {name}.", "caption_attributes": f"Hair, {name}.",
        "caption_action": "They sit.", "caption_source": "http", "caption_model": "tiny-vlm",
        "caption_prompt": "picture@0123456789ab", "caption_parts": {"eyes": "brown"},
    }  # fmt: skip
    return made


@pytest.fixture
def captioned(tmp_path):
    """An export after a captions job, whose rows lie in two files and another order."""
    home = open_folder(str(tmp_path))
    (home / "in").write_table("x.parquet", ROWS)
    for number, names in enumerate((["z", "b"], ["c", "a"])):
        told = pa.Table.from_pylist([said(n) for n in names], schema=schema(["id", *CAPTIONED]))
        (home / "told").write_table(f"status=keep/{number}.parquet", told)
    part = Part("part-00000", (f"{home.path}/in/x.parquet",), 3)
    kept = with_captions(KEPT, home / "told")
    write_part(part, home / "in", kept, home / "out", ExportSettings(), "arcface5")
    return home / "out"


def test_every_layout_tells_the_caption_that_was_made_its_halves_and_who_made_it(captioned):
    import webdataset

    table = pa.parquet.read_table(captioned.files(".parquet")[0])
    assert table["caption_merged"].to_pylist() == [f"A person, {n}." for n in "abc"]
    assert table["caption"][0].as_py() == "a man called a - ü", "what the page said stays"
    samples = list(webdataset.WebDataset(captioned.files(".tar")[0], shardshuffle=False))
    assert [s["txt"].decode() for s in samples] == [f"A person, {n}." for n in "abc"]
    beside = json.loads(samples[0]["json"])
    lines = captioned.read("instantid/captions/part-00000.jsonl").splitlines()
    line = json.loads(lines[0])
    assert line["caption"] == line["additional_feature"] == "A person, a."
    for told in (beside, line):
        assert told["caption_attributes"] == "Hair, a."
        assert (told["caption_action"], told["caption_source"]) == ("They sit.", "http")
        assert told["caption_prompt"] == "picture@0123456789ab"
        assert (told["caption_model"], told["caption_parts"]["eyes"]) == ("tiny-vlm", "brown")


def test_without_a_captions_job_no_layout_speaks_of_one(exported):
    table = pa.parquet.read_table(exported.files(".parquet")[0])
    assert not set(CAPTIONED) & set(table.column_names)
    line = json.loads(exported.read("instantid/captions/part-00000.jsonl").splitlines()[0])
    assert not [name for name in line if name.startswith("caption_")]


def test_a_kept_row_that_the_captions_job_has_not_seen_keeps_the_pages_text(tmp_path):
    home = open_folder(str(tmp_path))
    (home / "in").write_table("x.parquet", ROWS)
    kept = with_captions(KEPT, home / "nothing")
    part = Part("part-00000", (f"{home.path}/in/x.parquet",), 3)
    write_part(part, home / "in", kept, home / "out", ExportSettings(), "arcface5")
    line = json.loads((home / "out").read("instantid/captions/part-00000.jsonl").splitlines()[0])
    assert line["caption"] == "a man called a - ü"
    assert line["caption_attributes"] is None
