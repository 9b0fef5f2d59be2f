import pytest

from tests.bench.curate import measure

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.mark.timeout(600)
def test_lfw_is_curated_within_its_time_and_memory(photographs):
    speed = measure(photographs / "lfw-dev.tar")
    assert speed.rows == 4937
    assert speed.run_s < 150
    assert speed.peak_gib < 3
