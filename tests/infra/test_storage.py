import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import BadValue, UnwritableStore
from infra.storage import count_rows, open_folder, open_store


def test_what_is_written_is_read(tmp_path):
    folder = open_folder(str(tmp_path / "new")).make()
    folder.write("deep/name.txt", "grüß")
    assert folder.read("deep/name.txt").decode() == "grüß"
    assert folder.files(".txt") == [str(tmp_path / "new/deep/name.txt")]
    assert [f.name for f in folder.folders()] == ["deep"]


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    folder = open_folder(str(tmp_path))
    folder.write_json("a.json", {"n": 1})
    folder.write_json("a.json", {"n": 2})
    assert folder.read_json("a.json") == {"n": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_is_not_there_is_none_or_nothing(tmp_path):
    folder = open_folder(str(tmp_path / "none"))
    assert folder.read_json("a.json") is None
    assert folder.files() == []
    assert list(folder.folders()) == []
    assert count_rows(folder) == 0
    folder.clear()


def test_clearing_removes_everything_below(tmp_path):
    folder = open_folder(str(tmp_path / "x"))
    folder.write("a/b.txt", "")
    folder.clear()
    assert not folder.exists()


def test_rows_are_counted_over_all_files(tmp_path):
    folder = open_folder(str(tmp_path))
    folder.write_table("a.parquet", pa.table({"x": [1, 2]}))
    folder.write_table("deep/b.parquet", pa.table({"x": [3]}))
    assert count_rows(folder) == 3
    assert pq.read_table(tmp_path / "a.parquet")["x"].to_pylist() == [1, 2]


def test_a_file_cut_short_by_a_crash_counts_as_nothing(tmp_path):
    folder = open_folder(str(tmp_path))
    folder.write_table("a.parquet", pa.table({"x": [1, 2]}))
    folder.write("b.parquet", folder.read("a.parquet")[:-20])
    assert count_rows(folder, after_crash=True) == 2
    with pytest.raises(pa.ArrowInvalid):
        count_rows(folder)


def test_a_store_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableStore, match="Give another one with --store"):
        open_store(str(tmp_path / "file/store"))


def test_a_path_with_a_secret_is_refused_without_repeating_it():
    with pytest.raises(BadValue, match="keep keys out of paths") as refused:
        open_folder("s3://key:secret@bucket/corpus")
    assert "secret" not in str(refused.value)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(BadValue, match="use a local path or s3://"):
        open_folder("nfs://somewhere/x")


def test_an_endpoint_that_cannot_work_is_told_of_before_it_is_asked(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(BadValue, match="AWS_ENDPOINT_URL cannot be 'minio:9000': give a URL"):
        open_folder("s3://visage/store")
