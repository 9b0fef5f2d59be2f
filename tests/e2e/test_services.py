"""The whole path as a team has it: pictures and runs on S3, MLflow over Postgres and S3."""

import json
import os
import signal
import subprocess
import tarfile
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from infra.errors import BadWeights
from infra.registry import Registry
from infra.released import manifest
from infra.storage import open_folder
from pipelines.recipes import Source
from pipelines.sources import list_source, members, table_rows
from stages.read import Read
from tests.e2e.albums import VISAGE, curating, save_crops
from tests.e2e.services import services
from tests.pipelines.test_train import SMALL
from tests.training.conftest import noise_features

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
PICTURES = 60


@pytest.fixture(scope="module")
def there():
    """The three servers, and this process as a client of them."""
    with services() as running, pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(running.environment):
            patch.delenv(name)
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def album(tmp_path_factory, astronaut, there):  # noqa: ARG001 - the album lies on its S3
    """Crops of one photograph, in a folder here and the same on S3."""
    folder, remote = tmp_path_factory.mktemp("there") / "album", open_folder("s3://visage/album")
    folder.mkdir()
    save_crops(astronaut, folder, PICTURES)
    for path in folder.iterdir():
        remote.write(path.name, path.read_bytes())
    remote.write("note.jpg", b"this is no picture")
    (folder / "note.jpg").write_bytes(b"this is no picture")
    return folder


def command(source, store):
    return curating(source, store, block_rows=5)


def curate(source, store):
    told = subprocess.run(
        command(source, store), capture_output=True, text=True, timeout=250, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def curated(album, there):  # noqa: ARG001
    return curate("s3://visage/album", "s3://visage/store")


def decisions(result):
    folder = open_folder(result["path"]) / "decisions"
    files = folder.files(".parquet")
    return pads.dataset(files, filesystem=folder.fs).to_table().drop(["source"])


def logged(there, run_id):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=there.mlflow).get_run(run_id)


def test_a_run_from_s3_to_s3_decides_as_one_on_disk(album, curated, tmp_path):
    assert curated["path"].startswith("s3://visage/store/photos-")
    assert (curated["rows"], curated["error"]) == (PICTURES + 1, {"not_an_image": 1})
    local = curate(album, tmp_path)
    assert decisions(curated).equals(decisions(local))


def test_its_store_holds_what_a_folder_would(curated):
    run = open_folder(curated["path"])
    assert run.read_json("run.json")["keep"] == curated["keep"]
    assert b"<html" in run.read("report.html")
    assert not (run / "ingest/checkpoint").files()
    lines = run.read("export/instantid/captions.jsonl").splitlines()
    assert len(lines) == curated["keep"]
    assert run.exists("export/instantid/" + json.loads(lines[-1])["face_file"])


