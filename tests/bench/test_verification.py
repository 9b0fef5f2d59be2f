import os
from pathlib import Path

import pytest

from serving.people.protected import BOUNDS
from tests.bench.verification import measure

DATA = os.environ.get("VISAGE_TEST_DATA")


@pytest.mark.long
@pytest.mark.skipif(not DATA, reason="VISAGE_TEST_DATA names no folder with lfw-dev.tar")
@pytest.mark.timeout(600)
def test_faces_are_found_and_told_apart():
    result = measure(Path(DATA))
    assert result.found >= 0.99
    assert result.accuracy >= 0.985
    said = BOUNDS["dlib"]
    assert result.protection.false_alarms == pytest.approx(said.false_alarms, rel=0.1)
    assert result.protection.misses == pytest.approx(said.misses, rel=0.1)
