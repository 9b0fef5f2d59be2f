import inspect
import pickle

import pytest

from infra import errors
from infra.errors import (
    BadInput,
    BadValue,
    BadWeights,
    BrokenPromise,
    CheckpointNotWritten,
    JobFailed,
    MissingColumns,
    MissingSourceColumn,
    RunInUse,
    UnaccountedRows,
    UnknownKey,
    UnknownRecipe,
    UnreadableSource,
    UnwritableStore,
    VisageError,
)

ALL = [
    UnknownRecipe("lwf", ["lfw", "photos"]),
    UnknownKey("min_sid_px", ["min_side_px"], "keep"),
    BadValue("fetch.deadline_s", -1, "give a positive number."),
    UnreadableSource("x.tar", "it is damaged", "Fetch it again."),
    MissingSourceColumn("t.csv", ["url", "URL"], ["link"], "source.url-column"),
    UnwritableStore("/store", "no space left"),
    RunInUse("lfw-1", "/store/lfw-1/.lock"),
    BadWeights("w.dat", "is cut short"),
    MissingColumns("Keep", ["num_faces"], ["id"]),
    BrokenPromise("Keep", "2 rows", "1 rows"),
    JobFailed("ingest", 10, 9, "/store/lfw-1/ingest/data"),
    UnaccountedRows([("reject", "whim", 3)], 10),
    CheckpointNotWritten("/run/step-0000500", "No space left on device"),
]


@pytest.mark.parametrize("error", ALL, ids=lambda e: type(e).__name__)
def test_errors_cross_processes_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.exit_code) == (type(error), str(error), error.exit_code)


def test_every_error_is_tried_here_and_drawn_in_the_tree():
    made = {
        c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, VisageError)
    } - {VisageError, BadInput}
    assert made == {type(error) for error in ALL}
    assert all(f"- {c.__name__}:" in (errors.__doc__ or "") for c in made)


def test_a_typo_gets_a_suggestion():
    assert "Did you mean 'lfw'?" in str(ALL[0])
    assert "Did you mean 'min_side_px'?" in str(ALL[1])


def test_only_bad_input_ends_with_code_2():
    assert {e.exit_code for e in ALL if isinstance(e, BadInput)} == {2}
    assert {e.exit_code for e in ALL if not isinstance(e, BadInput)} == {1}
