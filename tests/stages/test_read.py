import io
import tarfile

import pytest
from pyarrow import fs

from stages.read import Read, _Folder, _Unread
from stages.types import Stage

FILES = {"a.jpg": b"first", "deep/b.jpg": b"second", "empty.jpg": b"", "large.jpg": bytes(1001)}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    for name, body in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    (tmp_path / "pictures-of-others").mkdir()
    (tmp_path / "pictures-of-others" / "secret.jpg").write_bytes(b"secret")
    return root


@pytest.fixture
def tar(tmp_path):
    """A tar, and where in it each file lies."""
    path = tmp_path / "pictures.tar"
    with tarfile.open(path, "w") as out:
        for name, body in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    with tarfile.open(path) as written:
        return path, {m.name: (m.offset_data, m.size) for m in written.getmembers()}


def rows(*places):
    return dict(zip(Read.reads, zip(*places, strict=True), strict=True))


def outcome(*place, max_bytes=1000):
    out = Read(max_bytes)(rows(place))
    assert (out["blob"][0] is None) == (out["error"][0] != "") == (out["error_detail"][0] != "")
    return out["blob"][0], out["error"][0], out["error_detail"][0]


def test_files_of_a_folder_are_read(folder):
    out = Read()(rows((str(folder), "a.jpg", 0, 5), (str(folder), "deep/b.jpg", 0, 6)))
    assert out == {"blob": [b"first", b"second"], "error": ["", ""], "error_detail": ["", ""]}


def test_the_stage_writes_what_it_declares(folder):
    assert isinstance(Read(), Stage)
    assert tuple(Read()(rows((str(folder), "a.jpg", 0, 5)))) == Read.writes
    assert Read()({name: [] for name in Read.reads}) == {name: [] for name in Read.writes}


def test_a_folder_may_be_given_as_a_uri(folder):
    assert outcome(folder.as_uri(), "a.jpg", 0, 5)[0] == b"first"


def test_stretches_of_a_tar_are_read(tar):
    path, places = tar
    for name in ("deep/b.jpg", "a.jpg"):
        assert outcome(str(path), name, *places[name])[0] == FILES[name]
    assert outcome(path.as_uri(), "a.jpg", *places["a.jpg"])[0] == b"first"


def test_a_tar_is_opened_once(tar):
    path, places = tar
    read = Read()
    read(rows((str(path), "a.jpg", *places["a.jpg"])))
    path.unlink()  # an open file outlives its name
    assert read(rows((str(path), "a.jpg", *places["a.jpg"])))["blob"] == [b"first"]


def test_a_file_that_is_gone_is_missing(folder):
    blob, error, detail = outcome(str(folder), "gone.jpg", 0, 5)
    assert (blob, error) == (None, "missing_file")
    assert "gone.jpg" in detail


def test_a_file_that_shrank_is_missing(folder):
    assert outcome(str(folder), "a.jpg", 0, 6)[1:] == ("missing_file", "5 bytes are left of 6")


def test_a_file_without_a_listed_length_is_read_whole(folder):
    assert outcome(str(folder), "a.jpg", 0, None)[0] == b"first"


def test_a_tar_that_was_cut_is_missing_its_end(tar):
    path, places = tar
    offset, length = places["deep/b.jpg"]
    path.write_bytes(path.read_bytes()[: offset + 2])
    error, detail = outcome(str(path), "deep/b.jpg", offset, length)[1:]
    assert (error, detail) == ("missing_file", f"2 bytes are left of 6 from byte {offset}")


@pytest.mark.parametrize(
    "source", ["/nowhere/at/all", "nowhere", "nothing://x", "s3://", "file:///no"]
)
def test_a_source_that_is_gone_is_missing(source):
    assert outcome(source, "a.jpg", 0, 5)[:2] == (None, "missing_file")


@pytest.mark.parametrize(
    "member",
    ["../pictures-of-others/secret.jpg", "/etc/passwd", "deep/../../x", "", ".", "link.jpg"],
)
def test_no_member_leads_out_of_its_folder(folder, member):
    (folder / "link.jpg").symlink_to(folder.parent / "pictures-of-others" / "secret.jpg")
    blob, error, detail = outcome(str(folder), member, 0, 1)
    assert (blob, error) == (None, "missing_file")
    assert "leads out of the folder" in detail


def test_zero_bytes_are_empty(folder, tar):
    path, places = tar
    assert outcome(str(folder), "empty.jpg", 0, 0)[1] == "empty"
    assert outcome(str(path), "empty.jpg", *places["empty.jpg"])[1] == "empty"


def test_what_is_too_large_is_not_read(folder, tar):
    path, places = tar
    wanted = (None, "too_large", "1001 bytes, 1000 allowed")
    assert outcome(str(folder), "large.jpg", 0, 1001) == wanted
    assert outcome(str(path), "large.jpg", *places["large.jpg"]) == wanted
    assert outcome(str(folder), "large.jpg", 0, 1001, max_bytes=1001)[0] == bytes(1001)


def test_one_bad_row_leaves_the_others_alone(folder):
    out = Read()(rows((str(folder), "gone.jpg", 0, 5), (str(folder), "a.jpg", 0, 5)))
    assert out["error"] == ["missing_file", ""]
    assert out["blob"] == [None, b"first"]


def test_outside_of_the_local_disk_dots_lead_nowhere_either(folder):
    bucket = fs.SubTreeFileSystem(str(folder.parent), fs.LocalFileSystem())
    pictures = _Folder(bucket, "pictures")
    assert pictures.read("deep/../a.jpg", 0, 5, max_bytes=10) == b"first"
    for member in ("../pictures-of-others/secret.jpg", "/etc/passwd", ""):
        with pytest.raises(_Unread, match="leads out of the folder"):
            pictures.read(member, 0, 1, max_bytes=10)
