"""Forget a person: out of every run of a store, and never back in.

What is to go is noted first, and the note deleted last: whatever interrupts, the same command goes
on from the note. What remains is a tombstone: hashes by which curation knows the rows again.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from infra.configuration import digest
from infra.errors import BadInput, VisageError
from infra.lineage import trained_on
from infra.storage import Folder, open_folder
from pipelines.forgetting.files import Gone, scrub
from pipelines.forgetting.find import Found, by_face, by_id, recipe_of, tables, with_copies
from pipelines.forgetting.records import correct_features, correct_pairs, correct_run
from pipelines.forgetting.sheets import drop_sheets
from pipelines.forgetting.tombstones import FOLDER
from pipelines.forgetting.trained import are_of_videos, feature_folders, learnt_from, samples_of
from pipelines.job import locked, utc_now
from pipelines.pairs import RECORD as PAIRS
from pipelines.reports.thumbnails import face_thumbnail
from pipelines.video.forget import correct_videos, main_faces
from pipelines.video.recipes import VideoRecipe
from stages.forgotten import tombstone

NOTE, SHEET = "forgetting.json", "forgetting.png"
"""In a store: what is being forgotten, and whom was found; both only until it is done."""
_SHOWN = 48
_CELL_PX = 112


class NotForgotten(VisageError):
    """Files still name what was to be forgotten."""

    def __init__(self, files: Iterable[str]) -> None:
        self.files = tuple(files)
        super().__init__(self.files)

    def __str__(self) -> str:
        return (
            f"All rows are forgotten, but {len(self.files)} files of other kinds still name them: "
            f"{', '.join(self.files[:5])}. Delete these, then give the same command again."
        )


@dataclass(frozen=True)
class Forgotten:
    """How it ended; ``--json`` prints it."""

    rows: int
    runs: dict[str, int]
    models: tuple[str, ...]
    """Released models whose training corpus held them: they still know the person."""
    features: dict[str, int]
    """Samples that were taken out of prepared features, by folder."""
    trained: tuple[str, ...]
    """Folders of training runs on such a corpus: their checkpoints still know the person too."""
    told: tuple[str, ...]
    """What else a person should know."""


def find(store: Folder, face: str, id_: str, max_distance: float = 0.0) -> Found:
    """Find a person, or a picture, in every run of a store, copies included.

    Args:
        store: Where runs are.
        face: Path of a photo of the person; or
        id_: the id of a row, or an identity.
        max_distance: How far vectors may be apart; 0: what each embedder's author says.

    Raises:
        BadInput: Neither or both are given, or the photo does not show one face.
    """
    if bool(face) == bool(id_):
        raise BadInput("Say whom to forget: give either --face PHOTO or --id ID.")
    near = by_face(store, face, max_distance) if face else {}
    found = with_copies(store, near or (by_id(store, id_) if id_ else ()))
    first = tuple(sorted(near.items(), key=lambda item: (item[1], item[0])))
    return replace(found, nearest=first)


def show(store: Folder, found: Found) -> str:
    """Write a contact sheet of what was found; return its path."""
    apart = dict(found.nearest)
    order = [row for row, _ in found.nearest] + [row for row in found.ids if row not in apart]
    wanted = pa.array(order[:_SHOWN], pa.string())
    faces: dict[str, Image.Image] = {}
    for path, columns in tables(store):
        if "clips" in columns.names:
            faces |= main_faces(store, path, set(wanted.to_pylist()) - set(faces))
        if not {"id", "blob", "face_boxes_px"} <= set(columns.names) or len(faces) == len(wanted):
            continue
        ids = pq.read_table(path, filesystem=store.fs, columns=["id"], partitioning=None)["id"]
        if not pc.any(pc.is_in(ids, value_set=wanted)).as_py():
            continue
        names = ["id", "blob", "face_boxes_px"]
        rows = pq.read_table(path, filesystem=store.fs, columns=names, partitioning=None)
        for row in rows.filter(pc.is_in(rows["id"], value_set=wanted)).to_pylist():
            small = row["blob"] and face_thumbnail(row["blob"], (row["face_boxes_px"] or [_ALL])[0])
            if small:
                faces[row["id"]] = Image.open(io.BytesIO(base64.b64decode(small.base64)))
    shown = [faces[row] for row in order if row in faces]
    across = max(1, math.ceil(math.sqrt(len(shown))))
    size = (across * _CELL_PX, max(1, math.ceil(len(shown) / across)) * _CELL_PX)
    sheet = Image.new("RGB", size, "white")
    for at, face in enumerate(shown):
        sheet.paste(face, (at % across * _CELL_PX, at // across * _CELL_PX))
    packed = io.BytesIO()
    sheet.save(packed, "PNG")
    store.write(SHEET, packed.getvalue())
    return f"{store}/{SHEET}"


_ALL = (0, 0, 100_000, 100_000)


def pending(store: Folder) -> bool:
    """Say whether an earlier call was interrupted."""
    return store.exists(NOTE)


def begin(store: Folder, found: Found, reason: str, also: tuple[str, ...] = ()) -> None:
    """Note what is to go. From here on only ``finish`` is needed."""
    about = asdict(found) | {"at": utc_now(), "reason": reason, "also": list(also)}
    store.write_json(NOTE, {key: value for key, value in about.items() if key != "nearest"})


def finish(store: Folder, console: Console) -> Forgotten:
    """Take all that the note names out of a store, and leave a tombstone.

    Raises:
        RunInUse: A run of the store is being worked on.
        NotForgotten: Files of unknown kinds still name what was to go.
    """
    note = store.read_json(NOTE) or {}
    gone = Gone(note["ids"], note["files"], note["urls"], note["people"])
    homes = (store, *map(open_folder, note["also"]))
    with ExitStack() as stack:
        for run in store.folders():
            if run.exists("recipe.yaml"):
                stack.enter_context(locked(run))
        _bury(store, note)
        if "trained" not in note:
            # Before features are touched: afterwards they do not say any more that they held them.
            learnt = learnt_from(homes, gone, note["corpora"])
            note |= {"corpora": sorted(learnt.corpora), "features": learnt.features,
                     "trained": sorted(learnt.trained)}  # fmt: skip
            store.write_json(NOTE, note)
        for home in homes:
            _scrub(home, gone)
            drop_sheets(home, note["corpora"], note["runs"])
        told = [
            f"The pictures of {run} are also in an MLflow that is not the store's: delete "
            "report.html of that run there."
            for run in note["runs"]
            if not _is_own_mlflow(store / run)
        ]
        told += [
            f"Nothing is left of the features in {folder}: prepare them again."
            for folder in note["features"]
            if not open_folder(folder).exists("index.parquet")
        ]
        for run in note["runs"]:
            if isinstance(recipe_of(store / run), VideoRecipe):
                correct_videos(store, run)
            elif (store / run).exists("seed"):
                correct_run(store, run)
            console.print(f"forgotten in {run}", markup=False)
        left = [path for path in _others(store) if gone.within(_bytes(store, path))]
        for path in (stale := [path for path in left if _is_old_report(path)]):
            store.fs.delete_file(path)
        if others := [path for path in left if path not in stale]:
            raise NotForgotten(others)
        try:
            models = trained_on(store, note["corpora"])
        except BadInput as error:
            models = []
            told.append(f"Which models were trained on them is not known: {error}")
    for name in (SHEET, NOTE):
        if store.exists(name):
            store.fs.delete_file(f"{store.path}/{name}")
    return Forgotten(
        rows=len(note["ids"]), runs=note["runs"], models=tuple(models), features=note["features"],
        trained=tuple(note["trained"]), told=tuple(told),
    )  # fmt: skip


def _bury(store: Folder, note: Mapping[str, Any]) -> None:
    """Write the tombstone: hashes, when, why; no data of a face."""
    rows, files = ([tombstone(text) for text in sorted(note[key])] for key in ("ids", "files"))
    about = {"at": note["at"], "reason": note["reason"], "rows": rows, "files": files}
    (store / FOLDER).write_json(f"{digest(rows)}.json", about)


def _others(store: Folder) -> list[str]:
    """List the files in which ids would be plain to see, but for our note and records of others."""
    skipped = (".parquet", ".tar", ".db", NOTE)
    return [path for path in store.files() if not path.endswith(skipped)]


def _is_old_report(path: str) -> bool:
    """Say whether MLflow keeps a page there that a later end of its run has replaced."""
    return "/mlartifacts/" in path and path.endswith("/report.html")


def _bytes(store: Folder, path: str) -> bytes:
    return store.read(path.removeprefix(f"{store.path}/"))


def _scrub(home: Folder, gone: Gone) -> None:
    """Take the rows out of every file; features of videos go as a whole, with all their samples."""
    for folder in feature_folders(home):
        if are_of_videos(folder) and samples_of(folder, gone):
            folder.clear()
    features, records = feature_folders(home), home.files(f"/{PAIRS}")
    for path in home.files():
        if not path.endswith(("/.lock", f"/{NOTE}", f"/{SHEET}")):
            scrub(home, path, gone)
    for folder in features:
        correct_features(folder)
    for path in records:
        correct_pairs(Folder(home.fs, path.rpartition("/")[0]))


def _is_own_mlflow(run: Folder) -> bool:
    """Say whether what a run told MLflow is in a file of the store."""
    record = run.read_json("run.json") or {}
    return not record.get("mlflow") or str(record.get("mlflow_uri", "")).startswith("sqlite")