def test_it_is_in_mlflow_with_its_numbers_and_its_report_on_s3(there, curated):
    run = logged(there, curated["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["rows"] == PICTURES + 1
    assert run.data.tags["visage.path"] == curated["path"]
    kept = open_folder("s3://mlflow/artifacts").files("report.html")
    assert len([path for path in kept if curated["mlflow"] in path]) == 1


def test_mlflow_counts_its_requests_for_prometheus(there, curated):  # noqa: ARG001 - it asked
    with urllib.request.urlopen(f"{there.mlflow}/metrics", timeout=20) as answer:
        assert b'mlflow_http_request_total{method="POST",status="200"}' in answer.read()


def test_a_tar_and_a_table_on_s3_are_read_as_local_ones(album, tmp_path):
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in sorted(album.glob("00*.jpg")):
            tar.add(path, path.name)
    table = pa.table({"url": ["https://a.example/1.jpg"], "caption": ["a face"]})
    remote = open_folder("s3://visage/sources")
    remote.write("some.tar", (tmp_path / "some.tar").read_bytes())
    remote.write_table("urls.parquet", table)

    listing = list_source(Source(path="s3://visage/sources/some.tar"))
    found = [asdict(member) for member in members(listing)]
    batch = {name: [member[name] for member in found] for name in Read.reads}
    pictures = [path.read_bytes() for path in sorted(album.glob("00*.jpg"))]
    assert (listing.kind, Read()(batch)["blob"]) == ("tar", pictures)

    source = Source(path="s3://visage/sources/urls.parquet")
    assert [rows["url"] for rows in table_rows(list_source(source), source)] == [
        ["https://a.example/1.jpg"]
    ]


def test_the_same_command_again_does_nothing(curated):
    began = time.monotonic()
    assert curate("s3://visage/album", "s3://visage/store") == curated
    assert time.monotonic() - began < 15


def test_after_kill_9_the_same_command_finishes_on_s3_as_if_nothing_had_been(curated):
    run = subprocess.Popen(
        command("s3://visage/album", "s3://visage/killed"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    store = open_folder("s3://visage/killed")
    for _ in range(1200):
        written = [path for path in store.files(".parquet") if "/ingest/data/status=" in path]
        if len(written) >= 3 or run.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it was over before it was killed"
    assert not store.files("run.json")
    result = curate("s3://visage/album", "s3://visage/killed")
    assert decisions(result).equals(decisions(curated))
    data = open_folder(result["path"]) / "ingest/data"
    rows = pads.dataset(data.files(".parquet"), filesystem=data.fs).to_table(columns=["id"])
    assert len(rows) == len(set(rows["id"].to_pylist())) == PICTURES + 1
    assert set(written) & set(data.files(".parquet")), "what was done was done again"


def test_a_trained_export_is_registered_and_comes_back_as_it_was(there, tmp_path):
    told = subprocess.run(
        [VISAGE, "train", "lfw64", "--data.path", noise_features(tmp_path), *SMALL, "--json"],
        capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    assert logged(there, result["mlflow"]).data.metrics["mse"] > 0
    registry = Registry(there.mlflow)
    export = Path(result["export"])
    made = registry.register("faceid", export, {"visage.corpus": "c0ffee"}, run=result["run"])
    registry.move("faceid", "champion", made.version)
    found = registry.resolve("faceid@champion")
    assert found.run_id == result["mlflow"]
    here = registry.download(found, tmp_path / "cache")
    assert manifest(here) == dict(found.files) == manifest(export)

    # Who can write to the artifact store cannot thereby change what is served.
    kept = open_folder("s3://mlflow/artifacts")
    name = max(found.files, key=lambda name: name.endswith(".safetensors"))
    held = found.source.rpartition("/models/")[2]
    place = next(p for p in kept.files(name) if held in p).removeprefix(f"{kept.path}/")
    kept.write(place, kept.read(place)[:-1] + b"!")
    with pytest.raises(BadWeights, match=Path(name).name):
        registry.download(found, tmp_path / "other")


@pytest.mark.parametrize(
    ("source", "store", "words"),
    [
        ("s3://visage/nothing-here", "s3://visage/store", "does not exist"),
        ("s3://visage/album", "s3://no-such-bucket/store", "cannot be written"),
        ("s3://no-such-bucket/album", "s3://visage/store", "does not exist"),
    ],
)
def test_a_place_that_is_not_there_is_told_of_in_one_sentence(there, source, store, words):  # noqa: ARG001
    told = subprocess.run(command(source, store), capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert words in told.stderr
    assert "Traceback" not in told.stderr


def test_a_server_that_does_not_answer_is_told_of_in_one_sentence(there):
    told = subprocess.run(
        command("s3://visage/album", "s3://visage/store"),
        capture_output=True, text=True, timeout=90,
        env=there.environment | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert told.returncode == 2, told.stderr
    assert "for s3:// also AWS_ENDPOINT_URL" in told.stderr
    assert "Traceback" not in told.stderr
