"""From a curated corpus to pairs, triplets and groups of photos that training can read as they are.

A folder of pairs holds ``pairs.parquet`` (one row per match, with ids, boxes, landmarks, vectors,
files), ``pairs.jsonl`` (the pairs in the form of InstantID's and CrossFaceID's trainers: the face
of one photo, all else of another) and the files that both name, in ``images``, ``faces`` and
``features``.
"""

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from infra.configuration import digest, to_dict
from infra.storage import Folder, open_folder
from pipelines.export import SUFFIX, crop
from pipelines.exported import caption_of, export_files
from stages.landmarks import arcface5, unflatten
from stages.models.faces import SCHEMES
from stages.people.pairs import Match, Photos, aligned, gaps, match
from stages.people.settings import PairSettings
from stages.people.thresholds import grouping_points

RECORD = "pairs.json"
_LIGHT = [
    "id", "identity", "identity_score", "num_faces", "face_embeddings", "face_boxes_px",
    "face_landmarks_px", "face_yaws_deg", "face_pitches_deg", "pdq", "pdq_mirror", "embedder",
    "width_px", "height_px", "mime", "caption", "url", "license",
]  # fmt: skip
_VECTOR = pa.list_(pa.float32())
ROLES = ("reference", "target", "other")
PAIRS = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("stratum", pa.string()),
        ("pose_gap_deg", pa.float32()),
        ("landmark_gap", pa.float32()),
        ("pdq_distance", pa.int32()),
        ("similarity", pa.float32()),
        ("other_similarity", pa.float32()),
        ("other_pose_gap_deg", pa.float32()),
        *((f"{role}_id", pa.string()) for role in ROLES),
        *((f"{role}_identity", pa.string()) for role in ROLES),
        *((f"{role}_image_file", pa.string()) for role in ROLES),
        *((f"{role}_face_file", pa.string()) for role in ROLES),
        *((f"{role}_box_px", _VECTOR) for role in ROLES),
        *((f"{role}_landmarks_px", _VECTOR) for role in ROLES),
        *((f"{role}_embedding", _VECTOR) for role in ROLES),
        ("embedder", pa.string()),
    ]
)
"""Rows of ``pairs.parquet``; a pair's other_* are empty. Similarities are cosines of vectors."""


@dataclass(frozen=True)
class Paired:
    """How it ended; ``--json`` prints it."""

    path: str
    corpus: str
    photos: int
    """Whose identity is known surely enough."""
    identities: int
    matches: dict[str, int]
    """By kind."""
    strata: dict[str, int]
    """Of the pairs."""


def pairs(corpus: str, out: str, settings: PairSettings, console: Console) -> Paired:
    """Write the pairs of a corpus into ``out``; find them done if they are.

    Args:
        corpus: Folder of a curation run.
        out: Folder for the pairs. What pairs of another corpus or settings left there goes.
        settings: Which photos are brought together.
        console: Where it is told what is done.

    Raises:
        UnreadableSource: There is no finished export, or it names no identities.
    """
    home, files = export_files(corpus, "identity")
    folder = open_folder(out).make()
    seen = [[path.rpartition("/")[2], home.fs.get_file_info(path).size] for path in files]
    wanted = digest(to_dict(settings), seen)
    before = folder.read_json(RECORD)
    if before and before["fingerprint"] == wanted:
        console.print(f"{out} was finished before: nothing is left to do.", markup=False)
        return Paired(**before["paired"])
    if before:
        folder.fs.delete_file(f"{folder.path}/{RECORD}")
    for name in ("images", "faces", "features"):
        (folder / name).clear()
    rows = _read(home, files, settings.min_score)
    photos, backend = _photos(rows)
    found = match(photos, grouping_points(backend), settings) if rows else []
    used = {row for each in found for row in (each.reference, each.target, each.other) if row >= 0}
    _write_files(home, files, {rows[row]["id"]: rows[row] for row in used}, folder)
    folder.write_table("pairs.parquet", _table(found, rows, photos))
    lines = (_line(each, rows, backend) for each in found if each.kind == "pair")
    words = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    folder.write("pairs.jsonl", "".join(words))
    paired = Paired(
        path=str(folder),
        corpus=corpus,
        photos=len(rows),
        identities=len(set(photos.identities)),
        matches=dict(Counter(each.kind for each in found)),
        strata=dict(sorted(Counter(each.stratum for each in found if each.other < 0).items())),
    )
    folder.write_json(RECORD, {"fingerprint": wanted, "paired": asdict(paired)})
    return paired


def _read(home: Folder, files: list[str], min_score: float) -> list[dict[str, Any]]:
    """Read all but the bytes of the rows whose main face is of somebody."""
    rows: list[dict[str, Any]] = []
    for path in files:
        there = pq.read_schema(path, filesystem=home.fs).names
        columns = [*_LIGHT, *(name for name in ("caption_merged",) if name in there)]
        table = pq.read_table(path, filesystem=home.fs, columns=columns)
        known = pc.and_(
            pc.not_equal(table["identity"], ""),
            pc.greater_equal(table["identity_score"], min_score),
        )
        rows += table.filter(pc.fill_null(known, fill_value=False)).to_pylist()
    return sorted(rows, key=lambda row: str(row["id"]))


