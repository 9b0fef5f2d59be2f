"""Tell a run on videos on one page that holds everything it shows and loads nothing.

However large the run is, the page shows some of its videos, clips and people; what it counts it
counts of all.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.storage import Folder, open_folder
from pipelines.reports.funnel import KEPT, Step, funnel, percent
from pipelines.reports.page import duration, restricted
from pipelines.reports.plots import funnel_plot
from pipelines.video.exported import Clip, Track, read_clips, read_pairs
from pipelines.video.report_rows import Decided, Told, data_of, read_decided, read_shots, told_by
from pipelines.video.report_sheets import (
    REST,
    by_person,
    show_clips,
    show_people,
    show_rejected,
)
from pipelines.video.timelines import Span, Timeline, clock, timeline_svg

_VIDEOS, _ERRORS = 8, 20
"""How many videos and errors are shown."""
_COLOURS = (
    "#2fd3c0", "#f2a541", "#c58bff", "#ff7f9c", "#8bc34a", "#5ab1ef", "#e6d24c", "#c49a6c",
)  # fmt: skip
_ID = re.compile(r'\bid="|url\(#|href="#')
_REJECTED, _SHOTS = "var(--reject)", ("var(--muted)", "var(--rule)")


def write_report(run: Folder | Path, about: Mapping[str, Any]) -> None:
    """Write ``report.html`` into a run's folder.

    Args:
        run: A run of ``visage curate`` on videos whose jobs are done.
        about: What ``run.json`` says of it: run, recipe, recipe_yaml, source, seconds, code,
            finished_at and jobs, as their records are.

    Raises:
        UnaccountedRows: A clip is neither kept, nor rejected, nor in error by a known name.
        UnreadableSource: The export is not there or damaged.
    """
    home = open_folder(str(run)) if isinstance(run, Path) else run
    data = data_of(home, about["jobs"])
    export = data["export"]
    clips, decided = read_clips(export), read_decided(data)
    colours = dict(zip(by_person(clips), _COLOURS, strict=False))
    shots = read_shots(export)
    endings = funnels(decided)
    steps = {name: funnel(table) for name, table in endings.items()}
    page = _render(
        told=told_by(about),
        steps=steps,
        plots={name: _own_ids(funnel_plot(each), name) for name, each in steps.items()},
        totals={name: table.num_rows for name, table in endings.items()},
        reasons=_reasons(steps),
        errors=[row for row in decided if row.error][:_ERRORS],
        hours=sum(video["duration_s"] for video in shots) / 3600,
        clips=clips,
        kept_s=sum(clip.end_s - clip.start_s for clip in clips),
        people_count=len(by_person(clips)),
        pairs=_count(pair.kind for pair in read_pairs(export)),
        timelines=[(t, timeline_svg(t)) for t in _timelines(shots, clips, decided, colours)],
        watched=len(shots),
        people=show_people(export, clips, colours),
        sheets=show_clips(export, clips, colours),
        rejected=show_rejected(data, decided),
        colours=colours,
    )
    home.write("report.html", page)


def _own_ids(drawing: str, name: str) -> str:
    """Tell apart what two drawings of the same numbers would both call the same."""
    return _ID.sub(rf"\g<0>{name}-", drawing)


def funnels(decided: Sequence[Decided]) -> dict[str, pa.Table]:
    """Return how every video, every clip and every track ended, a row each.

    A video is kept if any of its clips is, and otherwise ends as most of them do; a track ends as
    its clip does.
    """
    clips = [row for row in decided if row.is_clip]
    by_video: dict[str, list[Decided]] = defaultdict(list)
    for row in decided:
        by_video[row.video_id].append(row)
    tracks = [row for row in clips for _ in range(row.tracks)]
    kinds = {"videos": [_ending(rows) for rows in by_video.values()], "clips": clips}
    names = ("status", "rejected_by", "error")
    text = pa.schema([(name, pa.string()) for name in names])
    return {
        kind: pa.Table.from_pylist(
            [{name: getattr(row, name) for name in names} for row in rows], schema=text
        )
        for kind, rows in (kinds | {"tracks": tracks}).items()
    }


def _ending(rows: Sequence[Decided]) -> Decided:
    """Choose the row of a video that says how the video ended."""
    counts = _count(row.rejected_by for row in rows)
    return max(rows, key=lambda row: (row.status == "keep", counts[row.rejected_by]))


def _reasons(steps: Mapping[str, Sequence[Step]]) -> list[tuple[Step, dict[str, int]]]:
    """Return every way to end, with how many videos, clips and tracks ended so."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    known: dict[str, Step] = {}
    for kind, each in steps.items():
        for step in each:
            known[step.name] = step
            counts[step.name][kind] = step.count
    order = [*known]
    order.sort(key=lambda name: name == KEPT)
    return [(known[name], counts[name]) for name in order]


