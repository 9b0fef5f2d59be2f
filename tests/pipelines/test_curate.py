"""Whole runs over a folder of a dozen pictures."""

import json
import shutil
from dataclasses import replace
from io import StringIO

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from infra.configuration import from_yaml
from pipelines.curate import curate, jobs_of
from pipelines.recipes import FetchSettings, Recipe, Source, Workers, photos

JOBS = ("seed", "ingest", "keep", "dedupe", "caption", "captioned", "people", "export")

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def album(tmp_path_factory, astronaut, six_people):
    """Photographs with one of every fate, and captions for some."""
    folder = tmp_path_factory.mktemp("album")
    with Image.open(astronaut) as image:
        face = image.convert("RGB").crop((60, 0, 400, 340))
    face.save(folder / "face.png")
    (folder / "face.txt").write_text("an astronaut smiles")
    (folder / "same.png").write_bytes((folder / "face.png").read_bytes())
    ImageOps.mirror(face).resize((300, 300)).save(folder / "mirrored.jpg")
    face.resize((120, 120)).save(folder / "tiny.jpg")
    face.point(lambda v: v // 7).save(folder / "dark.png")  # and what is dark is soft
    with Image.open(six_people) as image:
        image.save(folder / "crowd.jpg", quality=95)
        image.crop((1050, 225, 1280, 455)).resize((460, 460)).save(folder / "other.jpg")
    Image.new("RGB", (400, 400), "white").save(folder / "blank.jpg")
    (folder / "cut.jpg").write_bytes((folder / "other.jpg").read_bytes()[:9000])
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "none.jpg").write_bytes(b"")
    return folder


def recipe(album, **changes):
    base = photos()
    base = replace(
        base,
        source=Source(path=str(album), license="CC0"),
        faces=replace(base.faces, detect_px=1280),
        workers=Workers(lookers=1, block_rows=5, batch_rows=3),
    )
    return replace(base, **changes)


