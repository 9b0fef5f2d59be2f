import numpy as np
import pyarrow as pa
import pytest

from infra.errors import BrokenPromise, MissingColumns
from stages.chain import Chain, as_arrow
from stages.columns import COLUMNS, schema


class Double:
    """A stage that doubles a width, and cannot bear 13."""

    reads = ("width_px",)
    writes = ("height_px",)

    def __init__(self):
        self.calls = []

    def __call__(self, batch):
        self.calls.append(list(batch["width_px"]))
        if 13 in batch["width_px"]:
            raise ValueError("thirteen")
        return {"height_px": [2 * w for w in batch["width_px"]]}


class Pixels:
    reads = ("width_px",)
    writes = ("pixels", "error", "error_detail")

    def __call__(self, batch):
        widths = batch["width_px"]
        return {
            "pixels": [np.zeros((w, w, 3), np.uint8) for w in widths],
            "error": ["" if w < 100 else "too_large" for w in widths],
            "error_detail": ["" if w < 100 else f"{w} px" for w in widths],
        }


class Mean:
    reads = ("pixels",)
    writes = ("face_exposures",)

    def __call__(self, batch):
        return {"face_exposures": [[float(p.mean())] for p in batch["pixels"]]}


def table(*widths, rejected_by=None, error=None):
    n = len(widths)
    return pa.table(
        {
            "id": [str(i) for i in range(n)],
            "width_px": pa.array(widths, pa.int32()),
            "rejected_by": rejected_by or [""] * n,
            "error": error or [""] * n,
        }
    )


def test_a_poison_row_becomes_one_error_and_nothing_else_is_lost():
    out = Chain([Double()])(table(1, 13, 3))
    assert out["height_px"].to_pylist() == [2, None, 6]
    assert out["error"].to_pylist() == ["", "stage_failed", ""]
    assert out["error_detail"].to_pylist() == ["", "Double: ValueError: thirteen", ""]
    assert out["status"].to_pylist() == ["keep", "error", "keep"]


def test_a_stage_is_handed_only_rows_that_nothing_has_rejected():
    stage = Double()
    out = Chain([stage])(table(1, 2, 3, rejected_by=["", "no_face", ""], error=["", "", "dns"]))
    assert stage.calls == [[1]]
    assert out["height_px"].to_pylist() == [2, None, None]
    assert out["status"].to_pylist() == ["keep", "reject", "error"]


def test_an_error_of_one_stage_hides_the_row_from_the_next():
    double = Double()
    out = Chain([Pixels(), double, Mean()])(table(2, 200))
    assert double.calls == [[2]]
    assert out["face_exposures"].to_pylist() == [[0.0], None]
    assert out["error_detail"].to_pylist() == ["", "200 px"]


def test_columns_that_live_in_memory_are_not_written():
    out = Chain([Pixels(), Mean()])(table(2))
    assert "pixels" not in out.column_names
    assert out.schema.field("face_exposures").type == COLUMNS["face_exposures"].type


def test_every_row_carries_the_seconds_of_the_stages_that_saw_it():
    out = Chain([Pixels(), Double()])(table(2, 200))
    seconds = [dict(pairs) for pairs in out["timings"].to_pylist()]
    assert [set(row) for row in seconds] == [{"Pixels", "Double"}, {"Pixels"}]
    assert all(s >= 0 for row in seconds for s in row.values())


def test_rows_that_are_all_rejected_pass_with_typed_empty_columns():
    out = Chain([Pixels(), Mean()])(table(1, 2, rejected_by=["no_face", "no_face"]))
    assert out.num_rows == 2
    assert out.schema.field("face_exposures").type == COLUMNS["face_exposures"].type


def test_a_table_without_rows_passes():
    assert Chain([Pixels(), Mean()])(table()).num_rows == 0


def test_a_missing_column_names_the_stage_and_the_cure():
    with pytest.raises(MissingColumns, match="Put the stage that writes 'pixels' before Mean"):
        Chain([Mean()])(table(1))


class TooFew(Double):
    def __call__(self, batch):
        return {"height_px": batch["width_px"][1:]}


class TooMuch(Double):
    def __call__(self, batch):
        return {"height_px": batch["width_px"], "mime": batch["width_px"]}


@pytest.mark.parametrize("stage", [TooFew(), TooMuch()])
def test_a_stage_that_breaks_its_promise_stops_the_run(stage):
    with pytest.raises(BrokenPromise, match="one row in, one row out"):
        Chain([stage])(table(1, 2))


def test_arrays_of_two_axes_become_lists_of_lists():
    vectors = [np.ones((2, 3), np.float32), np.empty((0, 3), np.float32)]
    assert as_arrow("face_embeddings", vectors).to_pylist() == [[[1.0] * 3] * 2, []]


def test_every_declared_column_can_be_written():
    written = schema(COLUMNS)
    assert len(written) == len([c for c in COLUMNS.values() if not c.in_memory_only])
    assert pa.table({f.name: pa.nulls(1, f.type) for f in written}).num_rows == 1