def _count(values: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return dict(counts)


def _timelines(
    shots: Sequence[Mapping[str, Any]],
    clips: Sequence[Clip],
    decided: Sequence[Decided],
    colours: Mapping[str, str],
) -> list[Timeline]:
    """Draw the videos with most kept clips."""
    kept = {clip.id: clip for clip in clips}
    by_video: dict[str, list[Decided]] = defaultdict(list)
    for row in decided:
        if row.is_clip:
            by_video[row.video_id].append(row)
    count = _count(clip.video_id for clip in clips)
    chosen = sorted(shots, key=lambda v: (-count.get(v["video_id"], 0), v["video_id"]))[:_VIDEOS]
    return [_timeline(video, by_video[video["video_id"]], kept, colours) for video in chosen]


def _timeline(
    video: Mapping[str, Any],
    rows: Sequence[Decided],
    kept: Mapping[str, Clip],
    colours: Mapping[str, str],
) -> Timeline:
    shots = [
        Span(
            shot["start_s"], shot["end_s"],
            f"shot {number + 1}, {clock(round(shot['start_s'], 2))}", _SHOTS[number % 2],
        )
        for number, shot in enumerate(video["shots"])
    ]  # fmt: skip
    spans, tracks = [], defaultdict(list)
    for row in sorted(rows, key=lambda row: row.start_s):
        ended = row.rejected_by or row.error or KEPT
        colour = "var(--keep)" if row.id in kept else _REJECTED
        spans.append(Span(row.start_s, row.end_s, f"{row.id[:12]}: {ended}", colour))
        if clip := kept.get(row.id):
            for track in clip.tracks:
                tracks[track.person[:12]].append(_track_span(clip, track, colours))
    name = next((row.name for row in rows if row.name), "") or video["video_id"][:12]
    words = (
        f"{clock(round(video['duration_s'], 1))}, {video['width_px']} x {video['height_px']}, "
        f"{video['fps']:.4g} frames a second, {video['codec']}"
    )
    ordered = dict(sorted(tracks.items(), key=lambda item: (not item[0], -len(item[1]))))
    return Timeline(name, words, video["duration_s"], shots, spans, ordered)


def _track_span(clip: Clip, track: Track, colours: Mapping[str, str]) -> Span:
    first, last = (
        clip.start_s + (frame - clip.start_frame) / clip.fps
        for frame in (track.frames[0], track.frames[-1] + 1)
    )
    words = f"track {track.track_id} of {clip.id[:12]}, {len(track.frames)} looks"
    return Span(first, last, words, colours.get(track.person, REST))


def _render(**facts: Any) -> str:  # noqa: ANN401 - whatever the template shows
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "duration": duration, "clock": clock}
    environment.loader = FunctionLoader(
        lambda name: files("pipelines.video").joinpath(name).read_text(encoding="utf-8")
    )
    told: Told = facts["told"]
    style = files("pipelines.reports").joinpath("report.html.j2").read_text(encoding="utf-8")
    style = style.partition("<style>")[2].partition("</style>")[0]
    return environment.get_template("report.html.j2").render(
        **facts, style=style, restricted=restricted(told.models)
    )