def run(recipe, store):
    out = StringIO()
    return curate(recipe, str(store), Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module")
def done(album, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    store = tmp_path_factory.mktemp("store")
    return run(recipe(album), store), store


def decisions(result):
    table = pads.dataset(f"{result.path}/decisions").to_table()
    return {row["member"]: row for row in table.to_pylist()}


def test_every_picture_has_the_fate_it_deserves(done):
    (result, _), _ = done
    fates = {m: r["error"] or r["rejected_by"] for m, r in decisions(result).items()}
    twins = {fates.pop("face.png"), fates.pop("same.png")}
    assert twins == {"", "exact_duplicate"}
    assert fates == {
        "mirrored.jpg": "near_duplicate",
        "tiny.jpg": "small_picture",
        "dark.png": "soft_face",
        "crowd.jpg": "too_many_faces",
        "other.jpg": "",
        "blank.jpg": "no_face",
        "cut.jpg": "broken_image",
        "page.jpg": "not_an_image",
        "none.jpg": "empty",
    }


def test_the_counts_account_for_every_row(done):
    (result, said), _ = done
    assert result.rows == 11
    assert result.rows == result.keep + sum(result.reject.values()) + sum(result.error.values())
    assert "100.0 %" in said


def test_every_copy_names_the_picture_that_was_kept(done):
    (result, _), _ = done
    rows = decisions(result)
    kept = {row["id"] for row in rows.values() if row["status"] == "keep"}
    copies = [row for row in rows.values() if row["dup_of"]]
    assert {row["dup_kind"] for row in copies} == {"exact", "near"}
    assert {row["dup_of"] for row in copies} <= kept


def test_the_exports_agree_with_one_another(done):
    import ray.data
    import webdataset

    (result, _), _ = done
    table = pq.read_table(f"{result.path}/export/parquet")
    wanted = dict(zip(table["id"].to_pylist(), table["caption_merged"].to_pylist(), strict=True))
    assert len(wanted) == result.keep
    tars = [str(p) for p in sorted((result_path(result) / "export/webdataset").glob("*.tar"))]
    samples = [s for tar in tars for s in webdataset.WebDataset(tar, shardshuffle=False)]
    assert {s["__key__"]: s["txt"].decode() for s in samples} == wanted
    read = ray.data.read_webdataset(tars, decoder=None).take_all()
    assert {row["__key__"]: row["txt"].decode() for row in read} == wanted
    lines = (result_path(result) / "export/instantid/captions.jsonl").read_text().splitlines()
    assert {json.loads(x)["id"]: json.loads(x)["caption"] for x in lines} == wanted
    assert all("one person" in caption for caption in wanted.values())
    assert "an astronaut smiles" in table["caption"].to_pylist(), "what came with it stays"


def result_path(result):
    from pathlib import Path

    return Path(result.path)


def test_the_run_leaves_its_records(done):
    (result, _), _ = done
    home = result_path(result)
    assert (home / "report.html").stat().st_size > 10_000
    assert "Datasheet" in (home / "export/DATASHEET.md").read_text()
    record = json.loads((home / "run.json").read_text())
    assert [job["job"] for job in record["jobs"]] == [*JOBS] == [*jobs_of(photos())]
    assert record["captions"]["sources"] == {"template": result.keep}
    assert 'id="captions"' in (home / "report.html").read_text()
    ingest = json.loads((home / "ingest/job.json").read_text())
    assert {len(model["sha256"]) for model in ingest["models"]} == {64}
    assert ingest["stage_seconds"]["Decode"][0] == 11 - 1
    assert not (home / "ingest/checkpoint").exists()


def test_the_recipe_beside_the_result_can_be_run_again_as_it_is(done, album):
    (result, _), store = done
    again = from_yaml(result_path(result) / "recipe.yaml", Recipe(name="x"))
    assert again == recipe(album)
    assert run(again, store)[0] == result


def test_the_run_is_in_mlflow(done):
    from mlflow.tracking import MlflowClient

    (result, _), store = done
    found = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db").get_run(result.mlflow)
    assert found.data.metrics["keep"] == result.keep
    assert found.data.params["keep.min_side_px"] == "256"
    assert found.data.metrics["captions.captions"] == result.keep
    assert found.data.metrics["captions.captions_per_s"] > 0


def test_the_same_command_again_does_nothing(done, album):
    (result, _), store = done
    before = {p: p.stat().st_mtime_ns for p in result_path(result).rglob("*") if p.is_file()}
    again, said = run(recipe(album), store)
    assert again == result
    assert "nothing is left to do" in said
    after = {p: p.stat().st_mtime_ns for p in result_path(result).rglob("*") if p.is_file()}
    assert after == before


def test_moving_a_threshold_runs_no_model_again(done, album):
    (result, _), store = done
    rules = recipe(album).keep
    moved, _ = run(recipe(album, keep=replace(rules, max_faces=6, min_face_share=0.0)), store)
    record = json.loads((result_path(moved) / "run.json").read_text())
    assert {j["job"]: j["reused"] for j in record["jobs"]} == {
        **dict.fromkeys(JOBS, False), "seed": True, "ingest": True,
    }  # fmt: skip
    assert moved.run != result.run
    assert decisions(moved)["crowd.jpg"]["status"] == "keep"
    assert decisions(result)["crowd.jpg"]["status"] == "reject"


def rewrite(folder, aside):
    """Write the same files in the opposite order: a folder lists them as it likes."""
    before = [path.name for path in folder.iterdir()]
    shutil.copytree(folder, aside)
    for path in folder.iterdir():
        path.unlink()
    for name in sorted(before, reverse=True):
        shutil.copy2(aside / name, folder / name)


def test_other_order_blocks_and_workers_give_the_same_decisions_byte_for_byte(
    done, album, tmp_path
):
    (result, _), _ = done
    rewrite(album, tmp_path / "aside")
    other = Workers(lookers=2, block_rows=2, batch_rows=1)
    again, _ = run(recipe(album, workers=other), tmp_path)
    assert again.run == result.run, "how many hands there are is not part of what is done"
    (first,) = (result_path(result) / "decisions").iterdir()
    (second,) = (result_path(again) / "decisions").iterdir()
    assert first.read_bytes() == second.read_bytes()


def test_an_empty_table_is_a_run_without_rows(tmp_path):
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "none.parquet")
    fetch = FetchSettings(allow_loopback=True)
    empty = replace(photos(), source=Source(path=str(tmp_path / "none.parquet")), fetch=fetch)
    result, _ = run(empty, tmp_path / "store")
    assert (result.rows, result.keep) == (0, 0)
