from dataclasses import replace
from io import StringIO

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from infra.storage import open_folder
from pipelines.progress import Reporter
from pipelines.recipes import Source, faceid_6m, photos
from pipelines.seed import seed, seed_rows
from pipelines.sources import list_source
from stages.columns import SEED, schema

TABLE = """\
URL,TEXT,WIDTH,HEIGHT,LICENSE
http://h/man.jpg,a man with a hat,800,600,CC0
HTTP://H:80/man.jpg#top,a man with a hat,800,600,CC0
http://h/cup.jpg,a cup of coffee,800,600,
http://h/tiny.jpg,a man with a hat,800,90,
not a url,a man,800,600,
,a man,800,600,
http://h/unknown.jpg,two women,,,
"""


def rows(tmp_path, recipe=None, table=TABLE):
    (tmp_path / "t.csv").write_text(table)
    recipe = recipe or faceid_6m()
    recipe = replace(recipe, source=Source(path=str(tmp_path / "t.csv"), license="mine"))
    return list(seed_rows(list_source(recipe.source), recipe))


def test_every_line_of_the_table_is_a_row_with_its_verdict(tmp_path):
    found = rows(tmp_path)
    assert [(r["source_row"], r["status"], r["rejected_by"] or r["error"]) for r in found] == [
        (0, "keep", ""),
        (1, "reject", "duplicate_url"),
        (2, "reject", "no_human_term"),
        (3, "reject", "declared_small"),
        (4, "error", "bad_url"),
        (5, "error", "bad_url"),
        (6, "keep", ""),
    ]


def test_ids_are_unique_and_last(tmp_path):
    first, second = rows(tmp_path), rows(tmp_path)
    assert len({r["id"] for r in first}) == len(first)
    assert [r["id"] for r in first] == [r["id"] for r in second]
    assert first[1]["dup_of"] == first[0]["id"]


def test_a_picture_keeps_its_id_when_the_table_around_it_changes(tmp_path):
    longer = "URL,TEXT\nhttp://h/new.jpg,a man\nhttp://h/man.jpg,a man with a hat\n"
    assert rows(tmp_path, table=longer)[1]["id"] == rows(tmp_path)[0]["id"]


def test_the_licence_of_the_table_goes_before_the_recipes(tmp_path):
    assert [r["license"] for r in rows(tmp_path)[:3]] == ["CC0", "CC0", "mine"]


def test_captions_are_not_asked_where_the_recipe_wants_no_terms(tmp_path):
    assert "no_human_term" not in {r["rejected_by"] for r in rows(tmp_path, photos())}


def test_pictures_of_a_folder_can_be_labelled_by_it(tmp_path):
    (tmp_path / "p/Ann").mkdir(parents=True)
    (tmp_path / "p/Ann/1.jpg").write_bytes(b"x")
    recipe = replace(photos(), source=Source(path=str(tmp_path / "p"), folders_are_people=True))
    (row,) = seed_rows(list_source(recipe.source), recipe)
    assert (row["label"], row["member"], row["url"], row["length"]) == ("Ann", "Ann/1.jpg", "", 1)


@pytest.fixture
def written(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)

    def write(recipe):
        recipe = replace(recipe, source=Source(path=str(tmp_path / "t.csv")))
        target = open_folder(str(tmp_path / "out"))
        said = seed(list_source(recipe.source), recipe, target, Reporter(Console(file=StringIO())))
        return said, pq.read_table(tmp_path / "out")

    return write


def test_the_rows_are_written_with_their_declared_types(written):
    _, table = written(faceid_6m())
    assert table.num_rows == 7
    assert table.schema.equals(schema(SEED))


def test_the_digest_changes_only_when_a_row_does(written):
    base = faceid_6m()
    same, _ = written(replace(base, keep=replace(base.keep, max_faces=2)))
    looser, _ = written(replace(base, keep=replace(base.keep, min_side_px=500)))
    stricter, _ = written(replace(base, keep=replace(base.keep, min_side_px=601)))
    assert written(base)[0] == same == looser
    assert stricter != same
