import sys

import pytest

from tests.bench.sharded import asked


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 as it is")
def test_two_nodes_answer_as_one_process_does():
    found = asked(9000, 2500, 1)
    assert len(found) == 3
    for told in found.values():
        assert told["equal"]
        assert told["one"]["shards"] == told["two"]["shards"] > 0
        assert told["two"]["cpu_s"] > 0
