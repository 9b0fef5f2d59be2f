"""What a run's report tells of people: copies side by side, contact sheets, photos per person."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from pipelines.reports.plots import bars
from pipelines.reports.thumbnails import Thumbnail, face_thumbnail, thumbnail

_GROUPS, _COPIES = 8, 3
_SHEETS, _FACES = 3, 8
_MOST_PHOTOS = 10
"""People with more photos are drawn together."""
_SLICES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "face_yaws_deg": ("Pose", "degrees of yaw", (15, 30, 45)),
    "face_sizes_px": ("Size", "px", (64, 112, 224, 448)),
    "face_sharpness": ("Sharpness", "grey levels squared", (50, 150, 500)),
}
"""Columns of the main face: title, unit, the ends of the slices."""

Read = Callable[[Iterable[str]], Mapping[str, Mapping[str, Any]]]
"""Given ids returns rows with ``blob`` and ``face_boxes_px``, where they can be had."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a row of pictures."""

    id: str
    words: str
    small: Thumbnail | None


@dataclass(frozen=True, slots=True)
class Strip:
    """Pictures that belong together, side by side."""

    title: str
    words: str
    pictures: list[Picture]


@dataclass(frozen=True, slots=True)
class Slice:
    """The main faces whose measure lies in one range."""

    title: str
    range: str
    rows: int
    kept: float
    """Share of them in kept rows, 0 to 1."""
    known: float
    """Share of the kept ones that have an identity, 0 to 1."""


@dataclass(frozen=True, slots=True)
class PeopleSections:
    """All that the report shows of people."""

    summary: Mapping[str, Any]
    copies: list[Strip]
    copy_groups: int
    sheets: list[tuple[str, list[Strip]]]
    """What the sheets of one kind have in common, and the sheets."""
    photos_plot: str
    slices: list[Slice]


def people_sections(
    decisions: pa.Table,
    mains: pa.Table,
    measures: pa.Table,
    summary: Mapping[str, Any],
    read: Read,
) -> PeopleSections:
    """Gather what the report shows of people.

    Args:
        decisions: One row per input row, with the columns in ``DECIDED``.
        mains: Main faces of the kept rows: id, identity, identity_score.
        measures: Rows with ``id`` and measures of their faces.
        summary: See ``pipelines.people.summary``.
        read: Brings the pictures of some rows, once.
    """
    groups = _copy_groups(decisions)
    kinds = _people_to_show(mains)
    chosen = [row for rows in groups[:_GROUPS] for row, _ in rows]
    chosen += [row for _, people in kinds for _, rows in people for row, _ in rows]
    held = read(dict.fromkeys(chosen))
    sizes = {int(n): count for n, count in summary["identities_by_photos"].items()}
    return PeopleSections(
        summary=summary,
        copies=[_copies(rows, held) for rows in groups[:_GROUPS]],
        copy_groups=len(groups),
        sheets=[
            (kind, [_sheet(who, rows, held) for who, rows in people]) for kind, people in kinds
        ],
        photos_plot=_photos_plot(sizes),
        slices=slices(measures, decisions),
    )


def _copy_groups(decisions: pa.Table) -> list[list[tuple[str, str]]]:
    """Return id and kind of keepers and their copies, groups with most copies first."""
    copies = decisions.filter(
        pc.and_(pc.not_equal(decisions["dup_of"], ""), pc.not_equal(decisions["dup_kind"], "url"))
    )
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in copies.select(["id", "dup_of", "dup_kind"]).to_pylist():
        groups.setdefault(row["dup_of"], [(row["dup_of"], "kept")])
        groups[row["dup_of"]].append((row["id"], row["dup_kind"]))
    return sorted(groups.values(), key=lambda rows: (-len(rows), rows[0]))


def _copies(rows: Sequence[tuple[str, str]], held: Mapping[str, Mapping[str, Any]]) -> Strip:
    shown = rows[: _COPIES + 1]
    count = len(rows) - 1
    pictures = [
        Picture(row, kind, thumbnail(held[row]["blob"], []) if _has_picture(held, row) else None)
        for row, kind in shown
    ]
    more = f", {len(shown) - 1} shown" if len(rows) > len(shown) else ""
    return Strip(rows[0][0][:12], f"{count} {'copy' if count == 1 else 'copies'}{more}", pictures)


