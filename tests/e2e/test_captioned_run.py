"""A whole run with captions: they decide with the rest, and lie beside the export."""

import json
import subprocess
from pathlib import Path

import pyarrow.dataset as pads
import pytest
import webdataset

from tests.e2e.albums import curating, save_crops

pytestmark = [pytest.mark.ray, pytest.mark.long]


@pytest.mark.timeout(300)
def test_captions_decide_with_the_rest_and_no_row_loses_its_own(tmp_path, astronaut):
    album = tmp_path / "album"
    album.mkdir()
    save_crops(astronaut, album, 4)
    results = {}
    for backend in ("template", "alt"):
        told = subprocess.run(
            [*curating(album, tmp_path / "store", 10), "--captions.backend", backend],
            capture_output=True, text=True, timeout=140, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        results[backend] = json.loads(told.stdout.splitlines()[-1])
    kept = results["template"]
    captions = pads.dataset(Path(kept["path"], "export/captions")).to_table()
    exported = pads.dataset(Path(kept["path"], "export/parquet")).to_table()
    assert captions["id"].to_pylist() == sorted(exported["id"].to_pylist())
    assert len(captions) == kept["keep"] > 0
    assert all("one person" in text for text in captions["caption_merged"].to_pylist())
    said = dict(
        zip(exported["id"].to_pylist(), exported["caption_merged"].to_pylist(), strict=True)
    )
    beside = zip(captions["id"].to_pylist(), captions["caption_merged"].to_pylist(), strict=True)
    assert said == dict(beside)
    tars = sorted(map(str, Path(kept["path"], "export/webdataset").glob("*.tar")))
    samples = [s for tar in tars for s in webdataset.WebDataset(tar, shardshuffle=False)]
    assert {s["__key__"]: s["txt"].decode() for s in samples} == said
    lines = Path(kept["path"], "export/instantid/captions.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"]: json.loads(line)["caption"] for line in lines} == said
    assert set(exported["caption"].to_pylist()) == {""}
    # These photographs came without a word.
    assert results["alt"]["keep"] == 0
    assert results["alt"]["reject"]["caption_short"] == kept["keep"]
