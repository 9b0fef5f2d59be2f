"""``python -m training.loop``: one plain process, with torch and nothing of a cluster."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from infra.configuration import from_yaml, overlay, to_yaml
from infra.errors import BadValue, VisageError
from training.build import build
from training.engine import PlainEngine
from training.evaluation.validation import validator
from training.hacking import Hacked
from training.loop import Report, ReportFile, fit
from training.recipes import recipe
from training.settings import TrainRecipe


def main(arguments: Sequence[str]) -> int:
    """Parse, train, tell; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.loop",
        description="Train a recipe as one process; the same command goes on where it was.",
    )
    parser.add_argument("recipe", help="a recipe's name, or the path of its YAML file")
    parser.add_argument("--data", required=True, help="folder that `visage prepare` wrote")
    parser.add_argument("--out", default="", help="folder of this run (default: trained/RECIPE)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="a setting by its dotted name, such as optimiser.learning_rate=1e-4",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    try:
        chosen = settled(asked.recipe, asked.data, asked.settings)
        out = Path(asked.out or f"trained/{chosen.name}")
        step = _train(chosen, out)
    except VisageError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. The same command goes on from the newest checkpoint.\n")
        return 130
    if step < chosen.steps:
        sys.stderr.write(f"Ended at step {step}, after a checkpoint. The same command goes on.\n")
        return 143
    return 0


def settled(name: str, data: str, settings: Sequence[str]) -> TrainRecipe:
    """Return a recipe with settings laid over it.

    Raises:
        BadInput: The recipe or a setting is not known, or a value cannot work.
    """
    path = Path(name)
    is_file = path.suffix in (".yaml", ".yml") and path.is_file()
    chosen = from_yaml(path, TrainRecipe(name=path.stem)) if is_file else recipe(name)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadValue("--set", setting, "give KEY=VALUE, such as steps=100.")
        nested: Any = _scalar(value)
        for part in reversed(key.split(".")):
            nested = {part.replace("-", "_"): nested}
        chosen = overlay(chosen, nested, "--set")
    return replace(chosen, data=replace(chosen.data, path=data))


def _scalar(value: str) -> object:
    """Read a number, a truth or a word; YAML alone takes 1e-4 for a word."""
    try:
        return float(value) if "e" in value.lower() else yaml.safe_load(value)
    except ValueError:
        return yaml.safe_load(value)


def _train(chosen: TrainRecipe, out: Path) -> int:
    if chosen.scale.workers > 1 or chosen.scale.zero_stage or chosen.scale.offload:
        raise BadValue(
            "scale", f"{chosen.scale.workers} workers, ZeRO {chosen.scale.zero_stage}",
            "this is one plain process; `visage train` starts many.",
        )  # fmt: skip
    if chosen.scale.use_gpu and not torch.cuda.is_available():
        raise BadValue("scale.use_gpu", True, "torch sees no GPU here.")
    if chosen.scale.threads:
        torch.set_num_threads(chosen.scale.threads)
    job = build(chosen)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(to_yaml(chosen))
    keep, hacked = ReportFile(out), Hacked(out)

    def tell(report: Report) -> None:
        keep(report)
        if said := hacked(report):
            sys.stdout.write(f"{said}\n")
        left_s = (chosen.steps - report.step) * chosen.batch / report.images_per_s
        sys.stdout.write(
            f"step {report.step} of {chosen.steps}: loss {report.losses['loss']:.4f}, "
            f"{report.images_per_s:,.1f} images/s, {left_s:,.0f} s left\n"
        )
        sys.stdout.flush()

    validate = validator(job, chosen, out)
    engine = PlainEngine(job.method, chosen)
    return fit(engine, job.batches, chosen, out, tell, validate=validate)
