"""The words every stage shares."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Column = Sequence[Any] | npt.NDArray[Any]
"""One value per row: a list, or an array whose first axis is the rows."""
Batch = Mapping[str, Column]
"""Columns of equal length, by the names in ``stages/columns.py``."""
RGB = npt.NDArray[np.uint8]
"""One upright picture: height x width x 3."""


@runtime_checkable
class Stage(Protocol):
    """One step over a batch of rows.

    A stage loads its weights in ``__init__`` and adds columns in ``__call__``. It drops no row:
    what it cannot do for a row it says in the columns ``error`` and ``error_detail``, if it
    declares to write them. It is only given rows that nothing has rejected so far. It knows
    nothing of Ray, so a test can call it with a plain dict.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns a batch must have."""
        ...

    @property
    def writes(self) -> tuple[str, ...]:
        """The columns this stage adds or, for rejected_by and error, fills in."""
        ...

    def __call__(self, batch: Batch) -> Batch:
        """Return only the columns in ``writes``, one entry per row of ``batch``."""
        ...
