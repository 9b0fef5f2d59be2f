"""A second chance for rows whose trouble has passed."""

import json
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from PIL import Image
from rich.console import Console

from infra.errors import BadValue
from pipelines import curate as curating
from pipelines.curate import curate
from pipelines.recipes import FetchSettings, Source, Workers, photos
from tests.stages.web.hostile_web import Web, answer, serving

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


class Moody(Web):
    """Serve some pages, and fail with others while ``ill``."""

    def __init__(self, well, ill):
        super().__init__(more=well)
        self.ill = ill

    def page(self, path):
        if path in self.ill:
            return answer(status=self.ill[path])
        found = super().page(path)
        version = found.partition(b"ETag: ")[2].partition(b"\r\n")[0]
        same = version and f"If-None-Match: {version.decode()}\r\n" in self.asked[-1][1]
        return answer(status=304) if same else found


@pytest.fixture(scope="module")
def faces(astronaut):
    """Four crops of a photograph, each with another look to every hash."""
    with Image.open(astronaut) as image:
        whole = image.convert("RGB")
    boxes = {"a": (60, 0, 400, 340), "b": (100, 0, 340, 240), "c": (20, 10, 440, 430)}
    found = {}
    for name, box in boxes.items():
        out = BytesIO()
        whole.crop(box).resize((400, 400)).save(out, "JPEG", quality=92)
        found[f"/{name}.jpg"] = answer(out.getvalue(), ETag=f'"{name}1"')
    return found


@pytest.fixture(scope="module")
def web(faces):
    return Moody(faces | {"/d.jpg": answer()}, {"/b.jpg": 503, "/c.jpg": 404, "/d.jpg": 500})


@pytest.fixture(scope="module")
def recipe(web, tmp_path_factory):
    """A recipe whose table names every page, on a server that lives as long as the module."""
    urls = tmp_path_factory.mktemp("urls") / "urls.txt"
    with serving(web) as site:
        urls.write_text("".join(f"{site}/{name}.jpg\n" for name in "abcd") + "http:///bad\n")
        base = photos()
        yield replace(
            base,
            source=Source(path=str(urls)),
            fetch=FetchSettings(allow_loopback=True, attempts=1),
            faces=replace(base.faces, detect_px=640),
            workers=Workers(lookers=1, block_rows=2, batch_rows=2),
        )


def run(recipe, store, errors=(), refresh=False):
    out = StringIO()
    console = Console(file=out, width=200)
    result = curate(recipe, str(store), console, retry_errors=errors, refresh=refresh)
    return result, out.getvalue()


WHO = ["identity", "identity_score", "identity_name"]
"""Who somebody is depends on who else is there, so these may differ where other rows do."""


def decisions(result):
    table = pads.dataset(f"{result.path}/decisions").to_table().drop_columns(["identity"])
    return {row["url"][-5:]: row for row in table.to_pylist()}


def fates(result):
    return {name: row["error"] or row["rejected_by"] for name, row in decisions(result).items()}


def ingested(result):
    """Every file of pictures below a run, by its bytes."""
    return {p: p.read_bytes() for p in Path(result.path).glob("ingest/data/**/*.parquet")}


def exported(result):
    return pads.dataset(f"{result.path}/export/parquet").to_table().drop_columns(WHO).to_pylist()


@pytest.fixture(scope="module")
def done(recipe, web, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    """A run with failures; the same after a retry that a crash interrupted."""
    store = tmp_path_factory.mktemp("store")
    first, _ = run(recipe, store)
    before = (fates(first), decisions(first), ingested(first), exported(first))
    web.ill = {"/c.jpg": 404, "/d.jpg": 500}
    web.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curating, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, store, ("http_5xx",))
    asked = [path for path, _ in web.asked]
    second, _ = run(recipe, store)
    return first, before, second, asked, [path for path, _ in web.asked][len(asked) :], store


def interrupted(*_):
    raise KeyboardInterrupt


def test_only_the_rows_of_the_named_errors_are_asked_again(done):
    _, _, _, asked, later, _ = done
    assert sorted(asked) == ["/b.jpg", "/d.jpg", "/robots.txt"]
    assert later == [], "what the interrupted retry brought is not fetched twice"


