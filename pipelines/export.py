"""Write the kept pictures for others: Parquet, WebDataset, and FaceID-6M's and InstantID's layout.

One task writes one part in every layout from one group of ingested files, so picture bytes are
read once and never cross a shuffle.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from infra.storage import Folder
from pipelines.exported import caption_of
from pipelines.parallel import spread
from pipelines.progress import Reporter
from pipelines.recipes import ExportSettings
from stages.captions.stage import CAPTIONED
from stages.columns import COLUMNS, schema
from stages.landmarks import arcface5
from stages.models.faces import LandmarkScheme

_LEFT_OUT = {
    "status", "rejected_by", "error", "error_detail", "dup_of", "dup_kind", "timings",
    "offset", "length",
}  # fmt: skip
_PEOPLE = ("identity", "identity_score", "identity_name")
_TOLD_IN = "caption_file"
"""In which of the captions job's files a row's captions are."""
_SAID = (
    "caption_attributes", "caption_action", "caption_parts", "caption_source", "caption_model",
    "caption_prompt",
)  # fmt: skip
"""What a line of captions.jsonl tells of a caption that was made."""
SUFFIX = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/gif": "gif",
           "image/bmp": "bmp", "image/tiff": "tif"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What one task exports."""

    name: str
    files: tuple[str, ...]
    rows: int


def export(
    ingested: Folder,
    decisions: pa.Table,
    mains: pa.Table,
    target: Folder,
    settings: ExportSettings,
    scheme: LandmarkScheme,
    reporter: Reporter,
    *,
    at_once: int,
    told: Folder | None = None,
) -> None:
    """Write every kept row in every layout that the settings name.

    Parts that an earlier try has finished are left as they are.

    Args:
        ingested: Rows with everything, bytes included.
        decisions: All rows of the run, sorted by id. A row's number among the kept ones is its
            number in the InstantID layout.
        mains: Who the main faces are: id, identity, identity_score, identity_name.
        target: Gets one folder per layout.
        settings: Layouts and size of parts.
        scheme: Which five landmarks the rows hold.
        reporter: Shows the progress.
        at_once: Tasks in flight.
        told: Rows of the captions job; None where there was none.
    """
    kept = with_people(decisions.filter(pc.equal(decisions["status"], "keep"))["id"], mains)
    if told is not None:
        kept = with_captions(kept, told)
    ids = kept["id"].combine_chunks()
    parts = _plan(ingested, ids, settings.rows_per_shard)
    done = {name.rpartition("/")[2] for name in (target / "parts").files(".json")}
    todo = [part for part in parts if f"{part.name}.json" not in done]
    before = sum(part.rows for part in parts) - sum(part.rows for part in todo)
    with reporter.job("export", len(ids), before):
        written = 0
        for rows in spread(
            write_part, todo, ingested, kept, target, settings, scheme, at_once=at_once
        ):
            written += rows
            reporter.rows(written)
    if "instantid" in settings.formats:
        _join_captions(target / "instantid")


def with_people(ids: pa.ChunkedArray, mains: pa.Table) -> pa.Table:
    """Return the kept rows' ids, in their order, with who their main faces are."""
    at = pc.index_in(ids, value_set=mains["id"].combine_chunks())
    known = {name: pc.take(mains[name].combine_chunks(), at) for name in _PEOPLE}
    texts = {n: pc.fill_null(c, "") for n, c in known.items() if n != "identity_score"}
    return pa.table({"id": ids} | known | texts)


