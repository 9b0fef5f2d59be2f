"""``report.html`` of a loop: what each step took and gave, the scores, what the model draws."""

import base64
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation.tables import number, words_of

if TYPE_CHECKING:
    from pipelines.loop import Looped

FEW_PEOPLE = 30
"""Held-out people below which scores say little of a model."""


def write_report(looped: "Looped", recipe_yaml: str) -> Path:
    """Write the page into the loop's folder, whole, and return its path.

    Args:
        looped: How the loop ended.
        recipe_yaml: Its recipe, to be shown.
    """
    from jinja2 import Environment, StrictUndefined

    steps = {name: step.result for name, step in looped.steps.items()}
    sheet = Path(steps["evaluate"]["path"]) / "contact.png"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = files("pipelines.loops").joinpath("loop.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(page).render(
        looped=looped,
        said={name: summary(name, result) for name, result in steps.items()},
        scores=_in_words(steps["evaluate"], "scores"),
        absent=_in_words(steps["evaluate"], "absent"),
        number=number,
        caution=caution(steps["evaluate"]),
        # Gone, where somebody on it asked to be forgotten.
        sheet=base64.b64encode(sheet.read_bytes()).decode() if sheet.exists() else "",
        corpus_report=os.path.relpath(steps["curate"]["report"], looped.path),
        recipe_yaml=recipe_yaml,
    )
    path = Path(looped.report)
    beside = path.with_suffix(".part")
    beside.write_text(html, encoding="utf-8")
    beside.replace(path)
    return path


def summary(step: str, result: dict[str, Any]) -> str:
    """Say in a few words what came of a step."""
    if step == "curate":
        return f"{result['keep']:,} of {result['rows']:,} pictures kept"
    if step == "pairs":
        told = [f"{n:,} {kind}s" for kind, n in result["matches"].items()]
        return f"{', '.join(told) or 'no pairs'} of {result['identities']:,} people"
    if step == "prepare":
        return f"{result['samples']:,} samples of {result['people']:,} people"
    if step == "train":
        return f"step {result['step']:,}, loss {result['loss']:.4f}"
    if step == "evaluate":
        told = [f"{n} {s['value']:.3f}" for n, s in result["scores"].items() if n in _FIRST]
        return ", ".join(told) + f", {result['people']} people it never saw"
    if step == "release":
        return f"{result['model']}, champion {result['champion']}: {result['why']}"
    where = "until this command ends" if result["is_local"] else "on the cluster"
    return f"{result['version']} at {result['url']}, {where}"


def caution(evaluated: dict[str, Any]) -> str:
    """Say what an evaluation cannot tell; nothing where it had people enough."""
    people = evaluated["people"]
    if people >= FEW_PEOPLE:
        return ""
    return (
        f"{people} held-out people are too few to say whether the model keeps people that it never "
        "saw. These scores show that measuring works; they, and their intervals, judge no model."
    )


def _in_words(about: Mapping[str, Any], which: str) -> dict[str, Any]:
    """Name scores, or the absent ones, as a person reads them, in the usual order."""
    words = words_of(about)
    return {name: (words[name], about[which][name]) for name in words if name in about[which]}


_FIRST = ("auc", "facesim")
