"""Find a person in every run of a store: by a photo of theirs, or by an id."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from jaxtyping import Float32

from infra.configuration import digest, overlay
from infra.errors import BadInput, UnreadableSource
from infra.storage import Folder
from pipelines.forgetting.files import PERSON
from pipelines.recipes import FaceSettings, Recipe
from pipelines.video.recipes import VideoRecipe
from stages.decode import BadPicture, decode
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import Embedder, distance

_PEOPLE = ("label", "identity", PERSON)
_LINKS = ("id", "dup_of", "video_id", "sha256", "url", "final_url", *_PEOPLE)
_WORK_PX = 1600


@dataclass(frozen=True)
class Found:
    """What a store holds of a person."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    """Their pictures' sha256."""
    urls: tuple[str, ...]
    runs: dict[str, int]
    """Rows of the person by folder of the store: runs, and features or pairs beside them."""
    people: tuple[str, ...] = ()
    """Labels and identities that no other row of the store has."""
    corpora: tuple[str, ...] = ()
    """Digests of the corpora that they are in, as features have them."""
    nearest: tuple[tuple[str, float], ...] = field(default=())
    """Rows found by the photo, and their distance; nearest first."""


def tables(store: Folder) -> Iterator[tuple[str, pa.Schema]]:
    """Yield the Parquet files of a store that can be read."""
    for path in store.files(".parquet"):
        try:
            yield path, pq.read_schema(path, filesystem=store.fs)
        except pa.ArrowInvalid:  # cut short by a crash: nothing reads it, and ``scrub`` deletes it
            continue


def recipe_of(run: Folder) -> Recipe | VideoRecipe | None:
    """Read the recipe of a curation run; None where the folder is none."""
    if not run.exists("recipe.yaml") or not (run / "seed").exists("job.json"):
        return None
    held = yaml.safe_load(run.read("recipe.yaml"))
    if "video" in held:
        return overlay(VideoRecipe(name=run.name), held, f"{run}/recipe.yaml")
    return overlay(Recipe(name=run.name), held, f"{run}/recipe.yaml")


def by_face(store: Folder, photo: str, max_distance: float = 0.0) -> dict[str, float]:
    """Find the rows that show the person on a photo, in any of their faces; of videos, anywhere.

    Args:
        store: Where runs are.
        photo: Path of a picture with one face.
        max_distance: How far vectors may be apart; 0: what each embedder's author says.

    Returns:
        Distances by id.

    Raises:
        UnreadableSource: The photo cannot be read.
        BadInput: It does not show exactly one face.
        BadWeights: The models of a run cannot be loaded.
    """
    found: dict[str, float] = {}
    asked: dict[tuple[str, str], tuple[Embedder, Float32[np.ndarray, " dim"]]] = {}
    for run in store.folders():
        recipe = recipe_of(run)
        if recipe is None:
            continue
        kind = (recipe.faces.backend, recipe.faces.pack)
        if kind not in asked:
            asked[kind] = embed(photo, recipe.faces)
        embedder, vector = asked[kind]
        below = max_distance or embedder.same_person_below
        for path, columns in tables(run):
            for row, apart in _distances(run, path, columns, embedder, vector):
                if apart < below:
                    found[row] = min(apart, found.get(row, apart))
    return found


def embed(photo: str, faces: FaceSettings) -> tuple[Embedder, Float32[np.ndarray, " dim"]]:
    """Return the embedder of a recipe, and the vector of the one face on a photo."""
    try:
        pixels = decode(Path(photo).expanduser().read_bytes(), work_px=_WORK_PX).pixels
    except (OSError, BadPicture) as error:
        raise UnreadableSource(photo, str(error), "Give a JPEG, PNG or WebP.") from None
    # Sizes at which large and small faces are found, and what a run asks of its detector.
    detector = load_detector(faces.backend, faces.pack, 800, faces.min_score, faces.device)
    (seen,) = detector.detect([pixels])
    if len(seen.scores) != 1:
        cure = "Give one that shows the person alone, upright and large; crop it if need be."
        raise BadInput(f"The photo {photo!r} shows {len(seen.scores)} faces. {cure}")
    embedder = load_embedder(faces.backend, faces.pack, faces.device)
    return embedder, embedder.embed(embedder.align(pixels, seen.landmarks_px))[0]


def _distances(
    run: Folder,
    path: str,
    columns: pa.Schema,
    embedder: Embedder,
    vector: Float32[np.ndarray, " dim"],
) -> Iterator[tuple[str, float]]:
    """Yield the distance of every face, or face track, in a file, with the id of its row."""
    name = next((n for n in ("face_embeddings", "clips") if n in columns.names), "")
    if not name or "id" not in columns.names:
        return
    rows = 4096 if name == "face_embeddings" else 16
    file = pq.ParquetFile(run.fs.open_input_file(path))
    for batch in file.iter_batches(rows, columns=["id", name]):
        each, holders = batch[name].flatten(), pc.list_parent_indices(batch[name])
        if name == "clips":
            tracks = pc.struct_field(each, "tracks")
            each = pc.struct_field(tracks.flatten(), "embedding")
            holders = holders.take(pc.list_parent_indices(tracks))
        values = np.asarray(each.flatten().to_numpy(zero_copy_only=False), np.float32)
        if len(values) != len(each) * len(vector):
            continue  # of another embedder
        faces = values.reshape(-1, len(vector))
        apart = distance(faces, np.broadcast_to(vector, faces.shape), embedder.metric)
        yield from zip(batch["id"].take(holders).to_pylist(), apart.tolist(), strict=True)


