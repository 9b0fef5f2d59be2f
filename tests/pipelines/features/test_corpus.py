"""A corpus is known by what its rows say, not by the sizes of its files."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from infra.errors import UnreadableSource
from infra.storage import open_folder
from pipelines.features.corpus import describe
from pipelines.features.recipes import lfw64
from pipelines.prepare import prepare
from tests.pipelines.corpora import photographs, write_export
from training.features import Features, Prepared

BLANK = {
    "identity": "", "identity_score": 0, "label": "ann", "caption": "one", "license": "CC0",
    "sha256": "0" * 64, "bytes_len": 5, "num_faces": 0, "face_boxes_px": [], "blob": b"12345",
    "face_landmarks_px": [], "width_px": 400, "height_px": 400, "embedder": "dlib@1",
}  # fmt: skip


def export(home, **changes):
    """Write three rows without faces; return the files."""
    rows = [BLANK | {"id": f"{number:04d}"} | changes for number in range(3)]
    write_export(open_folder(str(home)), rows, rows_per_file=2)
    return sorted(Path(home).glob("export/parquet/*.parquet"))


def test_the_same_rows_have_one_digest_wherever_they_lie(tmp_path):
    assert describe(export(tmp_path / "one")) == describe(export(tmp_path / "two"))


@pytest.mark.parametrize(
    "change",
    [{"sha256": "1" * 64}, {"label": "bea"}, {"caption": "two"}, {"bytes_len": 6},
     {"identity": "a" * 32}, {"embedder": "dlib@2"}, {"license": "BSD"}],
)  # fmt: skip
def test_a_corpus_curated_otherwise_has_another_digest_at_equal_sizes(tmp_path, change):
    before, after = export(tmp_path / "one"), export(tmp_path / "two", **change)
    if change.keys() != {"identity"}:
        assert [p.stat().st_size for p in before] == [p.stat().st_size for p in after]
    assert describe(before).digest != describe(after).digest


def test_licences_are_counted_and_missing_ones_said(tmp_path):
    assert describe(export(tmp_path / "one")).licences == {"CC0": 3}
    assert describe(export(tmp_path / "two", license="")).licences == {"not stated": 3}


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_corpus_curated_anew_is_prepared_anew_and_its_features_say_so(
    astronaut, six_people, tmp_path
):
    rows = [
        row | {"label": "ann", "sha256": "0" * 64} for row in photographs(astronaut, six_people)[:2]
    ]
    out = tmp_path / "out"

    def prepared(label):
        store = open_folder(str(tmp_path / "run"))
        corpus = write_export(store, [row | {"label": label} for row in rows])
        prepare(replace(lfw64(), corpus=corpus), str(out), Console(file=StringIO()))
        return Prepared(out)

    first = prepared("ann")
    assert first.people == ["ann", "ann"]
    assert first.features.licences == {"CC0": 2}
    second = prepared("bea")
    assert second.people == ["bea", "bea"]
    assert second.digest != first.digest
    assert second.features.corpus != first.features.corpus
    (shard,) = (out / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UnreadableSource, match=r"shard-00000.*is damaged.*Delete it"):
        prepared("bea")


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_features_made_by_another_recipe_are_others_though_all_else_is_alike(
    astronaut, six_people, tmp_path
):
    rows = photographs(astronaut, six_people)[:2]
    corpus = write_export(open_folder(str(tmp_path / "run")), rows)
    made = []
    for name, most in (("one", 2.0), ("two", 3.0)):
        recipe = replace(lfw64(), corpus=corpus, max_enlarge=most)
        prepare(recipe, str(tmp_path / name), Console(file=StringIO()))
        made.append(Features.read(tmp_path / name))
    assert made[0].preparation != made[1].preparation
    assert replace(made[0], preparation="") == replace(made[1], preparation="")
    assert Prepared(tmp_path / "one").digest != Prepared(tmp_path / "two").digest
