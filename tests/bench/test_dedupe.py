import pytest

from tests.bench.dedupe import SHARE, alone, judge, looked_at


@pytest.mark.parametrize("semantic", [False, True])
def test_every_planted_copy_is_found(semantic):
    speed = alone(20_000, semantic)
    assert speed.found == 20_000 * SHARE


@pytest.mark.slow
def test_faces_find_the_edits_that_hashes_miss(photographs):
    versions = looked_at(photographs / "lfw-dev.tar", 25)
    by_hash, with_faces = judge(versions, faces=False), judge(versions)
    assert by_hash.precision == with_faces.precision == 1
    assert by_hash.mean_recall > 0.8
    assert with_faces.mean_recall > 0.95
    assert by_hash.recall["5 % crop"] < 0.5 < with_faces.recall["5 % crop"]
