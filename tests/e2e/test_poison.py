"""Pictures that end the process which looks at them, in whole jobs on Ray."""

import ctypes
import os
from functools import partial
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from PIL import Image
from ray.exceptions import RayTaskError
from rich.console import Console

from infra.storage import open_folder
from pipelines.apply import Pool, apply
from pipelines.progress import Reporter
from pipelines.rows import map_rows
from stages.decode import Decode
from stages.read import Read

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
PICTURES = 40


def fatal(poison, end):
    """Make a stage that reads a picture's width and ends its process at some; sent by value."""

    class Fatal:
        reads = ("member", "width_px")
        writes = ("face_yaws_deg",)

        def __call__(self, batch):
            for member in batch["member"]:
                if member in poison:
                    end()
            return {"face_yaws_deg": [[float(w)] for w in batch["width_px"]]}

    return Fatal


def exit_at_once():
    os._exit(1)


def segfault():
    ctypes.string_at(0)


@pytest.fixture
def album(tmp_path):
    """Seeded rows of an album, one of which is no picture."""
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(PICTURES):
        Image.new("RGB", (100 + number, 100), (number, 0, 0)).save(folder / f"{number:02d}.png")
    (folder / "07.png").write_bytes(b"no picture")
    names = sorted(path.name for path in folder.iterdir())
    rows = {
        "id": names, "source": [str(folder)] * PICTURES, "member": names,
        "offset": pa.array([0] * PICTURES, pa.int64()),
        "length": pa.array([None] * PICTURES, pa.int64()),
        "rejected_by": [""] * PICTURES, "error": [""] * PICTURES, "error_detail": [""] * PICTURES,
    }  # fmt: skip
    home = open_folder(str(tmp_path))
    (home / "in").write_table("rows.parquet", pa.table(rows))
    return home


def run(home, stage, job="ingest", pool=None):
    """Read, decode and hand pictures to the stage; return what each became."""
    makes = [Read, partial(Decode, max_megapixels=1.0, work_px=500), stage]
    map_rows(
        home / "in", (home / f"{job}/data").make(),
        lambda rows: apply(rows, *makes, pool=pool or Pool(batch_rows=5, workers=2)),
        checkpoint=home / f"{job}/checkpoint", block_rows=20,
        reporter=Reporter(Console(file=StringIO())),
    )  # fmt: skip
    data = home / f"{job}/data"
    rows = pads.dataset(
        data.files(".parquet"), partitioning="hive", partition_base_dir=data.path
    ).to_table(columns=["id", "status", "error", "face_yaws_deg"])
    assert rows.num_rows == PICTURES
    return {row["id"]: (row["status"], row["error"], row["face_yaws_deg"])
            for row in rows.to_pylist()}  # fmt: skip


def expected(poison):
    fates = {f"{n:02d}.png": ("keep", "", [100.0 + n]) for n in range(PICTURES)}
    fates["07.png"] = ("error", "not_an_image", None)
    return fates | dict.fromkeys(poison, ("error", "crashed", None))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("poison", "end"),
    [
        pytest.param({"13.png"}, exit_at_once, id="one that exits"),
        pytest.param(
            {"02.png", "11.png", "13.png", "33.png"},
            segfault,
            id="four, two of them in one batch",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pictures_that_kill_the_process_cost_one_row_each(album, poison, end):
    assert run(album, fatal(poison, end)) == expected(poison)
    assert not Path(album.path, "ingest/notes").exists()


@pytest.mark.timeout(240)
def test_plain_tasks_get_past_such_a_picture_too(album):
    poison = {"13.png"}
    assert run(album, fatal(poison, segfault), pool=Pool(batch_rows=5)) == expected(poison)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_stages_that_kill_at_every_picture_end_the_run_and_say_so(album):
    every = {f"{n:02d}.png" for n in range(PICTURES)}
    with pytest.raises(RayTaskError, match="no picture's fault"):
        run(album, fatal(every, exit_at_once), pool=Pool(batch_rows=5, workers=1))
