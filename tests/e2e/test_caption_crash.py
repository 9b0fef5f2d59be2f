"""A caption job that is killed, and finished by the same call: no picture lost, none twice."""

import os
import signal
import subprocess
import sys
import time

import pytest

from infra.cluster import ROOT
from pipelines.dedupe import read
from tests.pipelines.captioning import Corpus
from tests.stages.captions.servers import MERGED, Says, serving, well

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CODE = """
import sys
from infra.cluster import cluster
from stages.captions.settings import CaptionSettings, EndpointSettings
from tests.pipelines.captioning import Corpus

endpoint = EndpointSettings(url=sys.argv[2], model="tiny", concurrency=2)
corpus = Corpus(sys.argv[1], rows=60)
with cluster(cpus=2):
    corpus.caption(CaptionSettings(backend="http", http=endpoint))
"""


def start(home, server):
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(home), server.url], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_after_kill_9_the_same_call_captions_every_kept_row_exactly_once(tmp_path):
    corpus = Corpus(tmp_path, rows=60)
    with serving([Says(well().body, after_s=0.2)]) as server:
        run = start(tmp_path, server)
        ends = time.monotonic() + 120
        while len(before := corpus.target.files(".parquet")) < 2:
            assert run.poll() is None, run.stderr.read().decode()[-3000:]
            assert time.monotonic() < ends, "nothing was written"
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        run.stderr.close()
        asked = len(server.asked)
        again = start(tmp_path, server)
        said = again.communicate(timeout=150)[1].decode()
        assert again.returncode == 0, said[-3000:]
    rows = read(corpus.target, ["id", "caption_merged"]).to_pylist()
    assert sorted(row["id"] for row in rows) == [
        row["id"] for row in corpus.rows if row["status"] == "keep"
    ]
    assert {row["caption_merged"] for row in rows} == {MERGED}
    assert before
    assert len(server.asked) - asked < len(rows), "what was done was asked again"