def _has_picture(held: Mapping[str, Mapping[str, Any]], row: str) -> bool:
    return bool(held.get(row, {}).get("blob"))


_Shown = list[tuple[str, list[tuple[str, float]]]]


def _people_to_show(mains: pa.Table) -> list[tuple[str, _Shown]]:
    """Choose the people with most photos, with fewest, and those that are least surely one."""
    people: dict[str, list[tuple[str, float]]] = {}
    for row in mains.select(["id", "identity", "identity_score"]).to_pylist():
        if row["identity"]:
            people.setdefault(row["identity"], []).append((row["id"], row["identity_score"]))
    for rows in people.values():
        rows.sort(key=lambda item: (item[1], item[0]))  # the least sure faces first
    by_size = sorted(people.items(), key=lambda item: (-len(item[1]), item[0]))
    unsure = sorted(
        people.items(), key=lambda item: (sum(s for _, s in item[1]) / len(item[1]), item[0])
    )
    kinds = {
        "Most photos": by_size[:_SHEETS],
        "Fewest photos": by_size[::-1][:_SHEETS],
        "Least sure": unsure[:_SHEETS],
    }
    return [(kind, chosen) for kind, chosen in kinds.items() if chosen]


def _sheet(
    who: str, rows: Sequence[tuple[str, float]], held: Mapping[str, Mapping[str, Any]]
) -> Strip:
    sure = float(np.mean([score for _, score in rows]))
    pictures = [
        Picture(row, f"{score:.2f}", _face(held[row]) if _has_picture(held, row) else None)
        for row, score in rows[:_FACES]
    ]
    noun = "photo" if len(rows) == 1 else "photos"
    return Strip(who[:12], f"{len(rows):,} {noun}, score {sure:.2f} on average", pictures)


def _face(row: Mapping[str, Any]) -> Thumbnail | None:
    boxes = row["face_boxes_px"]
    return face_thumbnail(row["blob"], boxes[0]) if boxes else None


def _photos_plot(sizes: Mapping[int, int]) -> str:
    """Draw how many people have how many photos."""
    if not sizes:
        return ""
    counts: Counter[str] = Counter()
    for photos, people in sorted(sizes.items()):
        counts[str(photos) if photos < _MOST_PHOTOS else f"{_MOST_PHOTOS} or more"] += people
    return bars("People by number of photos", list(counts), list(counts.values()))


def slices(measures: pa.Table, decisions: pa.Table) -> list[Slice]:
    """Count main faces by pose, size and sharpness: what the rules keep of each, who is known."""
    at = pc.index_in(measures["id"], value_set=decisions["id"].combine_chunks())
    status = pc.take(decisions["status"].combine_chunks(), at)
    kept = np.asarray(pc.fill_null(pc.equal(status, "keep"), fill_value=False), dtype=bool)
    identity = pc.fill_null(pc.take(decisions["identity"].combine_chunks(), at), "")
    known = np.asarray(pc.not_equal(identity, ""), dtype=bool)
    found: list[Slice] = []
    for column, (title, unit, ends) in _SLICES.items():
        if column not in measures.column_names:
            continue
        has = np.asarray(
            pc.fill_null(pc.greater(pc.list_value_length(measures[column]), 0), fill_value=False),
            dtype=bool,
        )
        with_face = measures.filter(pa.array(has))[column]
        values = np.abs(np.asarray(pc.list_element(with_face, 0), dtype=np.float64))
        found += _slices(title, unit, ends, values, kept[has], known[has])
    return found


def _slices(
    title: str,
    unit: str,
    ends: Sequence[float],
    values: Float[np.ndarray, " faces"],
    kept: Bool[np.ndarray, " faces"],
    known: Bool[np.ndarray, " faces"],
) -> list[Slice]:
    edges = [0.0, *ends, np.inf]
    words = [f"below {ends[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(ends))]
    words.append(f"{ends[-1]:g} or more")
    found = []
    for low, high, name in zip(edges, edges[1:], words, strict=False):
        here = (values >= low) & (values < high)
        if here.any():
            rows, kept_here = int(here.sum()), int((here & kept).sum())
            of_kept = int((here & kept & known).sum()) / max(kept_here, 1)
            found.append(Slice(title, f"{name} {unit}", rows, kept_here / rows, of_kept))
    return found
