"""Write the datasheet that travels with a corpus: what it is, where from, and what it is not for.

References:
    Gebru et al., "Datasheets for Datasets", arXiv:1803.09010.
"""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipelines.reports.funnel import Step, count, percent
from pipelines.reports.page import RunSummary, restricted

_LICENSES = 20
"""How many licences are listed by name; the rest is summed."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


def datasheet(run: RunSummary, kept: pa.Table, steps: Sequence[Step]) -> str:
    """Return the datasheet as Markdown.

    What only a person can know (who pays, whom to write to) is marked "To be filled in".

    Args:
        run: What the run was.
        kept: The kept rows, with the columns in ``DECISIONS``; ``width_px`` and ``height_px`` are
            told where they are there.
        steps: The funnel of all rows.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=False,  # this is Markdown; whatever is not ours goes through ``plain``
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "plain": plain}
    page = files("pipelines.reports").joinpath("datasheet.md.j2").read_text(encoding="utf-8")
    return environment.from_string(page).render(
        run=run,
        steps=steps,
        kept=kept.num_rows,
        errors=count(steps, "error"),
        faces=_tally(kept["num_faces"]),
        sides=_shorter_sides(kept),
        labels=_tally(kept.filter(pc.not_equal(_text(kept["label"]), ""))["label"]),
        web=pc.sum(pc.not_equal(_text(kept["url"]), "")).as_py() or 0,
        licenses=licenses(kept),
        restricted=restricted(run.models),
        settings=_settings(run.recipe_yaml),
    )


def licenses(kept: pa.Table) -> dict[str, int]:
    """Count the kept rows by stated licence, most frequent first; ``""`` is unstated, and last."""
    tally = {str(name): number for name, number in _tally(_text(kept["license"])).items()}
    unstated = tally.pop("", 0)
    ranked = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    named = dict(ranked[:_LICENSES])
    if rest := ranked[_LICENSES:]:
        named[f"{len(rest)} others"] = sum(number for _, number in rest)
    return named | ({"": unstated} if unstated else {})


def plain(text: object) -> str:
    """Write foreign text on one line so that Markdown shows it as it is and runs none of it."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _tally(column: pa.ChunkedArray) -> dict[Any, int]:
    """Count the values of a column, in their order; nulls are not counted."""
    counted = pc.value_counts(column.drop_null()).to_pylist()
    return dict(sorted((item["values"], item["counts"]) for item in counted))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of text without nulls and without blanks at the ends."""
    return pc.utf8_trim_whitespace(pc.fill_null(column, ""))


def _shorter_sides(kept: pa.Table) -> list[int]:
    """Return smallest, median and largest shorter side in pixels; nothing where it is unknown."""
    if not {"width_px", "height_px"} <= set(kept.column_names):
        return []
    sides = pc.min_element_wise(kept["width_px"], kept["height_px"]).drop_null()
    values = np.asarray(sides, dtype=np.float64)
    return [round(side) for side in np.quantile(values, (0, 0.5, 1))] if len(values) else []


def _settings(recipe_yaml: str) -> dict[str, dict[str, Any]]:
    """Read the recipe back as its sections."""
    recipe = yaml.safe_load(recipe_yaml)
    sections = recipe.items() if isinstance(recipe, Mapping) else ()
    return {name: dict(section) for name, section in sections if isinstance(section, Mapping)}
