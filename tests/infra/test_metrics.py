import subprocess
import sys

import pytest

from infra.errors import BadValue
from infra.metrics import METRICS, count, gauge


def test_without_ray_nothing_is_counted_and_ray_is_not_imported():
    code = (
        "import sys; from infra.metrics import count; "
        "count('visage_rows', run='r', status='keep', reason=''); print('ray' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: count("visage_row", run="r"), "Did you mean 'visage_rows'"),
        (lambda: count("visage_train_loss", run="r"), "counter cannot be 'visage_train_loss'"),
        (lambda: gauge("visage_train_loss", 1.0, job="r"), "visage_train_loss labels"),
    ],
)
def test_a_name_or_label_that_there_is_not_is_refused(call, words):
    with pytest.raises(BadValue, match=words):
        call()


def test_names_are_those_that_prometheus_will_know():
    assert METRICS["visage_rows"].exported == "visage_rows_total"
    assert METRICS["visage_train_loss"].exported == "visage_train_loss"
    assert [m for m in METRICS if m.endswith("_total")] == []


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_on_ray_a_number_is_one_of_rays_metrics():
    count("visage_rows", 3, run="r", status="keep", reason="")
    gauge("visage_train_loss", 0.5, run="r")
    from infra.metrics import _make

    assert _make("visage_rows").info["name"] == "visage_rows"
    assert _make("visage_train_loss").info["tag_keys"] == ("run",)
