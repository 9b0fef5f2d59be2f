from io import StringIO

from rich.console import Console

from pipelines import progress
from pipelines.progress import Reporter, pace


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
