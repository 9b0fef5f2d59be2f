"""Clips of a run are captioned as a job: once each, and gone on with."""

from dataclasses import dataclass, field
from io import StringIO

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from infra.errors import BadValue
from infra.storage import open_folder
from pipelines.job import Run
from pipelines.progress import Reporter
from pipelines.recipes import Workers
from pipelines.video.caption import caption_clips
from stages.captions.http import EndpointDown
from stages.captions.settings import CaptionSettings, EndpointSettings
from tests.pipelines.video.made_export import make_export
from tests.stages.captions.servers import PICTURE, Says, by_prompt, serving

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@dataclass(frozen=True)
class Asked:
    """All that captions read of a recipe."""

    captions: CaptionSettings
    workers: Workers = field(default_factory=lambda: Workers(block_rows=1))


class Clips:
    """The clips of a true export, and a run in which they are captioned."""

    def __init__(self, export, store):
        self.table = pq.read_table(export / "clips.parquet")
        self.files, self.store = open_folder(str(export / "clips")), open_folder(str(store))
        self.ids = sorted(self.table["id"].to_pylist())

    def caption(self, settings):
        run = Run(self.store, "films")
        reporter = Reporter(Console(file=StringIO()))
        told = caption_clips(run, Asked(settings), self.table, self.files, reporter)
        return told.to_pylist(), run


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("films"))


@pytest.fixture
def clips(export, tmp_path):
    return Clips(export, tmp_path)


def by_http(server):
    endpoint = EndpointSettings(url=server.url, model="tiny", attempts=1, deadline_s=20.0)
    return CaptionSettings(backend="http", http=endpoint)


def test_every_clip_is_described_once_and_a_second_call_asks_nothing(clips):
    with serving(by_prompt) as server:
        told, run = clips.caption(by_http(server))
        asked = len(server.asked)
        again, _ = clips.caption(by_http(server))
        assert (asked, len(server.asked)) == (3 * len(clips.ids), asked)
    assert told == again
    assert [row["id"] for row in told] == clips.ids
    assert {row["caption"] for row in told} == {PICTURE["merged"]}
    assert {row["caption_attributes"] for row in told} == {PICTURE["attributes"]}
    assert {row["caption_action"] for row in told} == {PICTURE["action"]}
    assert {(row["rejected_by"], row["error"]) for row in told} == {("", "")}
    done = (run.folder / "caption").read_json("summary.json")
    assert (done["captions"], done["output_tokens"]) == (3, 180)


@pytest.mark.long
def test_a_server_that_is_down_stops_the_job_and_the_same_call_goes_on(clips):
    with serving([Says(b"no", 401)]) as server, pytest.raises(EndpointDown, match="HTTP 401"):
        clips.caption(by_http(server))
    with serving(by_prompt) as server:
        told, _ = clips.caption(by_http(server))
    assert [row["id"] for row in told] == clips.ids


def test_a_template_tells_what_was_measured_of_the_clips(clips):
    told, run = clips.caption(CaptionSettings(backend="template"))
    assert [row["id"] for row in told] == clips.ids
    assert all("square video of one person" in row["caption"] for row in told)
    assert all(row["caption_action"].startswith("A ") for row in told)
    assert [job.job for job in run.jobs] == ["caption"]


def test_without_a_backend_captions_stay_as_they_came_and_there_is_no_job(clips):
    told, run = clips.caption(CaptionSettings(backend="none"))
    assert {row["id"]: row["caption"] for row in told} == dict(
        zip(clips.table["id"].to_pylist(), clips.table["caption"].to_pylist(), strict=True)
    )
    assert {row["caption_action"] for row in told} == {""}
    assert run.jobs == []


def test_a_run_without_kept_clips_has_no_captions(clips):
    clips.table = clips.table.slice(0, 0)
    told, _ = clips.caption(CaptionSettings(backend="template"))
    assert told == []


def test_vllm_under_ray_sees_no_clips_and_the_message_says_what_does(clips):
    with pytest.raises(BadValue, match="serve the model with `vllm serve`"):
        clips.caption(CaptionSettings(backend="vllm", model="file:x"))
