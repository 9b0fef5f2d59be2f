import pytest

from serving.provenance.spread import SpreadMark
from tests.bench.provenance import false_alarms, pictures, survival


@pytest.mark.long
@pytest.mark.timeout(600)
def test_marks_survive_and_nobody_is_falsely_accused(photographs):
    mark = SpreadMark(b"a secret of the benchmark")
    shares = survival(mark, pictures(photographs))
    assert min(shares.values()) >= 0.95
    assert false_alarms(mark, photographs, 300) == 0
