"""What a retry does to files; whole runs are in tests/e2e."""

from dataclasses import replace
from io import StringIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from infra.errors import BadValue
from infra.storage import open_store
from pipelines.curate import check_courtesy
from pipelines.recipes import FetchSettings, Source, photos
from pipelines.retry import Again, RetriedRun, begin, chosen, end, retry
from pipelines.sources import list_source
from stages.columns import SEED, schema

ENDS = {"a": "", "b": "timeout", "c": "http_4xx", "d": "timeout", "e": "http_5xx", "f": "dns"}


NAMES = ("id", "error", "http_status", "bytes_len", "etag")
VERSIONED = schema([*NAMES, "last_modified"])


def rows(ends):
    found = [{"id": name, "error": error, "rejected_by": ""} for name, error in ends.items()]
    return pa.Table.from_pylist(found, schema=schema(SEED))


def write(folder, parts):
    """Write rows as Ray does: by status, some to a file."""
    for number, (status, ends) in enumerate(parts):
        folder.write_table(f"status={status}/{number}.parquet", rows(ends).drop(["status"]))


@pytest.fixture
def run(tmp_path):
    """A finished run: three files of ingested rows, two of them of errors."""
    made = RetriedRun(open_store(str(tmp_path)), "photos-1")
    made.do("seed", lambda target: target.write_table(
        "part.parquet", rows(dict.fromkeys(ENDS, ""))), settings={}, inputs=[])  # fmt: skip
    parts = [
        ("keep", {"a": ""}),
        ("error", {"b": "timeout", "c": "http_4xx"}),
        ("error", {"e": "http_5xx", "f": "dns"}),
        ("error", {"d": "timeout"}),
    ]
    made.do("ingest", lambda target: write(target, parts), settings={}, inputs=["s"])
    counts = {"timeout": 2, "http_4xx": 1, "http_5xx": 1, "dns": 1}
    made.folder.write_json("run.json", {"error": counts, "version": "any"})
    return made


def renew(source, target, checkpoint):
    """Refresh: one is the same, one is another, one is gone, one cannot be reached."""
    del checkpoint
    brought = pa.concat_tables(pq.read_table(path) for path in source.files(".parquet"))
    assert dict(zip(*(brought[name].to_pylist() for name in ("id", "etag")), strict=True)) == {
        name: f'"{name}1"' for name in "abde"
    }
    told = {
        "a": ("unchanged", 304, None, ""),
        "b": ("", 200, 5, '"b2"'),
        "d": ("http_4xx", 410, None, ""),
        "e": ("timeout", None, None, ""),
    }
    for status, names in (("keep", "b"), ("error", "ade")):
        found = [dict(zip(NAMES, (name, *told[name]), strict=True)) for name in names]
        target.write_table(f"status={status}/0.parquet", pa.Table.from_pylist(found, VERSIONED))


def heal(source, target, checkpoint):
    """Bring every row as if all went well."""
    del checkpoint
    brought = pa.concat_tables(pq.read_table(path) for path in source.files(".parquet"))
    write(target, [("keep", dict.fromkeys(brought["id"].to_pylist(), ""))])


def again(run, *errors, carry=heal):
    """Carry a whole retry out; return what its job recorded."""
    asked = begin(run, errors, Console(file=StringIO()))
    seeded, ingested = run.jobs[0], run.jobs[1]
    record = run.do(
        asked.job,
        lambda target: retry(run, asked, run.data(seeded), ingested, target, carry),
        settings={"number": asked.number}, inputs=[],
    )  # fmt: skip
    end(run)
    run.folder.write_json("run.json", {"error": ended(run)})
    return record


def ended(run):
    """Count how the run's rows end now, and check that each is there once."""
    tables = [pq.read_table(f, partitioning=None) for f in run.data(run.jobs[1]).files(".parquet")]
    seen = pa.concat_tables(tables)
    assert sorted(seen["id"].to_pylist()) == list("abcdef")
    counted = pc.value_counts(seen["error"]).to_pylist()
    return {item["values"]: item["counts"] for item in counted}


def test_after_a_retry_the_run_has_every_row_once_and_healed_ones_anew(run):
    before = {path: pq.read_table(path) for path in run.data(run.jobs[1]).files(".parquet")}
    record = again(run, "timeout")
    assert (record.rows, record.keep) == (2, 2)
    assert ended(run) == {"": 3, "http_4xx": 1, "http_5xx": 1, "dns": 1}
    assert {path: pq.read_table(path) for path in before} == before, "nothing is overwritten"
    inside = set(run.data(run.jobs[1]).files(".parquet")) & set(before)
    assert len(inside) == 2, "the kept rows and the errors that nobody named stay where they are"


def test_later_jobs_learn_of_a_retry_by_its_output(run):
    ingested = run.jobs[1]
    assert run.ingested(ingested) == [ingested.output]
    record = again(run, "timeout")
    assert run.ingested(ingested) == [ingested.output, record.output]