def test_what_healed_is_kept_and_what_did_not_is_as_before(done):
    first, (before, *_), second, *_ = done
    assert (second.run, second.rows) == (first.run, 5)
    assert before == {
        "a.jpg": "", "b.jpg": "http_5xx", "c.jpg": "http_4xx", "d.jpg": "http_5xx",
        "//bad": "bad_url",
    }  # fmt: skip
    assert fates(second) == before | {"b.jpg": ""}
    assert second.keep == first.keep + 1


def test_all_other_rows_stay_as_they_were(done):
    _, (_, rows, files, exports), second, *_ = done
    assert ingested(second) == files, "no file of the first ingest is touched"
    after = decisions(second)
    assert {name: row for name, row in after.items() if name != "b.jpg"} == {
        name: row for name, row in rows.items() if name != "b.jpg"
    }
    assert after["b.jpg"]["id"] == rows["b.jpg"]["id"]
    assert [row for row in exported(second) if not row["url"].endswith("b.jpg")] == exports


def test_the_record_tells_of_the_retry(done):
    *_, second, _, _, _ = done
    record = json.loads(Path(second.path, "run.json").read_text())
    jobs = [job["job"] for job in record["jobs"]]
    assert jobs == [
        "seed", "ingest", "ingest-retry-1", "keep", "dedupe", "caption", "captioned", "people",
        "export",
    ]  # fmt: skip
    assert (record["error"], record["rows"]) == (
        {"bad_url": 1, "http_4xx": 1, "http_5xx": 1}, 5,
    )  # fmt: skip
    assert not Path(second.path, "retry.json").exists()


def test_the_plain_command_again_does_nothing(done, recipe):
    *_, second, _, _, store = done
    again, said = run(recipe, store)
    assert again == second
    assert "nothing is left to do" in said


def test_nothing_to_try_again_is_said_and_changes_nothing(done, recipe):
    *_, second, _, _, store = done
    again, said = run(recipe, store, ("timeout", "dns"))
    assert again == second
    assert "ended as timeout or dns: nothing to try again" in said


def test_other_thresholds_build_on_the_rows_that_were_brought(done, recipe, web):
    *_, store = done
    web.asked.clear()
    moved, _ = run(replace(recipe, keep=replace(recipe.keep, min_side_px=300)), store)
    assert fates(moved)["b.jpg"] == ""
    assert web.asked == []


@pytest.mark.timeout(200)
def test_a_second_retry_goes_on_from_the_first(done, recipe, web):
    *_, store = done
    web.ill = {}
    web.asked.clear()
    third, _ = run(recipe, store, ("http_4xx", "http_5xx"))
    assert sorted(path for path, _ in web.asked) == ["/c.jpg", "/d.jpg", "/robots.txt"]
    assert fates(third) == {
        "a.jpg": "", "b.jpg": "", "c.jpg": "small_face", "d.jpg": "empty", "//bad": "bad_url",
    }  # fmt: skip
    assert Path(third.path, "ingest-retry-2/view.json").exists()


@pytest.mark.timeout(200)
def test_a_refresh_brings_other_versions_and_leaves_the_same_ones(done, recipe, web, faces):
    *_, store = done
    before, _ = run(recipe, store)
    kept = {row["url"][-5:]: row for row in exported(before)}
    web.pages["/b.jpg"] = faces["/c.jpg"].replace(b'"c1"', b'"b2"')
    web.ill = {"/c.jpg": 410}
    web.asked.clear()
    after, _ = run(recipe, store, refresh=True)
    assert sorted(path for path, _ in web.asked) == ["/a.jpg", "/b.jpg", "/c.jpg", "/robots.txt"]
    assert fates(after) == {
        "a.jpg": "", "b.jpg": "small_face", "c.jpg": "http_4xx", "d.jpg": "empty",
        "//bad": "bad_url",
    }  # fmt: skip
    assert exported(after) == [kept["a.jpg"]]
    assert decisions(after)["b.jpg"]["id"] == decisions(before)["b.jpg"]["id"]


def test_a_run_that_is_not_finished_has_nothing_to_retry(recipe, tmp_path):
    with pytest.raises(BadValue, match="is not finished"):
        run(recipe, tmp_path, ("timeout",))
