"""Bodies and headers that are too much, garbled, or videos."""

import hashlib

import pytest

from infra.errors import BadValue
from stages.web.fetch import Fetch
from stages.web.settings import FetchSettings
from tests.stages.web.hostile_web import Web, answer, fetching, in_chunks, outcome, row, serving


@pytest.fixture
def site():
    with serving(Web()) as url:
        yield url


@pytest.fixture
def fetch():
    with fetching() as stage:
        yield stage


@pytest.mark.parametrize("path", ["/many-headers", "/long-headers"])
def test_too_many_headers_are_no_answer(fetch, site, path):
    assert outcome(fetch, site + path)[0] == "too_many_headers"


def test_a_silent_server_is_left_after_its_time_for_the_first_byte(site):
    with fetching(first_byte_s=0.2, deadline_s=5.0) as stage:
        assert outcome(stage, f"{site}/silent") == ("first_byte", "no answer within 0.2 s")
        assert outcome(stage, f"{site}/drip-header") == ("first_byte", "no answer within 0.2 s")


@pytest.mark.parametrize("path", ["/chunk-garbage", "/chunk-garbage-later", "/gzip-garbage"])
def test_a_garbled_body_is_named_so_and_not_kept(fetch, site, path):
    got = row(fetch, site + path)
    assert (got["error"], got["blob"], got["attempts"]) == ("bad_http", None, 1)


def test_without_a_contact_nothing_but_loopback_is_asked(site):
    with fetching(contact="") as stage:
        assert outcome(stage, "http://8.8.8.8/")[0] == "forbidden_address"
        assert outcome(stage, f"{site}/picture") == ("", "")


VIDEO = b"\0\0\0\x20ftypisom\0\0\2\0" + bytes(200_000)


def test_a_video_is_streamed_to_disk_under_its_hash(tmp_path):
    more = {"/video": answer(VIDEO), "/cut": answer(VIDEO, Content_Length=10**6)}
    settings = {"types": ("video/mp4",), "max_bytes": 10, "spool": tmp_path}
    with serving(Web(more=more)) as site, fetching(**settings) as stage:
        got = stage({"url": [f"{site}/video", f"{site}/cut", f"{site}/picture"]})
    assert got["error"] == ["", "truncated", "wrong_type"]
    assert got["blob"] == [None] * 3
    (file,) = tmp_path.iterdir()
    assert got["file"] == [str(file), "", ""]
    assert file.read_bytes() == VIDEO
    assert file.name == f"{hashlib.sha256(VIDEO).hexdigest()}.mp4"


def test_a_video_beyond_its_cap_leaves_nothing(tmp_path):
    settings = {"types": ("video/mp4",), "max_video_bytes": 100_000, "spool": tmp_path}
    web = Web(more={"/video": in_chunks(VIDEO)})
    with serving(web) as site, fetching(**settings) as stage:
        assert outcome(stage, f"{site}/video")[0] == "too_large"
    assert list(tmp_path.iterdir()) == []


def test_videos_need_a_folder():
    with pytest.raises(BadValue, match="videos need a spool"):
        Fetch(FetchSettings(types=("video/mp4",)))
