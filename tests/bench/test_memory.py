import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]
SCRIPT = """
import json, sys
from pathlib import Path
from tests.bench.memory import measure
peaks = measure(32_000, Path(sys.argv[1]))
print(json.dumps([(p.rows, p.total_bytes, p.store_bytes) for p in peaks]))
"""


@pytest.mark.timeout(200)
def test_more_rows_than_memory_is_given_do_not_need_more(tmp_path):
    # A process of its own: the object store of the others' Ray is another one.
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    peaks = json.loads(told.stdout.splitlines()[-1])
    assert [rows for rows, _, _ in peaks] == [8000, 16_000, 32_000]
    more = peaks[2][1] - peaks[1][1]
    assert more < 16_000 * 50_000 / 2, "the second half of the rows is not held in memory"
    assert all(0 < store <= 512 * 2**20 for _, _, store in peaks)