def by_id(store: Folder, wanted: str) -> set[str]:
    """Return the rows with that id, or whose faces have that identity."""
    found: set[str] = set()
    for path, columns in tables(store):
        names = [name for name in ("id", "identity") if name in columns.names]
        if "id" not in names:
            continue
        rows = pq.read_table(path, filesystem=store.fs, columns=names, partitioning=None)
        for name in names:
            found.update(rows.filter(pc.equal(rows[name], wanted))["id"].to_pylist())
    return found


def with_copies(store: Folder, ids: Iterable[str]) -> Found:
    """Add the copies of rows, in every run, and gather all that tells of them."""
    known, files, urls = set(ids), set[str](), set[str]()
    runs: dict[str, set[str]] = {}
    links = [_links(store, path, columns) for path, columns in tables(store)]
    before = -1
    while before != len(known) + len(files):
        before = len(known) + len(files)
        for _, rows in links:
            here = _any_in(rows, known, ("id", "dup_of", "video_id"))
            here = pc.or_(here, _any_in(rows, files, ("sha256",)))
            hit = rows.filter(here).to_pylist()
            # A clip goes with its video: where else the person is in it, only vectors could tell.
            same = ("id", "dup_of", "video_id")
            known.update(row[name] for row in hit for name in same if row[name])
            files.update(row["sha256"] for row in hit if row["sha256"])
            urls.update(row[name] for row in hit for name in ("url", "final_url") if row[name])
    theirs, others = set[str](), set[str]()
    for path, rows in links:
        run = path.removeprefix(f"{store.path}/").partition("/")[0]
        mask = _any_in(rows, known, ("id",))
        hit = rows.filter(mask)
        if hit.num_rows:
            runs.setdefault(run, set()).update(hit["id"].to_pylist())
        for name in _PEOPLE:
            theirs.update(pc.unique(hit[name]).to_pylist())
            others.update(pc.unique(rows.filter(pc.invert(mask))[name]).to_pylist())
    counts = {run: len(rows) for run, rows in sorted(runs.items())}
    corpora = tuple(corpus_of(store / run) for run in counts)
    return Found(
        ids=tuple(sorted(known)),
        files=tuple(sorted(files)),
        urls=tuple(sorted(urls)),
        runs=counts,
        people=tuple(sorted(text for text in theirs - others if text)),
        corpora=tuple(each for each in corpora if each),
    )


def corpus_of(run: Folder) -> str:
    """Return the digest by which features name the corpus that a run exported."""
    files = [p for p in (run / "export/parquet").files(".parquet") if "/part-" in p]
    infos = run.fs.get_file_info(files)
    return digest([[info.base_name, info.size] for info in infos]) if files else ""


def _links(store: Folder, path: str, columns: pa.Schema) -> tuple[str, pa.Table]:
    """Read what connects rows with one another."""
    names = [name for name in _LINKS if name in columns.names]
    if "id" not in names:
        return path, pa.table({name: pa.array([], pa.string()) for name in _LINKS})
    rows = pq.read_table(path, filesystem=store.fs, columns=names, partitioning=None)
    if "clips" not in columns.names:
        return path, _with_all(rows)
    watched = pq.read_table(path, filesystem=store.fs, columns=["id", "clips"], partitioning=None)
    clips = watched["clips"].combine_chunks()
    inside = {
        "id": pc.struct_field(clips.flatten(), "clip_id"),
        "video_id": watched["id"].take(pc.list_parent_indices(clips)),
        "sha256": pc.struct_field(clips.flatten(), "sha256"),
    }
    return path, pa.concat_tables([_with_all(rows), _with_all(pa.table(inside))])


def _with_all(rows: pa.Table) -> pa.Table:
    """Return all of ``_LINKS``, those that are not there as nulls."""
    blank = pa.nulls(rows.num_rows, pa.string())
    texts: dict[str, Any] = {n: rows[n] if n in rows.column_names else blank for n in _LINKS}
    return pa.table({name: pc.cast(column, pa.string()) for name, column in texts.items()})


def _any_in(rows: pa.Table, wanted: set[str], columns: Iterable[str]) -> Any:  # noqa: ANN401
    """Say which rows have one of ``wanted`` in one of some columns."""
    values = pa.array(sorted(wanted), pa.string())
    masks = [pc.is_in(rows[name], value_set=values) for name in columns]
    return reduce(pc.or_, masks)
