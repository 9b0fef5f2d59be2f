"""Choose what the report on videos shows of people and clips, and make the pictures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra.errors import UnreadableSource
from infra.storage import Folder
from pipelines.reports.thumbnails import Thumbnail
from pipelines.video.exported import Clip
from pipelines.video.report_rows import Decided, read_rejected
from pipelines.video.sheets import best_face, contact_sheet, evenly
from pipelines.video.timelines import clock
from stages.columns import REJECTIONS

_CLIPS, _PEOPLE, _FACES, _PER_REASON = 16, 6, 8, 2
"""How many kept clips, people, faces of each, and rejected clips of each reason are shown."""
REST = "#9aa5ad"
"""The colour of people who have none of their own."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One clip to look at."""

    clip: Clip
    where: str
    picture: Thumbnail | None
    """None where the clip's file is gone, which for one that was not kept is no harm."""


@dataclass(frozen=True, slots=True)
class Person:
    """One identity: where it is seen, and its face in some of the clips."""

    id: str
    colour: str
    clips: int
    videos: int
    seconds: float
    faces: list[Thumbnail]


def by_person(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Return the clips of each main person, people with most clips first."""
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.person:
            found[clip.person].append(clip)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def show_people(export: Folder, clips: Sequence[Clip], colours: Mapping[str, str]) -> list[Person]:
    """Show the faces of those with most clips."""
    shown = []
    for person, mine in list(by_person(clips).items())[:_PEOPLE]:
        chosen = [mine[i] for i in evenly(range(len(mine)), _FACES)]
        shown.append(
            Person(
                person, colours.get(person, REST), len(mine), len({c.video_id for c in mine}),
                sum(c.end_s - c.start_s for c in mine),
                [best_face(export, clip, clip.main) for clip in chosen],
            )
        )  # fmt: skip
    return shown


def show_clips(export: Folder, clips: Sequence[Clip], colours: Mapping[str, str]) -> list[Sheet]:
    """Show clips of as many people as possible: one of each in turn."""
    queues = [list(mine) for mine in by_person(clips).values()]
    queues.append([clip for clip in clips if not clip.person])
    chosen: list[Clip] = []
    while len(chosen) < _CLIPS and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return [
        Sheet(clip, _where(clip), contact_sheet(export, clip, colours)) for clip in chosen[:_CLIPS]
    ]


def show_rejected(
    data: Mapping[str, Folder], decided: Sequence[Decided]
) -> dict[str, tuple[str, list[Sheet]]]:
    """Show some clips for every reason: what the reason means, and the clips."""
    ids: dict[str, list[str]] = {reason: [] for reason in REJECTIONS}
    for row in decided:
        if not row.is_clip or row.status != "reject" or row.rejected_by == "forgotten":
            continue  # of the forgotten there is nothing to show
        if len(ids[row.rejected_by]) < _PER_REASON:
            ids[row.rejected_by].append(row.id)
    folder, clips = read_rejected(data, [each for some in ids.values() for each in some])
    sheets = {clip.id: _of_rejected(folder, clip) for clip in clips}
    return {
        reason: (REJECTIONS[reason], [sheets[each] for each in some])
        for reason, some in ids.items()
        if some
    }


def _of_rejected(folder: Folder, clip: Clip) -> Sheet:
    try:
        return Sheet(clip, _where(clip), contact_sheet(folder, clip, {}))
    except UnreadableSource:
        return Sheet(clip, _where(clip), None)


def _where(clip: Clip) -> str:
    name = clip.member or clip.url.rpartition("/")[2] or clip.video_id[:12]
    return f"{name}, {clock(round(clip.start_s, 1))} to {clock(round(clip.end_s, 1))}"
