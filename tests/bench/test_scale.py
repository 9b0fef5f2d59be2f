from dataclasses import replace

import pytest

from tests.bench.scale import measure, speed_up
from tests.bench.scale_model import Assumed, Costs, forecast

COSTS = Costs(
    fetch_s=0.002, look_s={"Decode": 0.01, "DetectFaces": 0.1}, picture_bytes=50_000,
    seed_s=1e-5, export_s=0.01, near_s=(4e-5, 6e-12), decided_bytes=400,
)  # fmt: skip


def test_the_parts_of_a_forecast_are_what_arithmetic_says():
    found = forecast(COSTS, 0.8, replace(Assumed(), urls=1e6, gpus=0))
    cores = 10 * 32 * 0.8
    assert found.hours["CPUs"] == pytest.approx((2000 + 750_000 * 0.11) / cores / 3600)
    assert found.hours["network"] == pytest.approx(750_000 * 50_000 * 8 / 1e11 / 3600)
    assert found.hours["dedupe, one process"] == pytest.approx(
        (200_000 * 4e-5 + 200_000**2 * 6e-12) / 32 / 3600
    )
    assert found.ingest_h == max(found.hours[n] for n in ("CPUs", "network", "wait for servers"))
    assert found.dedupe_gb == pytest.approx(0.4)


def test_gpus_take_the_faces_and_leave_the_rest_to_cpus():
    bare, helped = (forecast(COSTS, 0.8, replace(Assumed(), gpus=n)) for n in (0, 8))
    assert helped.hours["CPUs"] < bare.hours["CPUs"] / 5
    assert helped.hours["GPUs"] == pytest.approx(7.5e8 / 2400 / 3600)


def test_at_the_balanced_size_comparing_takes_as_long_as_ingest():
    size = forecast(COSTS, 0.8, Assumed()).balanced_urls
    found = forecast(COSTS, 0.8, replace(Assumed(), urls=size))
    assert found.hours["dedupe, one process"] == pytest.approx(found.ingest_h)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
def test_both_runs_and_every_cost_are_measured(photographs):
    one, two, costs = measure(photographs / "lfw-dev.tar", 300)
    assert one.rows == two.rows == 300
    assert (one.cores, two.cores) == (1, 2)
    assert speed_up(one, two) > 0.5  # on a busy machine two are no faster
    assert sum(costs.look_s.values()) > costs.fetch_s
    assert set(one.stages) == set(two.stages) >= {"Decode", "DetectFaces", "EmbedFaces"}
    assert 0 < costs.fetch_s < 0.1
    assert costs.near_s[0] > 0