def test_retries_add_up(run):
    again(run, "timeout")
    again(run, "http_4xx", "dns")
    assert (run.folder / "ingest-retry-2").exists("view.json")
    assert ended(run) == {"": 5, "http_5xx": 1}


def test_an_interrupted_retry_goes_on_and_nothing_else_begins(run):
    def killed(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(run, "timeout", carry=killed)
    assert not run.folder.exists("run.json"), "until then the run is unfinished"
    console = Console(file=StringIO())
    assert begin(run, (), console) == begin(run, ("timeout",), console) == Again(1, ("timeout",))
    with pytest.raises(BadValue, match="is still trying timeout again"):
        begin(run, ("dns",), console)
    assert ended(run)["timeout"] == 2
    again(run, "timeout")
    assert "timeout" not in ended(run)


def test_another_run_that_takes_the_ingest_takes_its_retries(run):
    again(run, "timeout")
    other = RetriedRun(run.store, "photos-2")
    taken = other.do("ingest", lambda _: None, settings={}, inputs=["s"])
    assert taken.reused
    assert other.data(taken).files() == run.data(run.jobs[1]).files()


def test_a_refresh_replaces_what_is_another_version_or_gone(tmp_path):
    run = RetriedRun(open_store(str(tmp_path)), "photos-4")
    names = "abcde"  # of c the server named no version
    run.do("seed", lambda target: target.write_table(
        "part.parquet", rows(dict.fromkeys(names, ""))), settings={}, inputs=[])  # fmt: skip

    def first(target):
        for number, part in enumerate(("ab", "cd", "e")):
            found = [
                {"id": name, "error": "", "etag": "" if name == "c" else f'"{name}1"'}
                for name in part
            ]
            target.write_table(
                f"status=keep/{number}.parquet", pa.Table.from_pylist(found, VERSIONED)
            )

    run.do("ingest", first, settings={}, inputs=[])
    run.folder.write_json("run.json", {"error": {}})
    asked = begin(run, (), Console(file=StringIO()), refresh=True)
    assert asked == Again(1, (), refresh=True)
    retried = run.do(
        asked.job,
        lambda target: retry(
            run, asked, run.data(run.jobs[0]), run.jobs[1], target, renew
        ),
        settings={}, inputs=[],
    )  # fmt: skip
    assert retried.finished_at
    files = run.data(run.jobs[1]).files(".parquet")
    seen = pa.concat_tables(pq.read_table(path, partitioning=None) for path in files).to_pylist()
    assert {row["id"]: (row["error"], row["etag"]) for row in seen} == {
        "a": ("", '"a1"'), "b": ("", '"b2"'), "c": ("", ""), "d": ("http_4xx", ""),
        "e": ("", '"e1"'),
    }  # fmt: skip
    assert len(seen) == 5
    assert sum("/ingest/data/" in path for path in files) == 1, "e's file is left as it was"
    with pytest.raises(BadValue, match="is still to refresh"):
        begin(run, ("timeout",), Console(file=StringIO()))
    with pytest.raises(BadValue, match="one after the other"):
        begin(run, ("timeout",), Console(file=StringIO()), refresh=True)


def test_nothing_to_try_is_said(run):
    out = StringIO()
    assert begin(run, ("tls",), Console(file=out, width=200)) is None
    assert "No row of photos-1 ended as tls: nothing to try again." in out.getvalue()
    assert run.folder.exists("run.json")


def test_only_a_finished_run_is_retried(tmp_path):
    fresh = RetriedRun(open_store(str(tmp_path)), "photos-3")
    with pytest.raises(BadValue, match="photos-3 is not finished"):
        begin(fresh, ("timeout",), Console(file=StringIO()))


def test_errors_are_named_as_they_are_called():
    assert chosen(" timeout,http_5xx,timeout ") == ("timeout", "http_5xx")
    assert chosen("") == ()
    with pytest.raises(BadValue, match="'timout': Did you mean 'timeout'"):
        chosen("http_5xx,timout")


def test_nobody_goes_out_without_a_name(tmp_path):
    (tmp_path / "urls.txt").write_text("http://127.0.0.1/a.jpg")
    recipe = replace(photos(), source=Source(path=str(tmp_path / "urls.txt")))
    listing = list_source(recipe.source)
    with pytest.raises(BadValue, match=r"fetch\.contact cannot be ''"):
        check_courtesy(recipe, listing)
    check_courtesy(replace(recipe, fetch=FetchSettings(contact="me@lab.example")), listing)
    video = FetchSettings(contact="me@lab.example", types=("video/mp4",))
    with pytest.raises(BadValue, match="videos are curated by the recipe faceid_video"):
        check_courtesy(replace(recipe, fetch=video), listing)
