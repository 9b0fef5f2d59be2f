"""Ingested rows that tests caption, without a curation."""

import io
from io import StringIO

import pyarrow as pa
from PIL import Image
from rich.console import Console

from infra.storage import open_folder
from pipelines.caption import caption
from pipelines.progress import Reporter
from pipelines.recipes import Workers
from stages.columns import COLUMNS, DECIDED, schema

INGESTED = [
    name for name, column in COLUMNS.items()
    if not column.in_memory_only and column.written_by not in ("people", "caption")
]  # fmt: skip
MEASURES = {
    "num_faces": 1, "face_area_shares": [0.3], "face_yaws_deg": [20.0], "face_pitches_deg": [0.0],
    "face_rolls_deg": [0.0], "face_exposures": [0.5], "width_px": 40, "height_px": 60,
}  # fmt: skip


def row(number, rejected_by="", **changes):
    packed = io.BytesIO()
    Image.new("RGB", (40, 60), (number * 40 % 256, number * 40 // 256 * 40, 0)).save(packed, "PNG")
    blank = dict.fromkeys(INGESTED) | {
        "id": f"{number:032x}", "url": "", "caption": f"a man in a blue coat, number {number}",
        "label": "", "rejected_by": rejected_by, "error": "", "error_detail": "",
        "status": "reject" if rejected_by else "keep", "blob": packed.getvalue(),
    }  # fmt: skip
    return blank | MEASURES | changes


class Corpus:
    """Rows in files of ten, and what was decided of them; every fifth is rejected."""

    def __init__(self, home, rows=40, block_rows=5):
        self.home, self.block_rows = open_folder(str(home)), block_rows
        self.rows = [row(n, "no_face" if n % 5 == 0 else "") for n in range(rows)]
        for first in range(0, rows, 10):
            part = pa.Table.from_pylist(self.rows[first : first + 10], schema=schema(INGESTED))
            self.ingested.write_table(f"part-{first:05d}.parquet", part)
        light = [{name: each.get(name) for name in DECIDED} for each in self.rows]
        self.decisions = pa.Table.from_pylist(light, schema=schema(DECIDED))
        self.told = StringIO()

    @property
    def ingested(self):
        return self.home / "ingest/data"

    @property
    def target(self):
        return self.home / "caption/data"

    def caption(self, settings):
        caption(
            self.ingested,
            self.decisions,
            settings,
            Workers(block_rows=self.block_rows),
            self.target.make(),
            self.home / "caption",
            Reporter(Console(file=self.told, width=200)),
            at_once=2,
        )