def _photos(rows: list[dict[str, Any]]) -> tuple[Photos, str]:
    """Return what the sampler looks at, and the backend that measured it."""
    backend = "dlib" if not rows or rows[0]["embedder"].startswith("dlib") else "insightface"
    points = [unflatten(row["face_landmarks_px"][0])[0] for row in rows]
    photos = Photos(
        ids=[row["id"] for row in rows],
        identities=[row["identity"] for row in rows],
        vectors=np.array([row["face_embeddings"][0] for row in rows], np.float32).reshape(
            len(rows), -1 if rows else 1
        ),
        pdq=_bits([row["pdq"] for row in rows]),
        pdq_mirror=_bits([row["pdq_mirror"] for row in rows]),
        poses_deg=np.array(
            [[row["face_yaws_deg"][0], row["face_pitches_deg"][0]] for row in rows], np.float64
        ).reshape(-1, 2),
        landmarks=aligned(np.array(points, np.float32).reshape(-1, 5, 2), SCHEMES[backend]),
    )
    return photos, backend


def _bits(hashes: list[bytes]) -> Any:  # noqa: ANN401
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)


def _place(row: dict[str, Any], kind: str) -> str:
    """Return where a file of a photo is; folders of 256 parts keep listings short."""
    ending = {"images": SUFFIX[row["mime"]], "faces": "png", "features": "npy"}[kind]
    return f"{kind}/{row['id'][:2]}/{row['id']}.{ending}"


def _write_files(
    home: Folder, files: list[str], wanted: dict[str, dict[str, Any]], folder: Folder
) -> None:
    """Write picture, face and vector of every photo that is used, once."""
    ids = pa.array(list(wanted), pa.string())
    for path in files:
        table = pq.read_table(path, filesystem=home.fs, columns=["id", "blob"])
        for row in table.filter(pc.is_in(table["id"], value_set=ids)).to_pylist():
            about = wanted[row["id"]]
            folder.write(_place(about, "images"), row["blob"])
            folder.write(_place(about, "faces"), crop(row["blob"], about["face_boxes_px"][0]))
            vector = io.BytesIO()
            values = np.array(about["face_embeddings"][0], np.float32)
            np.save(vector, values, allow_pickle=False)
            folder.write(_place(about, "features"), vector.getvalue())


def _table(found: list[Match], rows: list[dict[str, Any]], photos: Photos) -> pa.Table:
    """Lay matches out as rows of ``PAIRS``."""
    first = np.array([each.reference for each in found], np.int64)
    second, third = (
        np.array([getattr(each, role) for each in found], np.int64) for role in ROLES[1:]
    )
    alike, _ = gaps(photos, first, second) if found else (first, first)
    other_alike, other_turned = gaps(photos, first, third) if found else (first, first)
    made = []
    for at, each in enumerate(found):
        row = asdict(each) | {"similarity": alike[at], "embedder": rows[each.reference]["embedder"]}
        if each.other >= 0:
            row |= {"other_similarity": other_alike[at], "other_pose_gap_deg": other_turned[at]}
        for role in ROLES:
            row |= _role(role, rows[getattr(each, role)] if getattr(each, role) >= 0 else None)
        made.append({name: row.get(name) for name in PAIRS.names})
    return pa.Table.from_pylist(made, schema=PAIRS)


def _role(role: str, row: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a match says of one of its photos."""
    if row is None:
        texts = ("id", "identity", "image_file", "face_file")
        return {f"{role}_{name}": "" for name in texts}
    return {
        f"{role}_id": row["id"],
        f"{role}_identity": row["identity"],
        f"{role}_image_file": _place(row, "images"),
        f"{role}_face_file": _place(row, "faces"),
        f"{role}_box_px": row["face_boxes_px"][0],
        f"{role}_landmarks_px": row["face_landmarks_px"][0],
        f"{role}_embedding": row["face_embeddings"][0],
    }


def _line(each: Match, rows: list[dict[str, Any]], backend: str) -> dict[str, Any]:
    """Say a pair as InstantID's trainer reads it: whose face, and the picture to be made."""
    reference, target = rows[each.reference], rows[each.target]
    five = arcface5(unflatten(target["face_landmarks_px"][0]), SCHEMES[backend])[0]
    return {
        "id": each.id,
        "reference_id": reference["id"],
        "target_id": target["id"],
        "image_file": _place(target, "images"),
        "face_file": _place(reference, "faces"),
        "insightface_feature_file": _place(reference, "features"),
        "caption": caption_of(target),
        "additional_feature": caption_of(target),
        "height": target["height_px"],
        "width": target["width_px"],
        "bbox": [round(v, 2) for v in target["face_boxes_px"][0]],
        "landmarks": [[round(v, 2) for v in point] for point in five.tolist()],
        "embedder": target["embedder"],
        "url": target["url"],
        "license": target["license"],
    }
