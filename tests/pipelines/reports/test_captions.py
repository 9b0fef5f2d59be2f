"""The report shows captions as they are, and which are no good."""

import pyarrow as pa
import pytest

from infra.storage import open_folder
from pipelines.captions.pace import SUMMARY, metrics, read_summary, summary
from pipelines.job import Run
from pipelines.reports.captions import caption_sections
from stages.captions.http import HttpCaptioner
from stages.captions.settings import CaptionSettings, EndpointSettings
from stages.captions.stage import Caption
from stages.chain import Chain
from stages.columns import schema
from tests.pipelines.captioning import INGESTED, Corpus
from tests.pipelines.reports.test_page import RUN, decisions
from tests.stages.captions.servers import MERGED, PICTURE, Says, serving, well

EVIL = '{"attributes": "a", "action": "b", "merged": "A <script>alert(1)</script> woman smiles."}'


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A captions job of sixteen rows: twelve are well, two evil, one refuses, one has no answer."""
    store = tmp_path_factory.mktemp("store")
    corpus = Corpus(store / "run", rows=20)
    kept = [row for row in corpus.rows if row["status"] == "keep"]
    says = [*[well(EVIL)] * 2, well(EVIL.replace("A <", "I cannot describe <")), Says(b"", 422)]
    with serving([*says, well()]) as server:
        endpoint = EndpointSettings(url=server.url, model="tiny", attempts=1, concurrency=1)
        settings = CaptionSettings(backend="http", http=endpoint)
        chain = Chain([Caption(settings, lambda: HttpCaptioner(endpoint, 100))])
        told = chain(pa.Table.from_pylist(kept, schema=schema(INGESTED)))
    run = Run(open_folder(str(store)), "run")
    run.do("caption", lambda data: data.write_table("a.parquet", told), settings={}, inputs=[])
    (run.folder / "caption").write_json(SUMMARY, summary(run.folder / "caption/data", 2.0))
    return run, corpus


def test_numbers_and_reasons_are_told_and_become_metrics(done):
    run, _ = done
    told = read_summary(run)
    assert (told["captions"], told["kept"]) == (16, 14)
    assert (told["reject"], told["error"]) == ({"caption_refused": 1}, {"caption_endpoint": 1})
    assert (told["sources"], told["models"]) == ({"http": 16}, {"tiny-vlm": 15})
    named = metrics(told)
    assert named["captions.reject.caption_refused"] == named["captions.error.caption_endpoint"] == 1
    assert named["captions.output_tokens"] == 300
    assert named["captions.output_tokens_per_s"] == 150
    assert metrics({}) == {}


def test_examples_of_every_ending_are_shown_with_their_pictures(done):
    run, corpus = done
    held = {row["id"]: row for row in corpus.rows}
    told = caption_sections(run, corpus.decisions, lambda ids: {id_: held[id_] for id_ in ids})
    assert [each.ending for each in told.examples] == [
        *[""] * 8, "caption_refused", "caption_endpoint",
    ]  # fmt: skip
    assert all(each.small for each in told.examples)
    good = [each for each in told.examples if each.words.get("caption_merged") == MERGED]
    assert good[0].words["caption_attributes"] == PICTURE["attributes"]
    assert "HTTP 422" in told.examples[-1].words["error_detail"]


def test_a_row_that_was_forgotten_or_rejected_later_is_no_example(done):
    run, corpus = done
    gone = corpus.decisions.slice(0, 1)
    told = caption_sections(run, gone, lambda _: {})
    assert told.examples == []


def test_the_page_shows_captions_as_text(done):
    from pipelines.reports.page import write_report

    run, corpus = done
    told = caption_sections(run, corpus.decisions, lambda _: {})
    page = write_report(RUN, decisions(), decisions().select(["id"]), [], captions=told)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "300 came out" in " ".join(page.split())
    assert 'href="#captions"' in page


def test_a_run_without_captions_says_nothing_of_them(tmp_path):
    run = Run(open_folder(str(tmp_path)), "run")
    assert caption_sections(run, decisions(), lambda _: {}) is None
