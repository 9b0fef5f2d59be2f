"""Reading judged rows, writing decisions, embeddings on the way; no Ray."""

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import BadValue
from infra.storage import open_folder
from pipelines.dedupe import dedupe, read
from stages.columns import DECISIONS, schema
from stages.copies.keepers import COMPARED
from stages.copies.settings import DedupeSettings

RNG = np.random.default_rng(0)
READ = list(dict.fromkeys([*DECISIONS, *COMPARED, "face_embeddings"]))


def judged_rows(number):
    """Make rows of which every third was rejected and every third repeats the one before."""
    made = []
    for i in range(number):
        row = dict.fromkeys(READ)
        row |= {
            "id": f"{i:032x}", "status": "keep", "rejected_by": "", "dup_of": "", "dup_kind": "",
            "sha256": f"{i:064x}", "pdq": RNG.bytes(32), "pdq_mirror": RNG.bytes(32),
            "pdq_quality": 99, "width_px": 10, "height_px": 10, "face_sharpness": [1.0],
            "bytes_len": 9, "face_embeddings": [RNG.normal(size=8).tolist()],
        }  # fmt: skip
        if i % 3 == 1:
            row["sha256"] = made[-1]["sha256"]
        if i % 3 == 2:
            row |= {"status": "reject", "rejected_by": "no_face", "face_embeddings": []}
        made.append(row)
    return made


def store(made, folder, rows_per_file):
    for start in range(0, max(len(made), 1), rows_per_file):
        part = pa.Table.from_pylist(made[start : start + rows_per_file], schema=schema(READ))
        folder.write_table(f"part-{start:05d}.parquet", part)
    return folder


@pytest.fixture
def place(tmp_path):
    return open_folder(str(tmp_path)).make()


def test_every_row_ends_as_one_decision_and_copies_say_of_what(place):
    made = judged_rows(30)
    judged = store(made, (place / "judged").make(), 30)
    dedupe(judged, DedupeSettings(), place / "decisions")
    decided = read(place / "decisions", DECISIONS)
    assert decided["id"].to_pylist() == [row["id"] for row in made]
    assert decided["status"].to_pylist() == ["keep", "reject", "reject"] * 10
    assert decided["rejected_by"].to_pylist() == ["", "exact_duplicate", "no_face"] * 10
    assert decided["dup_of"].to_pylist()[:3] == ["", made[0]["id"], ""]


def test_the_files_are_the_same_whatever_the_order_and_the_parts(place):
    made = judged_rows(60)
    for i in (0, 3):
        made[i]["face_embeddings"] = [[1.0] * 8]
    settings = DedupeSettings(semantic_column="face_embeddings", max_semantic_pdq_distance=256)
    one = store(made, (place / "a").make(), 60)
    other = store([made[i] for i in RNG.permutation(60)], (place / "b").make(), 7)
    dedupe(one, settings, place / "decisions-a")
    dedupe(other, settings, place / "decisions-b")
    (a,), (b,) = ((place / f"decisions-{x}").files(".parquet") for x in "ab")
    assert place.fs.open_input_file(a).read() == place.fs.open_input_file(b).read()


def test_embeddings_of_another_job_are_read_where_they_are(place):
    made = judged_rows(9)
    for i in (0, 6):
        made[i]["face_embeddings"] = [[2.0] * 8, [5.0] * 8]
    embedded = store(made[::-1], (place / "ingested").make(), 2)
    light = [row | {"face_embeddings": None} for row in made]
    judged = store(light, (place / "judged").make(), 9)
    settings = DedupeSettings(semantic_column="face_embeddings", max_semantic_pdq_distance=256)
    dedupe(judged, settings, place / "decisions", embedded)
    decided = read(place / "decisions", DECISIONS).to_pylist()
    assert decided[6]["rejected_by"] == "semantic_duplicate"
    assert decided[6]["dup_of"] == made[0]["id"]
    # A copy of the bytes leads to it too.
    assert [row["dup_of"] for row in decided[:8:7]] == ["", made[0]["id"]]


@pytest.mark.parametrize(
    ("column", "why"),
    [("picture_embeddings", "no such column"), ("sha256", "column of vectors")],
)
def test_a_column_that_cannot_be_compared_is_refused(place, column, why):
    judged = store(judged_rows(3), (place / "judged").make(), 3)
    with pytest.raises(BadValue, match=why):
        dedupe(judged, DedupeSettings(semantic_column=column), place / "decisions")


def test_vectors_of_two_lengths_are_refused(place):
    made = judged_rows(4)
    made[3]["face_embeddings"] = [[1.0] * 4]
    judged = store(made, (place / "judged").make(), 2)
    with pytest.raises(BadValue, match="of 8 and of 4 numbers"):
        dedupe(judged, DedupeSettings(semantic_column="face_embeddings"), place / "decisions")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("column", ["", "face_embeddings"])
def test_few_rows_are_decided_too(place, number, column):
    judged = (place / "judged").make()
    store(judged_rows(number), judged, 1)
    dedupe(judged, DedupeSettings(semantic_column=column), place / "decisions")
    assert read(place / "decisions", DECISIONS).num_rows == number


def test_a_job_that_wrote_no_file_is_no_rows(place):
    settings = DedupeSettings(semantic_column="face_embeddings")
    dedupe((place / "judged").make(), settings, place / "decisions")
    assert read(place / "decisions", DECISIONS).num_rows == 0


@pytest.mark.parametrize(
    "wrong",
    [{"max_pdq_distance": 257}, {"max_semantic_pdq_distance": -1}, {"min_cosine": 1.01}],
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(BadValue, match=next(iter(wrong))):
        DedupeSettings(**wrong)
