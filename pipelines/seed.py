"""From a source to canonical rows with lasting ids, and the rules that need no pixels."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.progress import Reporter
from pipelines.recipes import Recipe
from pipelines.sources import Listing, members, table_rows, url_rows
from stages.chain import as_arrow
from stages.columns import SEED, schema
from stages.forgotten import forgotten_row, tombstone
from stages.web.canonical import canonical_url, row_id
from stages.words import human_terms

ROWS_PER_FILE = 65_536
_TEXTS = frozenset(field.name for field in schema(SEED) if pa.types.is_string(field.type))
_VERDICTS: dict[str, Any] = {
    "rejected_by": "", "error": "", "error_detail": "", "dup_of": "", "dup_kind": "",
}  # fmt: skip


def seed(
    listing: Listing,
    recipe: Recipe,
    target: Folder,
    reporter: Reporter,
    forgotten: frozenset[str] = frozenset(),
) -> str:
    """Write one row per picture that the source names; return a digest of the rows.

    The digest covers ids, places and verdicts, so that a setting that changes no row changes
    nothing downstream. The ids of a source's URLs are held in memory, about 100 bytes each, to
    find repeated ones. Of rows whose tombstone is in ``forgotten`` only their place is written.
    """
    target.clear()  # quick to write again, and no marker says how far a crash let it come
    target.make()
    seen = hashlib.sha256()
    rows: list[dict[str, Any]] = []
    number = 0
    for row in seed_rows(listing, recipe, forgotten):
        digest_row(seen, row)
        rows.append(row)
        if len(rows) == ROWS_PER_FILE:
            _write(target, number, rows)
            rows, number = [], number + 1
            reporter.console.print(f"seed: {number * ROWS_PER_FILE:,} rows")
    if rows or number == 0:
        _write(target, number, rows)
    return seen.hexdigest()[:16]


def digest_row(seen: "hashlib._Hash", row: Mapping[str, Any]) -> None:
    """Add a row to the digest of all rows."""
    seen.update("\0".join(str(row[k]) for k in ("id", "source", "offset", "caption", "label",
                "license", "rejected_by", "error", "dup_of")).encode())  # fmt: skip


def seed_rows(
    listing: Listing, recipe: Recipe, forgotten: frozenset[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """Yield canonical rows in the order of the source."""
    if listing.kind in ("folder", "tar"):
        rows = _local_rows(listing, recipe)
    else:
        rows = _web_rows(listing, recipe)
    for number, row in enumerate(rows):
        row["source_row"] = number
        row["status"] = "error" if row["error"] else "reject" if row["rejected_by"] else "keep"
        if forgotten and {tombstone(row["id"]), tombstone(row["dup_of"])} & forgotten:
            row = forgotten_row(row, SEED, _TEXTS)
        yield row


def _local_rows(listing: Listing, recipe: Recipe) -> Iterator[dict[str, Any]]:
    blank = dict.fromkeys(SEED) | _VERDICTS
    for found in members(listing):
        source = PurePosixPath(found.source).name
        label = PurePosixPath(found.member).parent.name if recipe.source.folders_are_people else ""
        rejected = ""
        if recipe.keep.human_terms and not human_terms([found.caption], recipe.keep.human_terms)[0]:
            rejected = "no_human_term"
        yield blank | {
            "id": row_id("file", source, found.member),
            "url": "",
            "source": found.source,
            "member": found.member,
            "offset": found.offset,
            "length": found.length,
            "caption": found.caption,
            "label": label or found.label,
            "license": found.license or recipe.source.license,
            "rejected_by": rejected,
        }


def _web_rows(listing: Listing, recipe: Recipe) -> Iterator[dict[str, Any]]:
    batches = url_rows(listing) if listing.kind == "urls" else table_rows(listing, recipe.source)
    source = (
        str(Folder(listing.root.fs, listing.files[0]))
        if len(listing.files) == 1
        else str(listing.root)
    )
    blank = dict.fromkeys(SEED) | _VERDICTS | {"source": source, "member": "", "offset": 0}
    first_of: set[str] = set()
    number = 0
    for batch in batches:
        captions = [_text(value) for value in batch["caption"]]
        terms = human_terms(captions, recipe.keep.human_terms)
        columns = (batch[name] for name in ("url", "license", "label", "width", "height"))
        for url, license_, label, width, height, caption, term in zip(
            *columns, captions, terms, strict=True
        ):
            width_px, height_px = _pixels(width), _pixels(height)
            row = blank | {
                "caption": caption,
                "label": _text(label),
                "license": _text(license_) or recipe.source.license,
                "declared_width_px": width_px,
                "declared_height_px": height_px,
            }
            row |= _identity(_text(url), number, first_of)
            sides = [side for side in (width_px, height_px) if side is not None]
            if row["error"] or row["rejected_by"]:
                pass
            elif sides and min(sides) < recipe.keep.min_side_px:
                row["rejected_by"] = "declared_small"
            elif recipe.keep.human_terms and not term:
                row["rejected_by"] = "no_human_term"
            number += 1
            yield row


def _identity(url: str, number: int, first_of: set[str]) -> dict[str, Any]:
    """Give a URL its id, or say that it repeats another or is none."""
    try:
        canonical = canonical_url(url)
    except ValueError as error:
        return {
            "id": row_id("bad", url, str(number)),
            "url": url,
            "error": "bad_url",
            "error_detail": str(error),
        }
    row = row_id(canonical)
    if row in first_of:
        # Every row needs an id of its own: a resumed run tells rows apart by it.
        again = row_id(canonical, str(number))
        return {"id": again, "url": canonical, "rejected_by": "duplicate_url", "dup_of": row,
                "dup_kind": "url"}  # fmt: skip
    first_of.add(row)
    return {"id": row, "url": canonical}


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _pixels(value: object) -> int | None:
    """Read a declared side; tables hold floats, strings and nothing at all."""
    try:
        side = int(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return side if 0 < side < 2**31 else None


def _write(target: Folder, number: int, rows: list[dict[str, Any]]) -> None:
    table = pa.table({name: as_arrow(name, [row[name] for row in rows]) for name in SEED})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    target.write(f"part-{number:05d}.parquet", sink.getvalue().to_pybytes())
