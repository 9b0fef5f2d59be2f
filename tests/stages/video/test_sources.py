import io
import tarfile

import pytest

from stages.video.decode import BadVideo
from stages.video.sources import Stretch, opened

BODY = bytes(range(256)) * 5


def place(**given):
    blank = {"file": "", "blob": None, "source": "", "member": "", "offset": 0, "length": None}
    return blank | given


def read(**given):
    with opened(place(**given)) as file:
        return file.read()


def refusal(**given):
    with pytest.raises(BadVideo) as told:
        read(**given)
    return told.value.error


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(BODY)
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    return tmp_path / "videos"


def test_a_video_is_read_wherever_it_is(folder):
    assert read(file=str(folder / "a.mp4")) == BODY
    assert read(blob=BODY) == BODY
    assert read(source=str(folder), member="a.mp4", length=len(BODY)) == BODY
    assert read(source=folder.as_uri(), member="a.mp4") == BODY


def test_a_stretch_of_a_tar_is_a_file_of_its_own(tmp_path):
    path = tmp_path / "videos.tar"
    with tarfile.open(path, "w") as out:
        for name, body in {"before": b"x" * 999, "a.mp4": BODY, "after": b"y" * 999}.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            out.addfile(member, io.BytesIO(body))
    with tarfile.open(path) as written:
        offset = written.getmember("a.mp4").offset_data
    given = {"source": str(path), "member": "a.mp4", "offset": offset}
    assert read(**given, length=len(BODY)) == BODY
    assert refusal(**given) == "missing_file"
    assert refusal(**given, length=10**6) == "missing_file"
    with opened(place(**given, length=len(BODY))) as file:
        assert isinstance(file, Stretch)
        ours, theirs = [], io.BytesIO(BODY)
        for whence, to, size in [(0, 7, 20), (1, 30, 5), (2, -9, 50), (2, 5, 5), (0, 1000, 999)]:
            ours.append((file.seek(to, whence), file.read(size), file.tell()))
            assert ours[-1] == (theirs.seek(to, whence), theirs.read(size), theirs.tell())


def test_what_is_not_there_is_missing(folder):
    assert refusal(file=str(folder / "gone.mp4")) == "missing_file"
    assert refusal(source=str(folder), member="gone.mp4") == "missing_file"
    assert refusal(source=str(folder / "gone.tar"), member="a.mp4", length=9) == "missing_file"
    assert refusal(source="nowhere://videos", member="a.mp4") == "missing_file"
    assert refusal(source=str(folder), member="a.mp4", length=10**6) == "missing_file"


def test_an_empty_file_is_said_so(folder):
    assert refusal(file=str(folder / "empty.mp4")) == "empty"
    assert refusal(blob=b"") == "empty"


@pytest.mark.parametrize("member", ["../secret.mp4", "/etc/passwd"])
def test_no_member_leads_out_of_its_folder(folder, member):
    assert refusal(source=str(folder), member=member) == "missing_file"
