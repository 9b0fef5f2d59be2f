"""Identities of a run, from rows that are made up; no Ray, no model."""

import json

import numpy as np
import pyarrow as pa
import pytest

from infra.errors import BadInput, BadValue, UnreadableSource
from infra.storage import open_folder
from pipelines.dedupe import read
from pipelines.people import SUMMARY, exported, find_identities, metrics, read_mains
from stages.columns import DECIDED, DECISIONS, schema
from stages.people.settings import PeopleSettings
from tests.stages.people.crowds import POINTS, crowd

COLUMNS = ["id", "label", "caption", "face_embeddings"]


def rows(counts=(3, 4, 1), extra=()):
    """Make kept rows with a face each, a rejected one, and one without a face."""
    _, vectors, people = crowd(people=len(counts), photos=max(counts))
    left = dict(enumerate(counts))
    made = []
    for vector, person in zip(vectors.tolist(), people.tolist(), strict=True):
        if left[person]:
            left[person] -= 1
            made.append({"label": f"p{person}", "caption": "", "face_embeddings": [vector]})
    made.append({"label": "", "caption": "", "face_embeddings": []})
    made += extra
    for number, row in enumerate(made):
        row |= {"id": f"{number:032x}", "status": "keep", "rejected_by": ""}
    made.append(made[0] | {"id": "f" * 32, "status": "reject", "rejected_by": "soft_face"})
    return made


def carry(place, made, settings, parts=1, points=POINTS):
    """Write rows in so many parts, find identities, and return decisions, faces and summary."""
    ingested, decided = place / "ingested", place / "decided"
    for part in range(parts):
        table = pa.Table.from_pylist(
            [{n: row[n] for n in COLUMNS} for row in made[part::parts]], schema=schema(COLUMNS)
        )
        ingested.write_table(f"status=keep/{part}.parquet", table)
    blank = dict.fromkeys(DECISIONS, "") | {"source_row": 0, "num_faces": 1}
    light = [blank | {n: row[n] for n in DECISIONS if n in row} for row in made]
    decided.write_table("part.parquet", pa.Table.from_pylist(light, schema=schema(DECISIONS)))
    benchmark, _ = exported(settings.benchmark)
    find_identities(ingested, decided, settings, points, place / "out", place / "people", benchmark)
    found = {row["id"]: row for row in read(place / "out", DECIDED).to_pylist()}
    return found, read_mains(place / "people").to_pylist(), (place / "people").read_json(SUMMARY)


@pytest.fixture
def place(tmp_path):
    return open_folder(str(tmp_path)).make()


def test_every_row_is_decided_and_the_photos_of_a_person_have_one_identity(place):
    made = rows()
    found, faces, told = carry(place, made, PeopleSettings())
    assert sorted(found) == [row["id"] for row in made]
    people = {}
    for row in made[:-2]:
        people.setdefault(row["label"], set()).add(found[row["id"]]["identity"])
    assert people.pop("p2") == {""}, "one photo alone is of nobody"
    assert all(len(each) == 1 for each in people.values())
    assert len(set.union(*people.values())) == 2
    assert found["f" * 32]["identity"] == ""
    assert [face["reason"] for face in faces if not face["identity"]] == ["lone_face"]
    assert told["identities_by_photos"] == {"3": 1, "4": 1}
    assert told["faces"] == 8
    assert metrics(told)["people.lone_face"] == 1


@pytest.mark.parametrize("labels", ["ignore", "use"])
def test_other_parts_in_another_order_give_the_same_bytes(place, labels):
    made, settings = rows(), PeopleSettings(labels=labels)
    carry(place / "a", made, settings)
    carry(place / "b", made, settings, parts=3)
    for name in ("out/part-00000.parquet", "people/data/part-00000.parquet", "people/summary.json"):
        assert (place / "a").read(name) == (place / "b").read(name)


def test_what_cleaning_labels_did_is_told_step_by_step(place):
    made = rows((5, 5))
    made[0]["label"] = "p0" if made[0]["label"] == "p1" else "p1"
    found, faces, told = carry(place, made, PeopleSettings(labels="use"))
    assert faces[0]["reason"] == "not_the_person"
    assert found[made[0]["id"]]["status"] == "keep", "who is nobody stays, unless asked"
    assert told["label_steps"][0] == {"name": "labelled", "kept": 10, "labels": 2, "changed": 0}
    assert metrics(told)["people.labels.01_labelled.kept"] == 10


