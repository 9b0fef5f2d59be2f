import csv
import struct
import time

import numpy as np
import pytest
from PIL import Image

from infra.errors import UnreadableSource
from pipelines.quickstart import pages as sample_pages
from pipelines.quickstart.pages import pages, pictures
from pipelines.quickstart.web import SampleWeb
from stages.decode import Decode
from stages.hashes import pdq
from stages.web.canonical import canonical_url
from stages.web.fetch import Fetch
from stages.web.settings import FetchSettings

CAP = 4 * 2**20
FACES = {
    "portrait.jpg", "head.jpg", "cards.jpg", "cards-close.jpg", "lace.jpg", "shirt.jpg",
    "shirt-close.jpg", "laugh.jpg", "standing.jpg", "blonde.png", "actor.webp", "pair.jpg",
    "moved.jpg",
}  # fmt: skip
TRAPS = {
    "truncated.jpg": "broken_image",
    "page.jpg": "wrong_type",
    "gone.jpg": "http_4xx",
    "broken.jpg": "http_5xx",
    "empty.jpg": "empty",
    "slow.jpg": "timeout",
    "endless.jpg": "too_large",
    "bomb.png": "too_many_pixels",
    "metadata.jpg": "forbidden_address",
    "circle.jpg": "too_many_redirects",
    "passwd": "forbidden_scheme",
    "x.jpg": "forbidden_address",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The table's rows, each with what fetching and decoding it gave."""
    path = tmp_path_factory.mktemp("web") / "table.csv"
    with SampleWeb() as web:
        written = web.write_table(path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == written
        fetch = Fetch(FetchSettings(attempts=1, deadline_s=0.5, max_bytes=CAP, allow_loopback=True))
        fetched = fetch({"url": [row["URL"] for row in rows]})
        fetch.close()
    decode = Decode()
    for i, row in enumerate(rows):
        row |= {name: column[i] for name, column in fetched.items()}
        if row["blob"] is not None:
            row |= {name: column[0] for name, column in decode({"blob": [row["blob"]]}).items()}
    return rows


@pytest.fixture(scope="module")
def by_path(table):
    """The rows by the end of their URL, without the repeated one."""
    return {row["URL"].split("/", 3)[-1].removeprefix("etc/"): row for row in table}


def bits(a, b):
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def test_the_table_has_the_columns_of_laion(table):
    assert list(table[0])[:5] == ["URL", "TEXT", "WIDTH", "HEIGHT", "LICENSE"]
    assert table[0]["label"] == "astronaut"
    assert 35 <= len(table) <= 50
    assert all(row["TEXT"] for row in table)


def test_each_trap_ends_as_its_own_error(by_path):
    assert {path: row["error"] for path, row in by_path.items() if row["error"]} == TRAPS


def test_everything_else_is_a_picture_as_large_as_promised(table):
    for row in table:
        if row["error"] == "" and not row["URL"].endswith("thumb.jpg"):
            promised = (int(row["WIDTH"]), int(row["HEIGHT"]))
            assert (row["width_px"], row["height_px"]) == promised, row["URL"]


def test_every_picture_states_its_licence(table):
    for row in table:
        assert row["error"] or "domain" in row["LICENSE"] or row["LICENSE"][:3] in ("CC0", "MIT")


def test_every_face_to_keep_and_every_copy_says_whose_it_is(by_path):
    named = {path for path, row in by_path.items() if row["label"] and "#" not in path}
    assert named == FACES | {path for path in by_path if path.startswith("copies/")}
    assert len({by_path[path]["label"] for path in named}) == 8


def test_one_url_stands_twice_in_two_spellings(table):
    urls = [row["URL"] for row in table]
    assert len(set(urls)) == len(urls)
    assert len({canonical_url(url) for url in urls}) == len(urls) - 1


def test_the_faces_to_keep_are_large_enough_and_no_two_alike(by_path):
    kept = [row for path, row in by_path.items() if path in FACES]
    assert len(kept) == 13
    assert min(min(row["width_px"], row["height_px"]) for row in kept) >= 256
    hashes = [pdq(row["pixels"]) for row in kept]
    for i, (plain, _, quality) in enumerate(hashes):
        assert quality >= 50
        assert all(bits(plain, other[k]) > 62 for other in hashes[:i] for k in (0, 1))


@pytest.mark.parametrize(
    ("copy", "original"),
    [("smaller.jpg", "portrait.jpg"), ("laugh.jpg", "laugh.jpg"), ("mirrored.jpg", "shirt.jpg")],
)
def test_copies_differ_in_bytes_and_hardly_in_looks(by_path, copy, original):
    copy, original = by_path[f"copies/{copy}"], by_path[original]
    assert copy["blob"] != original["blob"]
    assert min(bits(pdq(copy["pixels"])[0], h) for h in pdq(original["pixels"])[:2]) <= 31


def test_one_copy_has_the_same_bytes(by_path):
    assert by_path["copies/portrait.jpg"]["blob"] == by_path["portrait.jpg"]["blob"]


def test_some_pictures_give_a_reason_to_reject_them(by_path):
    assert np.mean(by_path["dark.jpg"]["pixels"]) < 0.3 * np.mean(by_path["blonde.png"]["pixels"])
    blurred, sharp = (by_path[path]["pixels"].astype(float) for path in ("soft.jpg", "cards.jpg"))
    assert np.diff(blurred, axis=0).var() < 0.3 * np.diff(sharp, axis=0).var()
    assert by_path["thumb.jpg"]["width_px"] < 200 < int(by_path["thumb.jpg"]["WIDTH"])
    assert int(by_path["icon.jpg"]["WIDTH"]) < 64


def test_the_bomb_is_small_until_it_is_opened(by_path):
    blob = by_path["bomb.png"]["blob"]
    assert len(blob) < 50_000
    assert struct.unpack(">II", blob[16:24]) == (13_000, 13_000)


def test_the_pages_are_the_same_in_every_run():
    assert pages() == pages()


def test_the_port_can_be_chosen_so_that_the_urls_come_again():
    with SampleWeb() as first:
        port = first.port
    with SampleWeb(port) as second:
        assert second.url == first.url == f"http://127.0.0.1:{port}"


def test_the_web_closes_at_once_although_someone_still_waits():
    with SampleWeb() as web:
        fetch = Fetch(FetchSettings(attempts=1, deadline_s=0.3, allow_loopback=True))
        assert fetch({"url": [f"{web.url}/slow.jpg"]})["error"] == ["timeout"]
        assert fetch({"url": [f"{web.url}/no/such/page"]})["error"] == ["http_4xx"]
        fetch.close()
        start = time.perf_counter()
    assert time.perf_counter() - start < 2


def test_the_photographs_lie_where_pip_put_them():
    sizes = {name: Image.open(path).size for name, path in pictures().items()}
    assert (sizes["astronaut"], sizes["group"]) == ((512, 512), (1280, 886))


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sample_pages._PHOTOGRAPHS, "none", ("no_such_package", "a.jpg", "CC0"))
    with pytest.raises(UnreadableSource, match=r"no_such_package.*pip install 'visage\[data\]'"):
        pictures()
