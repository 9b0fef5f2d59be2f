"""Which of the captions of a corpus its features are told by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import UnreadableSource
from pipelines.features.recipes import PrepareRecipe

Kind = Literal["merged", "attributes", "action", "alt"]
_COLUMNS: dict[Kind, str] = {
    "merged": "caption_merged",
    "attributes": "caption_attributes",
    "action": "caption_action",
    "alt": "caption",
}
_MAKE_THEM = "Curate it with --captions.backend template, or http and a model that sees."
_NO_TEXTS = "Give --caption auto, which takes captions that were made, or goes without."


def caption_text(row: Mapping[str, Any], recipe: PrepareRecipe) -> str:
    """Return what is said of an exported row; ``recipe.caption`` is not ``auto`` any more."""
    assert recipe.caption != "auto"
    return str(row.get(_COLUMNS[recipe.caption]) or "")


def chosen_caption(files: list[Path], recipe: PrepareRecipe) -> Kind:
    """Return the kind of captions that is used.

    Raises:
        UnreadableSource: They are asked for by name, and no row of the corpus has one.
    """
    wanted: Kind = "merged" if recipe.caption == "auto" else recipe.caption
    if any(_has_any(path, _COLUMNS[wanted]) for path in files):
        return wanted
    if recipe.caption == "auto":
        return "alt"
    why = f"none of its pictures has a caption of the kind {wanted!r}"
    raise UnreadableSource(recipe.corpus, why, _MAKE_THEM if wanted != "alt" else _NO_TEXTS)


def _has_any(path: Path, column: str) -> bool:
    """Say whether any row of a file has such a text."""
    if column not in pq.read_schema(path).names:
        return False
    texts = pq.read_table(path, columns=[column])[column].cast(pa.string())
    return bool(pc.any(pc.greater(pc.utf8_length(texts), 0)).as_py())