def with_captions(kept: pa.Table, told: Folder) -> pa.Table:
    """Say of every kept row in which file of ``told`` its captions are; texts stay there.

    A file holds the captions of few ingested ones, so each task reads few of them.
    """
    ids, files = [], []
    for path in told.files(".parquet"):
        here = pq.read_table(path, filesystem=told.fs, columns=["id"], partitioning=None)["id"]
        ids.append(here)
        files.append(pa.array([path] * len(here), pa.string()).dictionary_encode())
    every = pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())
    at = pc.index_in(kept["id"], value_set=every.combine_chunks())
    where = pa.chunked_array(files, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    return kept.append_column(_TOLD_IN, where.take(at))


def _plan(ingested: Folder, kept: pa.Array, rows_per_shard: int) -> list[Part]:
    """Group files until their kept rows fill a part."""
    parts: list[Part] = []
    files: list[str] = []
    rows = 0
    for path in ingested.files(".parquet"):
        ids = pq.read_table(path, filesystem=ingested.fs, columns=["id"], partitioning=None)["id"]
        here = pc.sum(pc.is_in(ids, value_set=kept)).as_py() or 0
        if here and rows + here > rows_per_shard and files:
            parts.append(Part(f"part-{len(parts):05d}", tuple(files), rows))
            files, rows = [], 0
        if here:
            files.append(path)
            rows += here
    if files:
        parts.append(Part(f"part-{len(parts):05d}", tuple(files), rows))
    return parts


def write_part(
    part: Part,
    ingested: Folder,
    kept: pa.Table,
    target: Folder,
    settings: ExportSettings,
    scheme: LandmarkScheme,
) -> int:
    """Write one part in every layout; return its number of rows.

    ``kept`` is what ``with_people`` and ``with_captions`` return: all kept rows of the run.
    """
    tables = [pq.read_table(f, filesystem=ingested.fs, partitioning=None) for f in part.files]
    rows = pa.concat_tables(tables)
    ids = kept["id"].combine_chunks()
    rows = rows.filter(pc.is_in(rows["id"], value_set=ids)).sort_by("id")
    at = pc.index_in(rows["id"], value_set=ids)
    numbers = at.to_pylist()
    for name in _PEOPLE:
        rows = rows.append_column(name, kept[name].take(at))
    if _TOLD_IN in kept.column_names:
        files = pc.unique(kept[_TOLD_IN].take(at).cast(pa.string())).drop_null().to_pylist()
        rows = _told(rows, ingested, files)
    rows = rows.select(
        [name for name in COLUMNS if name in rows.column_names and name not in _LEFT_OUT]
    )
    if "parquet" in settings.formats:
        (target / "parquet").write_table(f"{part.name}.parquet", rows.combine_chunks())
    records = rows.to_pylist() if set(settings.formats) - {"parquet"} else []
    if "webdataset" in settings.formats:
        (target / "webdataset").write(f"{part.name}.tar", webdataset_tar(records))
    if "instantid" in settings.formats:
        _write_instantid(target / "instantid", part.name, records, numbers, scheme)
    (target / "parts").write_json(f"{part.name}.json", {"rows": part.rows})
    return part.rows


def _told(rows: pa.Table, home: Folder, files: Sequence[str]) -> pa.Table:
    """Append the captions of some rows, from the files that hold them."""
    tables = [
        pq.read_table(path, filesystem=home.fs, columns=["id", *CAPTIONED], partitioning=None)
        for path in files
    ]
    told = pa.concat_tables([schema(["id", *CAPTIONED]).empty_table(), *tables])
    at = pc.index_in(rows["id"], value_set=told["id"].combine_chunks())
    for name in CAPTIONED:
        rows = rows.append_column(name, told[name].combine_chunks().take(at))
    return rows


def webdataset_tar(records: Sequence[dict[str, Any]]) -> bytes:
    """Pack rows as WebDataset samples: the same rows give the same bytes.

    Each row is its picture, its caption (.txt: the one that was made, or the page's), all else
    (.json) and the identity vectors (.npy, float32, faces x dim).
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in records:
            about = {k: v for k, v in row.items() if k not in ("blob", "face_embeddings")}
            words = json.dumps(about, ensure_ascii=False, default=bytes.hex)
            vectors = io.BytesIO()
            np.save(vectors, np.array(row["face_embeddings"], np.float32), allow_pickle=False)
            for ending, data in (
                (SUFFIX[row["mime"]], row["blob"]),
                ("txt", caption_of(row).encode()),
                ("json", words.encode()),
                ("npy", vectors.getvalue()),
            ):
                info = tarfile.TarInfo(f"{row['id']}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def _write_instantid(
    target: Folder,
    part: str,
    records: Sequence[dict[str, Any]],
    numbers: Sequence[int],
    scheme: LandmarkScheme,
) -> None:
    """Write pictures, face crops, vectors and this part's lines of ``captions.jsonl``.

    The fields are those of FaceID-6M's ``captions.jsonl`` and InstantID's trainer; what they ask
    of one face is that of the largest. ``caption`` is the one that was made, or the page's; beside
    a made one stand its parts and who made it. Folders of 1,000 numbers keep listings short.
    """
    shown = [(n, row) for n, row in zip(numbers, records, strict=True) if row["num_faces"]]
    points = np.array([row["face_landmarks_px"][0] for _, row in shown], np.float32)
    landmarks = arcface5(points.reshape(-1, 5, 2), scheme)
    lines = []
    for (number, row), five in zip(shown, landmarks, strict=True):
        place = f"{number // 1000:05d}/{number:08d}"
        picture = f"images/{place}.{SUFFIX[row['mime']]}"
        target.write(picture, row["blob"])
        target.write(f"faces/{place}.png", crop(row["blob"], row["face_boxes_px"][0]))
        vector = io.BytesIO()
        np.save(vector, np.array(row["face_embeddings"][0], np.float32), allow_pickle=False)
        target.write(f"features/{place}.npy", vector.getvalue())
        lines.append(
            {
                "index": number,
                "id": row["id"],
                "image_file": picture,
                "face_file": f"faces/{place}.png",
                "insightface_feature_file": f"features/{place}.npy",
                "caption": caption_of(row),
                "additional_feature": caption_of(row),
                **{name: row[name] for name in _SAID if name in row},
                "height": row["height_px"],
                "width": row["width_px"],
                "bbox": [round(v, 2) for v in row["face_boxes_px"][0]],
                "landmarks": [[round(v, 2) for v in point] for point in five.tolist()],
                "embedder": row["embedder"],
                "identity": row["identity"],
                "identity_score": row["identity_score"],
                "url": row["url"],
                "license": row["license"],
            }
        )
    words = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    target.write(f"captions/{part}.jsonl", words)


def crop(blob: bytes, box_px: Sequence[float]) -> bytes:
    """Return the box of an upright picture as PNG."""
    with Image.open(io.BytesIO(blob)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    left, top, right, bottom = (round(v) for v in box_px)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(right, upright.width), min(bottom, upright.height)
    packed = io.BytesIO()
    face = upright.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    face.save(packed, "PNG", compress_level=1)  # a tenth larger, four times faster
    return packed.getvalue()


def _join_captions(target: Folder) -> None:
    """Join the parts' lines into ``captions.jsonl``, in the order of their numbers."""
    parts = (target / "captions").files(".jsonl")
    names = [path.removeprefix(f"{target.path}/") for path in parts]
    lines = [line for name in names for line in target.read(name).decode().splitlines()]
    lines.sort(key=lambda line: int(json.loads(line)["index"]))
    target.write("captions.jsonl", "".join(line + "\n" for line in lines))
