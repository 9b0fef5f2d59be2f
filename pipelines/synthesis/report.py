"""What came of a synthetic corpus, by the encoder, on the drawn pictures: report.json, report.html.

Nothing is taken from the vectors that were asked for: a model may draw everybody alike.
"""

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.reports.thumbnails import Thumbnail, thumbnail
from pipelines.synthesis.plan import MEASURES, Plan
from training.evaluation.metrics import Score, flattened, mean_score
from training.evaluation.separation import separation
from training.synthetic import Space

REPORT, PAGE = "report.json", "report.html"
SHOWN_PEOPLE, SHOWN_PICTURES = 24, 8
WORDS = {
    "face_share": "pictures in which a face is found",
    "asked_similarity": "similarity of a picture to the vector that it was drawn from",
    "consistency": "similarity between pictures of one person",
    "consistent_share": "pairs of pictures of one person that count as one person",
    "impostor_similarity": "similarity between two people",
    "impostor_share": "pairs of people who count as one person",
    "separable_share": "people whom nobody else is mistaken for",
    "nearest_real": "similarity to the most similar real person",
    "nearest_real_of_real": "the same of real people, to the other real ones",
    "cloned_share": "people who count as somebody real",
    "cloned_share_of_real": "real people who count as some other real one",
    "auc": "two pictures of one person are nearer than of two people",
}


@dataclass(frozen=True)
class Report:
    """How it ended."""

    path: str
    people: int
    pictures: int
    below: float
    scores: dict[str, dict[str, float]]
    """By name in ``WORDS``: value, low, high, n."""
    people_cells: dict[str, int]
    """People by what was planned of them."""
    picture_cells: dict[str, dict[str, dict[str, float]]]
    """Per planned cell and measure: ``pictures`` that show a face, their ``mean``, and ``inside``,
    the share of them within the range."""
    explained: dict[str, float]
    """Share of the differences between photographs of a real person that goes with each measure:
    where it is small, a vector can say little about it."""
    signed_by: str

    @staticmethod
    def read(home: Folder) -> "Report | None":
        """Read the report of a finished corpus."""
        held = home.read_json(REPORT)
        return Report(**held) if held else None


def write_report(home: Folder, plan: Plan, space: Space, below: float, signed_by: str) -> Report:
    """Measure what was drawn; write the page and, last, ``report.json``."""
    columns = ["person", "picture", "num_faces", "face_embeddings", "asked_vector", "people_cell",
               "picture_cell", *MEASURES.values()]  # fmt: skip
    rows = [row for path in (home / "export/parquet").files(".parquet")
            for row in pq.read_table(path, columns=columns).to_pylist()]  # fmt: skip
    rows.sort(key=lambda row: (row["person"], row["picture"]))
    dim = len(space.centre)
    vectors = np.array([row["face_embeddings"][0] if row["num_faces"] else [np.nan] * dim
                        for row in rows], np.float64)  # fmt: skip
    whose = [row["person"] for row in rows]
    scores = _per_person(space, rows, vectors) | separation(space, vectors, whose, below)
    report = Report(
        path=str(home),
        people=len(set(whose)),
        pictures=len(rows),
        below=below,
        scores=flattened({name: scores[name] for name in WORDS if name in scores}),
        people_cells=dict(Counter({row["person"]: row["people_cell"] for row in rows}.values())),
        picture_cells=_cells(plan, rows),
        explained=space.explained,
        signed_by=signed_by,
    )
    home.write(PAGE, _page(home, report))
    home.write_json(REPORT, json.loads(json.dumps(asdict(report), allow_nan=False)))
    return report


def _per_person(space: Space, rows: list[dict[str, Any]], vectors: np.ndarray) -> dict[str, Score]:
    """Score who is seen at all, and who was asked for."""
    asked = space.compared(np.array([row["asked_vector"] for row in rows], np.float64))
    alike = (space.compared(vectors) * asked).sum(axis=1)
    faces: dict[int, list[float]] = defaultdict(list)
    alikes: dict[int, list[float]] = defaultdict(list)
    for row, value in zip(rows, alike.tolist(), strict=True):
        faces[row["person"]].append(float(row["num_faces"] > 0))
        if row["num_faces"]:
            alikes[row["person"]].append(value)
    found = {
        "face_share": mean_score(np.array([np.mean(each) for each in faces.values()])),
        "asked_similarity": mean_score(np.array([np.mean(each) for each in alikes.values()])),
    }
    return {name: score for name, score in found.items() if score is not None}


def _cells(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Compare what pictures are like with what was planned."""
    told: dict[str, dict[str, dict[str, float]]] = {}
    for cell in plan.pictures:
        mine = [row for row in rows if row["picture_cell"] == str(cell) and row["num_faces"]]
        told[str(cell)] = {}
        for name, (low, high) in cell.ranges.items():
            values = np.array([row[MEASURES[name]][0] for row in mine])
            inside = (values >= low) & (values <= high)
            told[str(cell)][name] = {
                "pictures": float(len(values)),
                "mean": float(values.mean()) if len(values) else 0.0,
                "inside": float(inside.mean()) if len(values) else 0.0,
            }
    return told


def _page(home: Folder, report: Report) -> str:
    """Lay out scores, and the first people's pictures."""
    from jinja2 import Environment, StrictUndefined

    people: dict[int, list[Thumbnail | None]] = defaultdict(list)
    for path in (home / "export/parquet").files(".parquet"):
        if len(people) >= SHOWN_PEOPLE:
            break
        for row in pq.read_table(path, columns=["person", "blob"]).to_pylist():
            known = row["person"] in people
            if known or len(people) < SHOWN_PEOPLE:
                shown = people[row["person"]]
                if len(shown) < SHOWN_PICTURES:
                    shown.append(thumbnail(row["blob"], []))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = files("pipelines.synthesis").joinpath("synthesize.html.j2").read_text(encoding="utf-8")
    return environment.from_string(page).render(report=report, words=WORDS, people=people)
