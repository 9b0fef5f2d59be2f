"""Who is on the kept pictures: one identity per face, over the whole run; the last decisions.

Only ids, labels and vectors are read. Neighbours are looked up in shards, on as many machines as
there are; vectors, cells, groups and labels stay in one process: measured with 250,000 faces of 128
numbers, 1.7 GiB. So 64 GiB should do for 9 million.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from infra.configuration import digest
from infra.errors import BadInput, UnreadableSource
from infra.storage import Folder, open_folder
from pipelines.dedupe import ROWS_PER_FILE, read
from pipelines.job import JobRecord
from stages.columns import DECIDED, DECISIONS, schema
from stages.models.faces import GroupingPoints
from stages.people.identify import Identified, identify
from stages.people.names import name_identities, names_in
from stages.people.settings import PeopleSettings
from stages.spread import HERE, Spread

FACES = pa.schema(
    [
        ("id", pa.string()),
        ("face", pa.int32()),
        ("identity", pa.string()),
        ("identity_score", pa.float32()),
        ("identity_name", pa.string()),
        ("reason", pa.string()),
    ]
)
"""One row per face of the kept rows: which row, which of its faces (0 is the main one), who, how
surely, called what, and for a face of nobody why."""
SUMMARY = "summary.json"


class Faces(NamedTuple):
    """The faces of the kept rows, by id and then by their place in the row."""

    ids: list[str]
    places: Int64[np.ndarray, " faces"]
    vectors: Float32[np.ndarray, "faces dim"]
    labels: list[str]
    """Of the main faces; empty for the others."""


def find_identities(
    ingested: Folder,
    decided: Folder,
    settings: PeopleSettings,
    points: GroupingPoints,
    target: Folder,
    about: Folder,
    benchmark: Folder | None = None,
    spread: Spread = HERE,
) -> None:
    """Write the decisions with the identity of every main face, sorted by id.

    The decisions are the same byte for byte whatever the number of workers or the blocks in which
    rows came.

    Args:
        ingested: Rows with their embeddings.
        decided: What ``dedupe`` decided.
        settings: Who is one person.
        points: The embedder's distances.
        target: Gets the decisions.
        about: Gets ``data``, with one row per face as ``FACES`` says, and ``summary.json``.
        benchmark: Rows with the embeddings of people who must not be here.
        spread: Who looks for neighbours.

    Raises:
        BadInput: The rows hold vectors of several lengths.
        BadValue: The distances are not in their order.
    """
    target.clear()
    target.make()
    rows = read(decided, DECISIONS).sort_by("id")
    kept = rows.filter(pc.equal(rows["status"], "keep"))["id"].combine_chunks()
    faces = read_faces(ingested, kept if settings.enabled else kept.slice(0, 0))
    who = _identify(faces, settings, points, benchmark, spread)
    names = _names(ingested, faces, who) if settings.names else {}
    table = pa.table(
        {
            "id": faces.ids,
            "face": faces.places,
            "identity": who.identity,
            "identity_score": who.score,
            "identity_name": [names.get(identity, "") for identity in who.identity],
            "reason": who.reason,
        }
    ).cast(FACES)
    (about / "data").write_table("part-00000.parquet", table)
    about.write_json(SUMMARY, summary(table, [asdict(step) for step in who.steps]))
    decisions = _decide(rows, main_faces(table), settings)
    for number, start in enumerate(range(0, max(decisions.num_rows, 1), ROWS_PER_FILE)):
        part = decisions.slice(start, ROWS_PER_FILE).combine_chunks()
        target.write_table(f"part-{number:05d}.parquet", part)


def home_of(store: Folder, record: JobRecord) -> Folder:
    """Return the folder with what is known of the faces, which may lie in another run."""
    return store / record.data.partition("/")[0] / "people"


def read_mains(home: Folder) -> pa.Table:
    """Read what is known of the main faces: one row per kept picture that has any face."""
    return main_faces(pq.read_table(f"{home.path}/data/part-00000.parquet", filesystem=home.fs))


def main_faces(faces: pa.Table) -> pa.Table:
    """Return the main faces alone, one row per picture that has any."""
    return faces.filter(pc.equal(faces["face"], 0))


def read_faces(ingested: Folder, ids: pa.Array) -> Faces:
    """Read the vectors of all faces of some rows.

    Raises:
        BadInput: They are of several lengths, so of several embedders.
    """
    names: list[str] = []
    labels: list[str] = []
    places: list[Int64[np.ndarray, " faces"]] = [np.empty(0, np.int64)]
    vectors: list[Float32[np.ndarray, "faces dim"]] = []
    columns = ["id", "label", "face_embeddings"]
    for path in ingested.files(".parquet") if len(ids) else ():
        rows = pq.read_table(path, filesystem=ingested.fs, columns=columns, partitioning=None)
        rows = rows.filter(pc.is_in(rows["id"], value_set=ids)).combine_chunks()
        counts = pc.fill_null(pc.list_value_length(rows["face_embeddings"]), 0).to_numpy()
        each = rows["face_embeddings"].combine_chunks().flatten()
        if not len(each):
            continue
        sizes = pc.unique(pc.list_value_length(each)).to_pylist()
        width = vectors[0].shape[1] if vectors else sizes[0]
        if sizes != [width]:
            words = f"{path} holds identity vectors of {sorted({*sizes, width})} numbers."
            raise BadInput(f"{words} Curate all of it with one embedder.")
        values = each.flatten().to_numpy(zero_copy_only=False)
        vectors.append(np.asarray(values, np.float32).reshape(-1, width))
        place = np.concatenate([np.arange(count) for count in counts])
        places.append(place)
        names += rows["id"].take(pa.array(np.repeat(np.arange(len(counts)), counts))).to_pylist()
        mine = np.repeat(np.array(rows["label"].to_pylist(), dtype=object), counts)
        labels += [
            label or "" if face == 0 else "" for label, face in zip(mine, place, strict=True)
        ]
    every = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    order = np.lexsort((np.concatenate(places), np.array(names, dtype=np.str_)))
    return Faces(
        [names[row] for row in order],
        np.concatenate(places)[order],
        every[order],
        [labels[row] for row in order],
    )


def exported(corpus: str) -> tuple[Folder | None, str]:
    """Return the exported rows of a run, and a digest of them; None where no run is named.

    Raises:
        UnreadableSource: There are none.
    """
    if not corpus:
        return None, ""
    rows = open_folder(corpus) / "export/parquet"
    infos = rows.fs.get_file_info(rows.files(".parquet"))
    if not infos:
        cure = "Name a run of `visage curate` with --people.benchmark."
        raise UnreadableSource(corpus, "no exported corpus is there", cure)
    return rows, digest([[info.base_name, info.size, info.mtime_ns] for info in infos])


def _identify(
    faces: Faces,
    settings: PeopleSettings,
    points: GroupingPoints,
    benchmark: Folder | None,
    spread: Spread,
) -> Identified:
    """Give every face its identity; nobody has one where there are no faces."""
    if not faces.ids:
        return Identified([], np.zeros(0, np.float32), [])
    ids = [f"{row}/{place:04d}" for row, place in zip(faces.ids, faces.places, strict=True)]
    known = None
    if benchmark is not None:
        rows = read(benchmark, ["id"])["id"].combine_chunks()
        known = read_faces(benchmark, rows).vectors
        if len(known) and known.shape[1] != faces.vectors.shape[1]:
            words = f"The benchmark's vectors have {known.shape[1]} numbers, the run's "
            raise BadInput(f"{words}{faces.vectors.shape[1]}. Curate both with one embedder.")
    return identify(ids, faces.vectors, faces.labels, settings, points, known, spread)


def _names(ingested: Folder, faces: Faces, who: Identified) -> dict[str, str]:
    """Name identities from the captions of their pictures."""
    captions = read(ingested, ["id", "caption"])
    wanted = pa.array(list(dict.fromkeys(faces.ids)), pa.string())
    captions = captions.filter(pc.is_in(captions["id"], value_set=wanted)).sort_by("id")
    at = {row: number for number, row in enumerate(captions["id"].to_pylist())}
    here: list[list[str]] = [[] for _ in at]
    for row, identity in zip(faces.ids, who.identity, strict=True):
        here[at[row]].append(identity)
    found = name_identities(here, names_in([c or "" for c in captions["caption"].to_pylist()]))
    return {identity: named.name for identity, named in found.items()}


def _decide(rows: pa.Table, faces: pa.Table, settings: PeopleSettings) -> pa.Table:
    """Add the identity of every main face; reject who is nobody, where that is asked for."""
    at = pc.index_in(rows["id"], value_set=faces["id"].combine_chunks())
    identity = pc.fill_null(pc.take(faces["identity"].combine_chunks(), at), "")
    stranger = pc.and_(pc.equal(rows["status"], "keep"), pc.equal(identity, ""))
    changed: dict[str, Any] = {"identity": identity}
    if settings.reject_strangers:
        changed["status"] = pc.if_else(stranger, "reject", rows["status"])
        changed["rejected_by"] = pc.if_else(stranger, "nobody", rows["rejected_by"])
    columns = {name: changed[name] if name in changed else rows[name] for name in DECIDED}
    return pa.table(columns).cast(schema(DECIDED))


def summary(faces: pa.Table, label_steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count people, photos and reasons, and tell what cleaning the labels did."""
    known = faces.filter(pc.not_equal(faces["identity"], ""))
    photos = known.group_by(["identity", "id"]).aggregate([])
    sizes = Counter(Counter(photos["identity"].to_pylist()).values())
    reasons = Counter(reason for reason in faces["reason"].to_pylist() if reason)
    return {
        "faces": faces.num_rows,
        "faces_of_somebody": known.num_rows,
        "identities": sum(sizes.values()),
        "identities_by_photos": {str(size): sizes[size] for size in sorted(sizes)},
        "reasons": dict(sorted(reasons.items())),
        "label_steps": list(label_steps),
    }


def metrics(told: Mapping[str, Any]) -> dict[str, float]:
    """Name the numbers of a summary as MLflow's metrics."""
    named = {
        f"people.{name}": told[name] for name in ("faces", "faces_of_somebody", "identities")
    } | {f"people.{reason}": count for reason, count in told["reasons"].items()}
    for number, step in enumerate(told["label_steps"], start=1):
        name = step["name"].replace(",", "").replace(" ", "_")
        where = f"people.labels.{number:02d}_{name}"
        named |= {f"{where}.{key}": step[key] for key in ("kept", "labels", "changed")}
    return named
