"""Two runs, scored on the same people from the same noise: what differs, and is it chance?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.errors import BadValue
from pipelines.evaluate import Evaluated, evaluate
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.evaluation.subject import Subject
from pipelines.evaluation.tables import number, words_of
from training.evaluation.metrics import Difference, paired

COMPARISON = "comparison.json"


def compare(
    run: str, against: str, console: Console, settings: EvaluateSettings
) -> tuple[Evaluated, dict[str, Any]]:
    """Score both runs alike and compare them person by person; write ``comparison.json``.

    Raises:
        BadValue: They cannot be compared; the message says why.
        BadInput: As ``pipelines.evaluate.evaluate``.
    """
    _check(Subject.open(run, settings), Subject.open(against, settings), against)
    theirs = evaluate(against, console, settings)
    ours = evaluate(run, console, settings)
    differences = paired_scores(ours, theirs)
    said = {
        "run": f"{ours.about['run']}/{ours.about['evaluation']}",
        "against": f"{theirs.about['run']}/{theirs.about['evaluation']}",
        "people_digest": ours.about["people_digest"],
        "differences": {name: asdict(each) for name, each in differences.items()},
    }
    path = ours.folder / f"against-{theirs.about['run']}-{theirs.about['evaluation']}.json"
    for where in (path, Path(run) / COMPARISON):
        beside = where.with_name(f".{where.name}.part")
        beside.write_text(json.dumps(said, indent=2, allow_nan=False) + "\n")
        beside.replace(where)
    console.print(_table(ours, theirs, differences))
    return ours, said


def _check(ours: Subject, theirs: Subject, against: str) -> None:
    """Refuse, before anything is drawn, what would not be measured alike."""
    here, there = ours.prepared, theirs.prepared
    for why, a, b in (
        ("they are of different corpora", here.features.corpus, there.features.corpus),
        ("different encoders measure them", here.features.embedder, there.features.embedder),
        ("one draws videos, the other pictures", ours.of_videos, theirs.of_videos),
        ("one draws aligned faces, the other whole pictures", ours.aligned, theirs.aligned),
        ("different people were held out, so one may have been trained on whom the other is asked "
         "for", ours.people.digest, theirs.people.digest),
    ):  # fmt: skip
        if a != b:
            cure = f"{why} ({a} here, {b} there). Compare runs on one corpus and held-out share."
            raise BadValue("against", against, cure)


def paired_scores(ours: Evaluated, theirs: Evaluated) -> dict[str, Difference]:
    """Compare every score that both have per person, by name."""
    mine, other = ours.each, theirs.each
    return {
        name: paired(mine[name], other[name])
        for name in words_of(ours.about)
        if name in mine and name in other
    }


def _table(ours: Evaluated, theirs: Evaluated, differences: dict[str, Difference]) -> Table:
    rows = Table(
        title=f"{ours.about['run']} less {theirs.about['run']}, the same people and noise",
        caption="95 % by the bootstrap over people; p by turning signs at random, for each score "
        "alone: of twenty scores one is below 0.05 by chance.",
        box=None, pad_edge=False, header_style="bold", title_justify="left",
        caption_justify="left",
    )  # fmt: skip
    for name in ("", "this", "that", "difference", "95 %", "p", "n"):
        rows.add_column(name, justify="right" if name else "left", no_wrap=bool(name))
    for name, each in differences.items():
        rows.add_row(
            words_of(ours.about)[name],
            number(ours.about["scores"][name]["value"]),
            number(theirs.about["scores"][name]["value"]),
            f"{each.mean:+.4f}",
            f"{each.low:+.4f} to {each.high:+.4f}",
            f"{each.p:.2g}",
            str(each.n),
        )
    return rows
