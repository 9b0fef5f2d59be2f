import shutil

import pytest

from tests.bench.fetch import many, measure

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(300)
def test_pictures_come_fast_from_a_real_server(photographs):
    if not shutil.which("nginx", path="/usr/sbin:/usr/bin"):
        pytest.skip("needs nginx")
    found = measure(photographs / "lfw-dev.tar", 2000, cores=2)
    assert found["stage"].per_s > 500
    assert found["stage"].cpu_s_per_1000 < 1.0
    assert found["command"].wall_s < 90


def test_the_same_pictures_are_named_often_enough():
    assert many(["a", "b"], 5) == ["a?0", "b?0", "a?1", "b?1", "a?2"]
