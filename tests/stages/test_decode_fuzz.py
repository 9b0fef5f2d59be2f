"""Whatever is done to the bytes of a picture: one row, by a known name, in bounded time."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.columns import ERRORS
from stages.decode import Decode

BROKEN = {"broken_image", "not_an_image", "too_many_pixels"}


def picture(form):
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, 48 * 64 * 3).reshape(48, 64, 3) + rng.integers(0, 40, (48, 64, 3))
    out = BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(out, form, quality=80)
    return out.getvalue()


WHOLE = {form: picture(form) for form in ("JPEG", "PNG", "WEBP")}
DECODE = Decode(max_megapixels=4.0)

changes = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 2**16), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), st.integers(0, 2**16), st.integers(1, 64)),
        st.tuples(st.just("add"), st.integers(0, 2**16), st.binary(min_size=1, max_size=64)),
        st.tuples(st.just("end"), st.integers(0, 2**16), st.just(b"")),
    ),
    min_size=1,
    max_size=6,
)


def mutated(blob, change):
    """Overwrite, cut out, insert or break off at a place inside the file."""
    for kind, where, what in change:
        at = where % (len(blob) or 1)
        if kind == "set":
            blob = blob[:at] + what + blob[at + len(what) :]
        elif kind == "cut":
            blob = blob[:at] + blob[at + what :]
        elif kind == "add":
            blob = blob[:at] + what + blob[at:]
        else:
            blob = blob[:at]
    return blob


@pytest.mark.parametrize("form", WHOLE)
@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])
@given(change=changes)
def test_mutated_bytes_become_one_row_and_no_exception(form, change):
    blob = mutated(WHOLE[form], change)
    row = DECODE({"blob": [blob]})
    assert {len(column) for column in row.values()} == {1}
    error = row["error"][0]
    assert error == "" or error in BROKEN & set(ERRORS)
    assert (row["pixels"][0] is None) == (error != "")
    assert row["bytes_len"] == [len(blob)]


@pytest.mark.parametrize("form", WHOLE)
def test_the_files_that_are_mutated_are_whole(form):
    assert DECODE({"blob": [WHOLE[form]]})["error"] == [""]
