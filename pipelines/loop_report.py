"""``report.html`` of a loop: what each step took and gave, the scores, what the model draws."""

import base64
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.loop import Looped


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
    page = files("pipelines").joinpath("loop.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(page).render(
        looped=looped,
        said={name: summary(name, result) for name, result in steps.items()},
        scores=steps["evaluate"]["scores"],
        sheet=base64.b64encode(sheet.read_bytes()).decode(),
        corpus_report=steps["curate"]["report"],
        recipe_yaml=recipe_yaml,
    )
    path = Path(looped.path) / "report.html"
    beside = path.with_suffix(".part")
    beside.write_text(html, encoding="utf-8")
    beside.replace(path)
    return path


def summary(step: str, result: dict[str, Any]) -> str:
    """Say in a few words what came of a step."""
    if step == "curate":
        return f"{result['keep']:,} of {result['rows']:,} pictures kept"
    if step == "prepare":
        return f"{result['samples']:,} samples of {result['people']:,} people"
    if step == "train":
        return f"step {result['step']:,}, loss {result['loss']:.4f}"
    if step == "evaluate":
        told = [f"{n} {s['value']:.3f}" for n, s in result["scores"].items() if n in _FIRST]
        return ", ".join(told) + f", {result['people']} people it never saw"
    return f"{result['model']}, champion {result['champion']}: {result['why']}"


_FIRST = ("auc", "facesim")
