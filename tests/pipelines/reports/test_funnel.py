import pickle
from io import StringIO

import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.reports.funnel import KEPT, UnaccountedRows, count, funnel, funnel_table, percent
from stages.columns import DECISIONS, ERRORS, REJECTIONS, schema


def decisions(*endings):
    rows = [
        {"id": f"{n:032x}", "status": status, "rejected_by": rejected_by, "error": error}
        for n, (status, rejected_by, error) in enumerate(endings)
    ]
    return pa.Table.from_pylist(rows, schema=schema(DECISIONS))


KEEP = ("keep", "", "")
EVERY_ENDING = [
    KEEP,
    *(("reject", name, "") for name in REJECTIONS),
    *(("error", "", name) for name in ERRORS),
]


def test_no_rule_shares_its_name_with_an_error():
    assert not set(REJECTIONS) & (set(ERRORS) | {KEPT})


def test_every_row_is_counted_once():
    steps = funnel(decisions(*EVERY_ENDING, KEEP))
    assert sum(step.count for step in steps) == len(EVERY_ENDING) + 1
    assert sum(step.share for step in steps) == pytest.approx(1)
    assert count(steps, "keep") == 2
    assert count(steps, "reject") == len(REJECTIONS)
    assert count(steps, "error") == len(ERRORS)


def test_steps_come_in_the_order_in_which_rows_are_judged():
    backwards = decisions(*reversed(EVERY_ENDING))
    names = [step.name for step in funnel(backwards)]
    assert [name for name in names if name in REJECTIONS] == list(REJECTIONS)
    assert names[-1] == KEPT
    assert names.index("no_human_term") < names.index("bad_url") < names.index("small_picture")


def test_steps_without_a_row_are_left_out_but_kept_stays():
    steps = funnel(decisions(("reject", "no_face", ""), ("reject", "no_face", "")))
    assert [(step.name, step.count, step.share) for step in steps] == [
        ("no_face", 2, 1.0),
        (KEPT, 0, 0.0),
    ]


def test_a_run_without_rows_has_a_funnel():
    assert [(step.name, step.count) for step in funnel(decisions())] == [(KEPT, 0)]


@pytest.mark.parametrize(
    "ending",
    [
        ("reject", "too_blue", ""),
        ("error", "", "gremlins"),
        ("reject", "", ""),
        ("reject", "timeout", ""),
        ("error", "", "no_face"),
        ("pending", "", ""),
        (None, None, None),
    ],
)
def test_a_row_that_ended_in_no_known_way_is_refused(ending):
    with pytest.raises(UnaccountedRows, match=r"stages/columns\.py"):
        funnel(decisions(KEEP, ending))


def test_the_refusal_names_the_reason_and_survives_pickling():
    error = UnaccountedRows([("reject", "too_blue", 3)], rows=9)
    assert "3 with reject 'too_blue'" in str(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (0.00001, "<0.1 %"), (0.1234, "12.3 %"), (0.99999, ">99.9 %"), (1, "100.0 %")],
)
def test_little_is_not_nothing_and_nearly_all_is_not_all(share, text):
    assert percent(share) == text


def test_the_terminal_shows_every_step_and_the_sum():
    console = Console(file=StringIO(), width=120)
    console.print(funnel_table(funnel(decisions(KEEP, KEEP, ("error", "", "dns")))))
    lines = console.file.getvalue().splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["dns", "1", "33.3"],
        ["kept", "2", "66.7"],
        ["all", "rows", "3"],
    ]
