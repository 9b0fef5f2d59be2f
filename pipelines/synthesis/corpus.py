"""What a corpus says of real people: their vectors, what was measured, and labels that it has."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float32

from infra.configuration import digest
from infra.errors import UnreadableSource
from pipelines.exported import export_files
from pipelines.synthesis.plan import MEASURES, Plan

_NEEDED = ["id", "label", "identity", "num_faces", "face_embeddings", "embedder"]


@dataclass(frozen=True)
class RealPeople:
    """The main faces of a corpus. All vectors are in memory: 2 KiB per face of 512 numbers."""

    vectors: Float32[np.ndarray, "photos dim"]
    whose: list[str]
    embedder: str
    measured: dict[str, np.ndarray]
    """By name in ``MEASURES``, one value per photograph; nan where there is none."""
    groups: dict[str, str]
    """The cell of a plan that each person belongs to, in words."""
    digest: str
    """Changes with the corpus."""


def read_people(corpus: str, plan: Plan) -> RealPeople:
    """Read the main face of every photograph; those without one, or anonymised, are left out.

    A person is the identity that curation found, or else the source's label, or else each
    photograph is somebody.

    Raises:
        UnreadableSource: The corpus is no finished export, or lacks a column of the plan, or its
            vectors are of several encoders or of nobody.
    """
    home, paths = export_files(corpus)
    if not home.is_local:
        raise UnreadableSource(corpus, "it is in an object store", "Copy it to a folder.")
    files = [Path(path) for path in paths]
    vectors: list[np.ndarray] = []
    whose: list[str] = []
    embedders: set[str] = set()
    measured: dict[str, list[float]] = {name: [] for name in MEASURES}
    labels: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for path in files:
        names = pq.read_schema(path).names
        _check(corpus, plan, names)
        columns = [n for n in (*_NEEDED, *MEASURES.values(), *plan.columns) if n in names]
        for row in pq.read_table(path, columns=columns).to_pylist():
            vector = _main_vector(row)
            if vector is None:
                continue
            person = row.get("identity") or row.get("label") or row["id"]
            vectors.append(vector)
            whose.append(person)
            embedders.add(row["embedder"])
            for name, column in MEASURES.items():
                held = row.get(column)
                measured[name].append(float(held[0]) if held else np.nan)
            for name in plan.columns:
                if row[name] not in (None, ""):
                    labels[person][name][str(row[name])] += 1
    if not vectors:
        raise UnreadableSource(corpus, "nobody in it has a face", "Curate it differently.")
    if len(embedders) > 1:
        raise UnreadableSource(
            corpus,
            f"its identity vectors are of several encoders: {', '.join(sorted(embedders))}",
            "Vectors of two encoders cannot be compared: curate all of it with one.",
        )
    values = {name: np.array(held) for name, held in measured.items()}
    return RealPeople(
        vectors=np.stack(vectors),
        whose=whose,
        embedder=embedders.pop(),
        measured={n: held for n, held in values.items() if np.isfinite(held).any()},
        groups=_groups(labels, plan),
        digest=digest([[path.name, path.stat().st_size] for path in files]),
    )


def _main_vector(row: dict[str, Any]) -> np.ndarray | None:
    """Return the main face's vector, if there is one that says who it is."""
    if not row["num_faces"]:
        return None
    vector = np.array(row["face_embeddings"][0], np.float32)
    return vector if np.isfinite(vector).all() and vector.any() else None


def _check(corpus: str, plan: Plan, names: list[str]) -> None:
    for column in plan.columns:
        if column not in names:
            raise UnreadableSource(
                corpus,
                f"it has no column {column!r}, which the plan wants people balanced by",
                "Nothing of that kind is guessed from faces: give a corpus whose rows carry it, "
                "or take it out of the plan.",
            )


def _groups(labels: dict[str, dict[str, Counter[str]]], plan: Plan) -> dict[str, str]:
    """Put people into the cell whose labels most of their photographs have."""
    cells = {tuple(cell.labels[name] for name in plan.columns): str(cell) for cell in plan.people}
    groups: dict[str, str] = {}
    for person, told in labels.items():
        mine = tuple(_commonest(told[name]) for name in plan.columns)
        if mine in cells:
            groups[person] = cells[mine]
    return groups


def _commonest(seen: Counter[str]) -> str:
    """Return the most frequent value; of equals the first by the alphabet, whatever came first."""
    return min(seen, key=lambda value: (-seen[value], value), default="")
