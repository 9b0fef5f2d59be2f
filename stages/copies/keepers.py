"""Which of several copies is kept, and of which row every other one is a copy."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, UInt8

from stages.copies.bands import join_near
from stages.copies.looks import Groups, Looks
from stages.copies.semantic import Points, join_alike, present
from stages.copies.settings import DedupeSettings
from stages.spread import HERE, Spread

COMPARED = [
    "id", "sha256", "pdq", "pdq_mirror", "pdq_quality", "width_px", "height_px",
    "face_sharpness", "bytes_len",
]  # fmt: skip
"""All that finding copies reads of a row, embeddings apart."""
FOUND = pa.schema([("id", pa.string()), ("dup_of", pa.string()), ("dup_kind", pa.string())])


def find_duplicates(
    rows: pa.Table,
    settings: DedupeSettings,
    points: Points | None = None,
    spread: Spread = HERE,
) -> pa.Table:
    """Say of each kept row which better row it repeats.

    The keeper of a group is the picture with the most pixels, then with the sharpest main face,
    then the largest file, then the smallest id. Groups are closed under chains: when A is near B
    and B near C, one of the three is kept. The answer does not depend on the order of ``rows``.

    Copies turned by 90 or 180 degrees are not looked for: faces are found in upright pictures
    only, so that such copies have been rejected before.

    Args:
        rows: The columns ``COMPARED`` of the rows that nothing rejected. A row without a file's
            hash, or without a picture's, is not compared by it.
        settings: When two pictures are one.
        points: An embedding per row, see ``semantic.on_grid``; None: none are compared.
        spread: Who looks for near hashes and compares embeddings. Equal files, groups and keepers
            are found in this process.

    Returns:
        Columns id, dup_of, dup_kind, one row per duplicate. The kind is exact where the bytes are
        the keeper's, near where a chain of near hashes leads to it, else semantic.
    """
    order = _best_first(rows)
    rows = rows.select(COMPARED).take(pa.array(order)).combine_chunks()
    groups = Groups(rows.num_rows)  # rows stand best first: the first of a group is its keeper
    files = _codes(rows["sha256"])
    _join_equal(files, groups)
    clear = _clear(rows, settings)
    asked = clear[_firsts(files[clear])]  # one of each set of equal files is enough to compare
    _join_near(rows, asked, settings, groups, spread)
    near = groups.labels
    if points is not None:
        asked = asked[present(points[order[asked]])]
        found = Groups(len(asked))
        join_alike(
            points[order[asked]],
            _looks(rows, asked, settings.mirrored),
            found,
            min_cosine=settings.min_cosine,
            max_distance=settings.max_semantic_pdq_distance,
            spread=spread,
        )
        groups.join(np.stack([asked, asked[found.labels]], axis=1))
    return _table(rows["id"], groups.labels, files, near)


def _best_first(rows: pa.Table) -> Int64[np.ndarray, " rows"]:
    """Order rows by quality; the id decides between equals, so that the order is total."""
    width, height = (rows[name].cast(pa.int64()) for name in ("width_px", "height_px"))
    keys = pa.table(
        {
            "area": pc.multiply(width, height),
            "sharpness": _main_sharpness(rows["face_sharpness"]),
            "bytes_len": rows["bytes_len"],
            "id": rows["id"],
        }
    )
    by = [(name, "descending") for name in ("area", "sharpness", "bytes_len")]
    order = pc.sort_indices(keys, sort_keys=[*by, ("id", "ascending")])
    return np.asarray(order.to_numpy().astype(np.int64))


def _main_sharpness(column: pa.ChunkedArray) -> Float64[np.ndarray, " rows"]:
    """Return the sharpness of each row's first face, 0 without any."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = pc.fill_null(pc.list_flatten(column), 0.0).to_numpy()
    starts = np.cumsum(lengths) - lengths
    found = np.zeros(len(lengths))
    found[lengths > 0] = values[starts[lengths > 0]]
    return np.nan_to_num(found)


