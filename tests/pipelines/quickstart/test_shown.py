"""What the quickstart prints to be typed, and what it is typed about."""

import ast
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.quickstart.shown import ANOTHER, PERSON, lines, photos


@pytest.fixture
def corpus(tmp_path):
    """An export of four rows: which copy of a photograph was kept is up to chance."""
    folder = tmp_path / "run/export/parquet"
    folder.mkdir(parents=True)
    rows = [
        {"label": PERSON, "width_px": 288, "blob": b"close"},
        {"label": ANOTHER, "width_px": 288, "blob": b"another"},
        {"label": "", "width_px": 900, "blob": b"nobody"},
        {"label": PERSON, "width_px": 400, "blob": b"portrait"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
    return tmp_path / "run"


def test_three_photographs_of_two_people_are_written_out(corpus, tmp_path):
    made = photos(str(corpus), tmp_path)
    assert [path.read_bytes() for path in (made.person, made.again, made.another)] == [
        b"portrait", b"close", b"another",
    ]  # fmt: skip
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".jpg"}


def test_the_lines_name_files_as_one_would_type_them_here(corpus, tmp_path, monkeypatch):
    home = tmp_path / "my first"
    home.mkdir()
    made = photos(str(corpus), home)
    monkeypatch.chdir(tmp_path)
    verify, draw = (shlex.split(line) for line in lines("", "http://here:1", made).curl)
    assert verify[-1] == f"image_b=@my first/{PERSON}-again.jpg"
    assert f"identity=@my first/{PERSON}.jpg" in draw
    assert draw[-1] == "my first/again.png"
    monkeypatch.chdir(home / "..")
    assert lines("", "http://here:1", made).curl[0].count(str(tmp_path)) == 0
    monkeypatch.chdir("/")
    code = lines("", "http://here:1", made).python
    assert f"{home}/again.png".removeprefix("/") in code
    ast.parse(code)
