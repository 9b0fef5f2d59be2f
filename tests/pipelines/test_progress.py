from io import StringIO

import pytest
from rich.console import Console

from pipelines import progress
from pipelines.progress import Reporter, TrainingBar, pace
from training.loop import Report
from training.settings import TrainRecipe


def test_a_pace_is_a_rate_and_the_time_left():
    assert pace(120, 2.0, 3840) == "60 rows/s, 1:04 left"
    assert pace(0, 2.0, 10) == "starting"


def test_where_there_is_no_terminal_progress_is_lines(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    out = StringIO()
    with Reporter(Console(file=out)).job("ingest", 100, before=40) as job:
        job.rows(10)
    assert "ingest: 40 of 100 rows were done before" in out.getvalue()
    assert "ingest: 50 of 100 rows" in out.getvalue()


def test_on_a_terminal_progress_is_a_bar_that_goes_away():
    out = StringIO()
    with Reporter(Console(file=out, force_terminal=True, width=80)).job("ingest", 100) as job:
        job.rows(60)
    assert "60/100" in out.getvalue()
    assert Reporter.current is None


def report(step):
    """Reports of 10 steps in 40 s: of 8 samples each, 2 samples/s."""
    return Report(step=step, losses={"loss": 0.5}, learning_rate=1e-4, grad_norm=1.0, skipped=0,
                  images_per_s=2.0, data_share=0.0)  # fmt: skip


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_first_report_of_a_training_already_says_the_time_left(is_terminal):
    out = StringIO()
    recipe = TrainRecipe(name="mine", steps=100, batch=8)
    with TrainingBar(Console(file=out, force_terminal=is_terminal, width=100), recipe) as bar:
        bar.show(report(10))
        assert "loss 0.5000, 2.0 images/s, 6:00 left" in out.getvalue()
        bar.show(report(95))
        assert "0:20 left" in out.getvalue()