def _codes(column: pa.ChunkedArray) -> Int64[np.ndarray, " rows"]:
    """Number the values of a column, equal ones alike; every null has a number of its own."""
    encoded = column.dictionary_encode()  # all chunks by one dictionary
    numbers = pa.chunked_array([chunk.indices for chunk in encoded.chunks], pa.int32())
    alone = pa.array(-1 - np.arange(len(column)))
    return np.asarray(pc.coalesce(numbers.cast(pa.int64()), alone).to_numpy())


def _firsts(codes: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " distinct"]:
    """Return where each code is first met, in ascending order."""
    return np.sort(np.unique(codes, return_index=True)[1])


def _join_equal(codes: Int64[np.ndarray, " rows"], groups: Groups) -> None:
    """Join the rows that have the same code."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    groups.join(np.stack([np.arange(len(codes)), first[inverse]], axis=1))


def _clear(rows: pa.Table, settings: DedupeSettings) -> Int64[np.ndarray, " clear"]:
    """Return the rows whose perceptual hashes are there and mean something."""
    good = pc.greater_equal(rows["pdq_quality"], settings.min_pdq_quality)
    for name in ("pdq", "pdq_mirror"):
        good = pc.and_(good, pc.is_valid(rows[name]))
    return np.flatnonzero(pc.fill_null(good, False).to_numpy())


def _join_near(
    rows: pa.Table,
    asked: Int64[np.ndarray, " asked"],
    settings: DedupeSettings,
    groups: Groups,
    spread: Spread,
) -> None:
    """Join the rows with near hashes, having joined those with equal ones."""
    looks = _looks(rows, asked, settings.mirrored)
    both = [looks.plain] if looks.mirrors is None else [looks.plain, looks.mirrors]
    codes = _codes(pa.chunked_array([_fixed(np.concatenate(both, axis=1))]))
    distinct = _firsts(codes)
    found = Groups(len(asked))
    _join_equal(codes, found)
    near = Groups(len(distinct))
    mirrors = None if looks.mirrors is None else looks.mirrors[distinct]
    join_near(Looks(looks.plain[distinct], mirrors), settings.max_pdq_distance, near, spread)
    found.join(np.stack([distinct, distinct[near.labels]], axis=1))
    groups.join(np.stack([asked, asked[found.labels]], axis=1))


def _fixed(values: UInt8[np.ndarray, "rows width"]) -> pa.Array:
    """View bytes as an Arrow column of values of one size."""
    rows, width = values.shape
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.binary(width), rows, [None, buffer])


def _looks(rows: pa.Table, asked: Int64[np.ndarray, " asked"], mirrored: bool) -> Looks:
    """Return the hashes of some rows."""
    names = ("pdq", "pdq_mirror") if mirrored else ("pdq",)
    return Looks(*(_packed(rows[name], asked) for name in names))


def _packed(
    column: pa.ChunkedArray, asked: Int64[np.ndarray, " asked"]
) -> UInt8[np.ndarray, "asked 32"]:
    """Return the hashes of some rows, none of them null, as one array of bytes."""
    values = column.take(pa.array(asked)).cast(pa.binary(32)).combine_chunks()
    held = np.frombuffer(values.buffers()[1] or b"", np.uint8).reshape(-1, 32)
    return held[values.offset : values.offset + len(values)]


def _table(
    ids: pa.ChunkedArray,
    keepers: Int64[np.ndarray, " rows"],
    files: Int64[np.ndarray, " rows"],
    near: Int64[np.ndarray, " rows"],
) -> pa.Table:
    """List the rows that have a better one."""
    losers = np.flatnonzero(keepers != np.arange(len(keepers)))
    better = keepers[losers]
    exact: Bool[np.ndarray, " losers"] = files[losers] == files[better]
    kinds = np.where(exact, "exact", np.where(near[losers] == near[better], "near", "semantic"))
    columns = [ids.take(pa.array(losers)), ids.take(pa.array(better)), pa.array(kinds, pa.string())]
    return pa.table(columns, names=FOUND.names).cast(FOUND)
