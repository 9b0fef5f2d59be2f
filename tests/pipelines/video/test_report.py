"""The report on videos: what it counts, what it draws, and that it loads nothing."""

import base64
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.errors import UnaccountedRows
from infra.storage import open_folder
from pipelines.reports.funnel import funnel
from pipelines.video.clips import CLIP_ROWS
from pipelines.video.exported import read_clips
from pipelines.video.report import funnels, write_report
from pipelines.video.report_rows import Decided
from pipelines.video.sheets import FRAMES, best_face, contact_sheet, evenly
from pipelines.video.timelines import Span, Timeline, clock, timeline_svg
from tests.pipelines.video.made_export import PEOPLE, make_export

EVIL = '<img src="https://evil.example/x.png" onerror=alert(1)><script>alert(2)</script>'
CARD = {"name": "dlib-hog", "sha256": "ab" * 32, "license": "CC0-1.0", "source": "package:x"}
COLOURS = {PEOPLE[0]: "#2fd3c0", PEOPLE[1]: "#f2a541"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run: three kept clips, one that is too short, and a broken video."""
    run = tmp_path_factory.mktemp("store") / "run"
    export = make_export(run)
    kept = pq.read_table(export / "clips.parquet").to_pylist()
    home = open_folder(str(run))
    clips = [{name: row.get(name) for name in CLIP_ROWS.names} for row in kept]
    for clip in clips:
        clip |= {"file": f"{clip['id']}.mp4", "num_faces": len(clip["tracks"])}
    short = clips[0] | {"id": "c" * 32, "start_s": 1.0, "end_s": 1.2, "file": f"{'c' * 32}.mp4"}
    (run / "watch/clips").mkdir(parents=True)
    file = export / "clips" / clips[0]["file"]
    (run / "watch/clips" / short["file"]).write_bytes(file.read_bytes())
    broken = dict.fromkeys(CLIP_ROWS.names)
    clips += [short, broken | {"id": "d" * 32, "video_id": "d" * 32, "member": EVIL}]
    home.write_table("clips/data/part-0.parquet", pa.Table.from_pylist(clips, schema=CLIP_ROWS))
    ends = [("keep", "", "")] * 3 + [("reject", "short_clip", ""), ("error", "", "broken_video")]
    decisions = [
        dict(zip(("status", "rejected_by", "error"), end, strict=True))
        | {"id": clip["id"], "error_detail": EVIL if end[2] else ""}
        for clip, end in zip(clips, ends, strict=True)
    ]
    home.write_table("decisions/part-0.parquet", pa.Table.from_pylist(decisions))
    return run


def about(**facts):
    """What a record says of the run."""
    job = {"rows": 5, "seconds": 2.5, "reused": False, "models": [CARD]}
    job["stage_seconds"] = {"Watch": (2, 2.25)}
    jobs = [
        job | {"job": "watch", "data": "run/watch/data"},
        job | {"job": "clips", "data": "run/clips/data"},
        job | {"job": "export", "data": "run/export"},
        job | {"job": "people", "data": "run/decisions", "reused": True},
    ]
    return {
        "run": "films-12ab", "recipe": "faceid_video", "recipe_yaml": "name: faceid_video\n",
        "source": "films", "seconds": 83.0, "finished_at": "2026-11-21T10:00:00+00:00",
        "code": "0.1.0+g1", "jobs": jobs, "more": "than is asked",
    } | facts  # fmt: skip


class Page(HTMLParser):
    """Every element with its attributes, and all text that is shown."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += f" {data}"


@pytest.fixture(scope="module")
def html(run):
    write_report(run, about(source=EVIL))
    return (run / "report.html").read_text()


def test_the_page_counts_videos_clips_tracks_and_people(html):
    text = Page(html).text
    assert "Videos 2 4.8 s of film watched" in text
    assert "Clips kept 3 of 4" in text
    assert "People 2" in text
    assert "Pairs 2 1 across clips, 1 within one" in text
    assert "short_clip the clip has too few frames 1 1" in text
    assert "kept passed every rule 1 3 3" in text
    assert "Sum of the steps 2 4 4" in text


def test_every_kept_clip_has_a_sheet_and_every_person_faces(html):
    told = [a["alt"] for tag, a in Page(html).elements if tag == "img"]
    assert [each[:4] for each in told] == ["Face"] * 3 + ["Clip"] * 4
    assert sum(PEOPLE[0][:12] in each for each in told) == 2
    assert all("a.mp4, " in each for each in told[3:])


def test_clips_that_were_not_kept_are_shown_with_their_reason(html):
    section = html[html.index('id="rejected"') : html.index('id="speed"')]
    assert "short_clip the clip has too few frames cccccccccccc" in Page(section).text
    assert PEOPLE[0][:12] not in section


def test_a_rejected_clip_whose_file_is_gone_hinders_nothing(run, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(run.parent, store)
    (store / "run/watch/clips" / f"{'c' * 32}.mp4").unlink()
    write_report(store / "run", about())
    assert "The clip's file is gone." in (store / "run/report.html").read_text()


def test_the_timeline_has_shots_clips_and_a_row_per_person(html):
    (drawing,) = re.findall(r'<svg[^>]*class="timeline".*?</svg>', html)
    assert "Timeline of a.mp4. shots: 3, clips: 4, " in drawing
    assert f"{PEOPLE[0][:12]}: 2, {PEOPLE[1][:12]}: 1." in drawing
    assert drawing.count("<rect") == 3 + 4 + 3
    assert f"{'c' * 12}: short_clip" in drawing


def test_what_strangers_wrote_is_shown_and_not_obeyed(html):
    page = Page(html)
    assert "script" not in [tag for tag, _ in page.elements]
    assert all(not name.startswith("on") for _, a in page.elements for name in a)
    assert page.text.count(EVIL) >= 3


def test_nothing_outside_the_page_is_referenced(html):
    page = Page(html)
    links = [a[n] for _, a in page.elements for n in ("src", "href", "xlink:href") if n in a]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert "@import" not in html


def test_it_looks_like_the_report_on_pictures(html):
    assert "--paper: #fbfaf8" in html
    assert "prefers-color-scheme: dark" in html


def test_jobs_stages_models_and_the_recipe_are_told(html):
    text = Page(html).text
    assert "people 5 2.5 s done by an earlier run, taken as it was" in text
    assert "Watch 2 2.2 s" in text
    assert f"dlib-hog CC0-1.0 package:x {'ab' * 32}" in text
    assert "name: faceid_video" in text


def test_a_run_that_kept_nothing_has_a_report(run, tmp_path):
    empty = tmp_path / "run"
    for name in ("clips", "pairs", "shots"):
        table = pq.read_table(run / f"export/{name}.parquet")
        open_folder(str(empty)).write_table(f"export/{name}.parquet", table.slice(0, 0))
    for place in ("clips/data", "decisions"):
        table = pq.read_table(run / place)
        open_folder(str(empty)).write_table(f"{place}/part-0.parquet", table.slice(0, 0))
    write_report(empty, about())
    assert "Clips kept 0 of 0" in Page((empty / "report.html").read_text()).text


def row(id, video="v", reason="", error="", tracks=1):
    status = "error" if error else "reject" if reason else "keep"
    return Decided(id, video, status, reason, error, "", 0.0, 1.0, tracks, "")


def test_a_video_is_kept_if_a_clip_is_and_else_ends_as_most_of_them():
    rows = [
        row("a", "v", "short_clip"), row("b", "v", "turned_face"), row("c", "v", "turned_face"),
        row("d", "w", "soft_clip"), row("e", "w"), row("f", "w", "soft_clip"),
        row("x", "x", error="broken_video"), row("y", "y", "no_clip"),
    ]  # fmt: skip
    ended = {step.name: step.count for step in funnel(funnels(rows)["videos"])}
    assert ended == {"turned_face": 1, "broken_video": 1, "no_clip": 1, "kept": 1}


def test_videos_without_clips_are_no_clips_and_tracks_end_as_their_clips():
    rows = [row("a", tracks=3), row("b", reason="short_clip", tracks=0), row("v", reason="no_clip")]
    counted = funnels([*rows, row("x", "x", error="broken_video", tracks=0)])
    assert {kind: table.num_rows for kind, table in counted.items()} == {
        "videos": 2, "clips": 2, "tracks": 3,
    }  # fmt: skip


def test_a_clip_that_ended_in_no_known_way_is_refused():
    with pytest.raises(UnaccountedRows):
        funnel(funnels([row("a", reason="bad_hair")])["clips"])


def opened(thumbnail):
    return np.asarray(Image.open(BytesIO(base64.b64decode(thumbnail.base64))).convert("RGB"))


def test_a_sheet_shows_frames_with_the_boxes_of_every_track(run):
    clip = read_clips(run / "export")[0]
    plain = opened(contact_sheet(open_folder(str(run / "export")), replace(clip, tracks=[]), {}))
    sheet = opened(contact_sheet(open_folder(str(run / "export")), clip, COLOURS))
    assert sheet.shape[0] == plain.shape[0] == 128
    assert sheet.shape[1] == 128 * FRAMES + 3 * (FRAMES - 1)
    colour = np.array([int(COLOURS[clip.person][i : i + 2], 16) for i in (1, 3, 5)])
    scale = 128 / clip.height_px
    for number in range(FRAMES):
        part = sheet[:, number * 131 : number * 131 + 128].astype(int)
        drawn = np.abs(part - colour).sum(axis=2) < 60
        rows, columns = np.nonzero(drawn)
        looks = evenly(range(len(clip.main.frames)), FRAMES)
        left, _, right, bottom = np.array(clip.main.boxes_px[looks[number]]) * scale
        assert columns.min() == pytest.approx(max(left, 0), abs=4)
        assert columns.max() == pytest.approx(min(right, 127), abs=12)  # the label may be wider
        assert rows.max() == pytest.approx(min(bottom, 127), abs=4)


def test_a_face_is_cut_out_where_it_is_seen_best(run):
    clip = read_clips(run / "export")[0]
    face = opened(best_face(open_folder(str(run / "export")), clip, clip.main))
    assert face.shape == (96, 96, 3)
    assert face.std() > 20


@pytest.mark.parametrize(
    ("items", "count", "chosen"),
    [(range(9), 3, [0, 4, 8]), (range(2), 6, [0, 1]), ([7], 6, [7]), ([], 6, [])],
)
def test_items_are_chosen_evenly_with_both_ends(items, count, chosen):
    assert evenly(items, count) == chosen


def test_bars_lie_where_their_times_are_and_long_names_are_escaped():
    video = Timeline("<b>", "", 10.0, [Span(0, 5, "one", "red"), Span(5, 10, "two", "blue")], [])
    drawing = timeline_svg(video)
    places = [float(x) for x in re.findall(r'<rect x="([\d.]+)"', drawing)]
    assert places == [90.0, 545.0]
    assert "<b>" not in drawing
    assert "&lt;b&gt;" in drawing


def test_of_many_people_some_are_drawn_and_the_rest_counted():
    tracks = {f"{n:02}": [Span(0, 1, "x", "red")] for n in range(20)}
    video = Timeline("a", "", 7200.0, [], [], tracks)
    assert video.left_out == 12
    assert timeline_svg(video).count("<rect") == 8
    assert len(re.findall('class="tick"', timeline_svg(video))) <= 10


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (2.5, "2.5 s"), (65, "1:05"), (3723, "1:02:03")],
)
def test_times_are_written_as_players_do(seconds, words):
    assert clock(seconds) == words
