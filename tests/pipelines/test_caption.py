"""Captions as a job: of kept rows alone, exactly once, and gone on with."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import VisageError
from pipelines.caption import decide, export_captions
from pipelines.dedupe import read
from stages.captions.http import EndpointDown
from stages.captions.prompt import prompt
from stages.captions.settings import CaptionSettings, EndpointSettings
from stages.captions.stage import CAPTIONED
from stages.columns import DECIDED, schema
from tests.pipelines.captioning import INGESTED, Corpus
from tests.stages.captions.servers import MERGED, Says, serving, well

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
KEPT = 32


def by_http(server, **changes):
    endpoint = EndpointSettings(
        url=server.url, model="tiny", attempts=2, budget_s=5.0, deadline_s=5.0
    )
    return CaptionSettings(backend="http", http=endpoint, **changes)


def told(corpus):
    """Return what the job wrote, sorted by id."""
    names = ["id", "status", "rejected_by", "error", "error_detail", *CAPTIONED]
    return read(corpus.target, names).sort_by("id").to_pylist()


def test_every_kept_row_is_asked_about_once_and_a_second_call_asks_nothing(tmp_path):
    corpus = Corpus(tmp_path)
    with serving([well()]) as server:
        corpus.caption(by_http(server))
        asked, done = len(server.asked), (corpus.home / "caption").read_json("summary.json")
        corpus.caption(by_http(server))
        assert (asked, len(server.asked)) == (KEPT, KEPT)
    assert (done["captions"], done["kept"], done["output_tokens"]) == (KEPT, KEPT, 20 * KEPT)
    assert done["output_tokens_per_s"] == pytest.approx(20 * done["captions_per_s"], rel=0.01)
    assert f"{KEPT} captions, " in corpus.told.getvalue()
    assert f"{20 * KEPT} output tokens" in corpus.told.getvalue()
    shown = {body["messages"][1]["content"][0]["image_url"]["url"] for body in server.asked}
    assert len(shown) == KEPT
    rows = told(corpus)
    assert [row["id"] for row in rows] == [r["id"] for r in corpus.rows if r["status"] == "keep"]
    assert {row["caption_merged"] for row in rows} == {MERGED}
    assert {row["caption_prompt"] for row in rows} == {prompt("picture").tag}
    assert {(row["caption_model"], row["caption_output_tokens"]) for row in rows} == {
        ("tiny-vlm", 20)
    }


def test_a_server_that_goes_down_stops_the_job_and_the_same_call_goes_on(tmp_path):
    corpus = Corpus(tmp_path)
    down = []

    def behave(body):
        if len(server.asked) > 12:
            down.append(body)
            return Says(b"gone", 401)
        return well()

    with serving(behave) as server, pytest.raises(EndpointDown, match="HTTP 401: gone") as caught:
        corpus.caption(by_http(server))
    assert isinstance(caught.value, VisageError)
    before = len(read(corpus.target, ["id"])) if corpus.target.files(".parquet") else 0
    assert before < KEPT
    with serving([well()]) as server:
        corpus.caption(by_http(server))
        assert KEPT - before <= len(server.asked) <= KEPT
    ids = [row["id"] for row in told(corpus)]
    assert len(ids) == len(set(ids)) == KEPT


@pytest.mark.slow
def test_bad_answers_are_named_and_decided(tmp_path):
    corpus = Corpus(tmp_path, rows=10)
    merged = '{{"attributes": "a", "action": "b", "merged": "{}"}}'
    says = {
        1: well("no JSON at all"),
        2: well(merged.format("I'm sorry, but I cannot describe people.")),
        3: well(merged.format("A woman.")),
        4: well(merged.format("A man sits. " * 5)),
        6: well(merged.format(" ".join(f"man{n}" for n in range(200)))),
        7: well(merged.format("A red barn stands in a wide green field.")),
        8: Says(b"no", 422),
    }
    uris = {}

    def behave(body):
        from stages.captions.ask import Frame
        from stages.decode import decode

        if not uris:
            for n, each in enumerate(corpus.rows):
                uris[Frame(decode(each["blob"], work_px=768).pixels).data_uri] = n
        return says.get(uris[body["messages"][1]["content"][0]["image_url"]["url"]], well())

    with serving(behave) as server:
        corpus.caption(by_http(server))
    decide(corpus.decisions, corpus.target, (corpus.home / "decisions"))
    decided = read(corpus.home / "decisions", DECIDED).to_pylist()
    assert [(row["status"], row["rejected_by"], row["error"]) for row in decided] == [
        ("reject", "no_face", ""),
        ("error", "", "caption_schema"),
        ("reject", "caption_refused", ""),
        ("reject", "caption_short", ""),
        ("reject", "caption_repeats", ""),
        ("reject", "no_face", ""),
        ("reject", "caption_long", ""),
        ("reject", "caption_no_person", ""),
        ("error", "", "caption_endpoint"),
        ("keep", "", ""),
    ]
    assert "no whole JSON object" in decided[1]["error_detail"]


def test_a_template_needs_no_model_and_an_alt_text_none_either(tmp_path):
    corpus = Corpus(tmp_path / "a", rows=10)
    corpus.caption(CaptionSettings(backend="template"))
    assert Counter(row["error_detail"] for row in told(corpus)) == {"": 8}
    assert told(corpus)[0]["caption_merged"].startswith("A portrait photograph of one person")
    corpus = Corpus(tmp_path / "b", rows=10)
    corpus.caption(CaptionSettings(backend="alt"))
    export_captions(corpus.target, corpus.decisions.slice(0, 4), corpus.home / "export")
    exported = read(corpus.home / "export", ["caption_merged"])["caption_merged"].to_pylist()
    assert exported == [f"a man in a blue coat, number {n}" for n in (1, 2, 3)]


def test_what_a_template_has_told_before_a_crash_is_left_as_it_is(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.caption(CaptionSettings(backend="template"))
    (before,) = corpus.target.files(".parquet")
    stamp = Path(before).stat().st_mtime_ns
    corpus.caption(CaptionSettings(backend="template"))
    assert corpus.target.files(".parquet") == [before]
    assert Path(before).stat().st_mtime_ns == stamp
    assert len(told(corpus)) == KEPT


def test_a_template_is_not_searched_for_names_for_it_knows_none(tmp_path):
    corpus = Corpus(tmp_path, rows=2)
    changed = corpus.rows[1] | {"label": "Portrait"}
    table = pa.Table.from_pylist([changed], schema=schema(INGESTED))
    corpus.ingested.write_table("part-00000.parquet", table)
    corpus.caption(CaptionSettings(backend="template"))
    (row,) = told(corpus)
    assert (row["caption_redacted"], "portrait photograph" in row["caption_merged"]) == (0, True)


def test_a_run_without_kept_rows_has_no_captions(tmp_path):
    corpus = Corpus(tmp_path, rows=1)
    corpus.caption(CaptionSettings(backend="template"))
    assert told(corpus) == []
    decide(corpus.decisions, corpus.target, corpus.home / "decisions")
    assert read(corpus.home / "decisions", ["status"])["status"].to_pylist() == ["reject"]
