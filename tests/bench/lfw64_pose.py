"""Does a model of lfw64 follow its prompt? ``python -m tests.bench.lfw64_pose RUN --features F``.

Captions by template say how heads are held, so that is what can be asked for. Every held-out person
is drawn twice from one noise, asked to turn to the picture's right and to its left, and the five
landmarks that dlib finds say how far the two are apart in yaw: 0 degrees if words are ignored. The
same difference between photographs that curation described so is the most that can be hoped for.

Of a method that is shown landmarks these are the reference's, in both.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from pipelines.synthesis.faces import Looker, png
from stages.types import RGB
from training.build import load_export
from training.evaluation.drawing import (
    HeldOut,
    Photographs,
    Plan,
    condition,
    draw,
    held_out,
    takes_text,
)
from training.evaluation.metrics import Score, mean_score
from training.features import Prepared
from training.method import Condition, Method
from training.nets.text import load_text_encoder

SIDES = ("right", "left")
PROMPT = "One person turned slightly to the {}."


def yaws(looker: Looker, pictures: list[RGB]) -> np.ndarray:
    """Return the yaw of each picture's face in degrees; nan where none is found."""
    rows = looker.look(pictures, [png(picture, "bench") for picture in pictures])
    return np.array([row["face_yaws_deg"][0] if row["num_faces"] else np.nan for row in rows])


def of_photographs(prepared: Prepared, method: Method, looker: Looker, most: int) -> Score | None:
    """Measure photographs that have the two captions, as many of each, in pairs by chance."""
    index = pq.read_table(prepared.folder / "index.parquet", columns=["id", "caption"])
    captions = np.array(index.sort_by("id")["caption"].to_pylist())
    show = Photographs(prepared, method.codec, "cpu")
    told = [np.flatnonzero(captions == PROMPT.format(side))[:most] for side in SIDES]
    fewest = min(map(len, told))
    right, left = (yaws(looker, show(samples[:fewest])) for samples in told)
    return mean_score(right - left)


def of_drawings(
    method: Method, prepared: Prepared, people: HeldOut, plan: Plan, looker: Looker
) -> Score | None:
    """Draw everybody to both sides, and measure."""
    encoder = load_text_encoder(prepared.features.text_encoder)
    found = []
    for side in SIDES:
        text, _ = encoder.encode([PROMPT.format(side)])
        asked: Condition = condition(method, prepared, people.first, people.first)
        asked = replace(asked, text=text.expand(len(people.first), -1, -1))
        rng = torch.Generator().manual_seed(0)
        found.append(yaws(looker, list(draw(method, asked, plan, rng))))
    return mean_score(found[0] - found[1])


def main() -> None:
    """Measure one checkpoint; print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--heldout-share", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--photographs", action="store_true", help="of these, not of drawings")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = max(asked.run.glob("step-*"))
    method = load_export(checkpoint / "export").eval()
    prepared = Prepared(asked.features)
    looker = Looker(prepared.features, aligned=True, pack="", device="cpu")
    score = None
    if asked.photographs:
        score = of_photographs(prepared, method, looker, asked.people)
    elif takes_text(method, prepared):
        people = held_out(prepared, asked.heldout_share, asked.people)
        plan = Plan(people=asked.people, seeds=1, steps=asked.steps, guidance=asked.guidance)
        score = of_drawings(method, prepared, people, plan, looker)
    print(json.dumps(asdict(score) if score else None))


if __name__ == "__main__":
    main()