def test_strangers_are_rejected_where_that_is_asked_for(place):
    made = rows()
    found, _, _ = carry(place, made, PeopleSettings(reject_strangers=True))
    ended = {row["label"]: found[row["id"]]["rejected_by"] for row in made[:-1]}
    assert ended == {"p0": "", "p1": "", "p2": "nobody", "": "nobody"}
    assert found["f" * 32]["rejected_by"] == "soft_face"


def test_names_recur_with_their_people_only_where_that_is_asked_for(place):
    made = rows((3, 3))
    for row in made[:-2]:
        row["caption"] = f"A photo of {'Mary Stone' if row['label'] == 'p0' else 'John Field'}."
    _, faces, _ = carry(place / "off", made, PeopleSettings())
    assert {face["identity_name"] for face in faces} == {""}
    _, faces, _ = carry(place / "on", made, PeopleSettings(names=True))
    assert {face["identity_name"] for face in faces} == {"Mary Stone", "John Field"}


@pytest.mark.parametrize(
    ("counts", "settings"),
    [((), PeopleSettings()), ((1,), PeopleSettings()), ((9,), PeopleSettings(labels="use")),
     ((1, 1, 1), PeopleSettings(labels="use")), ((3, 3), PeopleSettings(enabled=False))],
    ids=["no faces", "one face", "one person", "one photo each", "switched off"],
)  # fmt: skip
def test_runs_with_little_in_them_are_well_formed(place, counts, settings):
    made = rows(counts) if counts else [
        {"id": "0" * 32, "status": "keep", "rejected_by": "", "label": "", "caption": "",
         "face_embeddings": []}
    ]  # fmt: skip
    found, faces, told = carry(place, made, settings)
    assert len(found) == len(made)
    known = {face["identity"] for face in faces} - {""}
    assert len(known) == (1 if counts == (9,) else 0)
    assert told["identities"] == len(known)


def test_a_vector_that_is_none_makes_a_face_of_nobody(place):
    bad = {"label": "ü\n\0,'", "caption": "", "face_embeddings": [[float("nan")] * 64]}
    made = rows((3, 3), extra=(bad,))
    for labels in ("ignore", "use"):
        found, faces, told = carry(place / labels, made, PeopleSettings(labels=labels))
        assert found[made[7]["id"]]["identity"] == ""
        assert told["reasons"]["bad_embedding"] == 1
        assert sum(face["identity"] != "" for face in faces) == 6
        json.dumps(told, allow_nan=False)


def test_the_people_of_a_benchmark_are_nobody_here(place):
    made = rows((3, 4))
    known = pa.Table.from_pylist([{name: made[0][name] for name in COLUMNS}], schema(COLUMNS))
    (place / "test/export/parquet").write_table("part-00000.parquet", known)
    settings = PeopleSettings(labels="use", benchmark=f"{place}/test")
    _, faces, _ = carry(place / "run", made, settings)
    theirs = {row["id"] for row in made[:-2] if row["label"] == made[0]["label"]}
    reasons = {face["id"]: face["reason"] for face in faces}
    assert {id_ for id_, reason in reasons.items() if reason == "benchmark_person"} == theirs
    (place / "none").make()
    with pytest.raises(UnreadableSource, match=r"--people\.benchmark"):
        exported(f"{place}/none")
    with pytest.raises(BadValue, match=r"people\.labels use"):
        PeopleSettings(benchmark="somewhere")


def test_vectors_of_two_embedders_are_refused(place):
    made = rows((2, 2), extra=({"label": "", "caption": "", "face_embeddings": [[1.0, 2.0]]},))
    with pytest.raises(BadInput, match=r"Curate all of it with one embedder"):
        carry(place, made, PeopleSettings())


def test_only_the_faces_of_kept_rows_are_read(place):
    made = rows((3,))
    made[-1]["face_embeddings"] = [np.zeros(2).tolist()]  # would be refused
    _, faces, _ = carry(place, made, PeopleSettings(), parts=2)
    assert "f" * 32 not in {face["id"] for face in faces}
