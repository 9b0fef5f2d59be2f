"""Make the records of a store's runs agree again with rows that were taken out."""

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open

from infra.configuration import digest
from infra.storage import Folder
from pipelines.dedupe import read
from pipelines.forgetting.find import recipe_of
from pipelines.job import JobRecord, counts
from pipelines.pairs import RECORD as PAIRS
from pipelines.people import SUMMARY, summary
from pipelines.recipes import Recipe
from pipelines.record import summarise, tell
from pipelines.retry import RetriedRun
from pipelines.seed import digest_row
from stages.columns import DECIDED, SEED

_COUNTED = ("rows", "keep", "reject", "error")


def correct_run(store: Folder, name: str) -> None:
    """Count a run's rows again, and tell of it anew: its records, report and datasheet."""
    run = store / name
    correct_fingerprints(store, run, "ingest")
    count_people(run / "people")
    jobs: dict[str, dict[str, Any]] = {}
    for home in run.folders():
        record = home.read_json("job.json")
        if record and record["finished_at"] and (store / record["data"]).exists():
            record |= counts(store / record["data"])
            home.write_json("job.json", record)
            jobs[record["job"]] = record
    finished = run.read_json("run.json")
    if finished is None:
        for page in (
            "report.html",
            "export/DATASHEET.md",
        ):  # written again when the run is finished
            if run.exists(page):
                run.fs.delete_file(f"{run.path}/{page}")
        return
    finished["jobs"] = [
        job | {key: jobs[job["job"]][key] for key in _COUNTED if job["job"] in jobs}
        for job in finished["jobs"]
    ]
    if "people" in jobs:
        finished |= {key: jobs["people"][key] for key in _COUNTED}
        home = store / jobs["people"]["data"].partition("/")[0] / "people"
        finished["people"] = home.read_json(SUMMARY)
        _tell_again(store, name, finished)
    run.write_json("run.json", finished)


def count_people(people: Folder) -> None:
    """Count the people of a run again."""
    if people.exists("data") and (told := people.read_json(SUMMARY)):
        faces = pq.read_table(f"{people.path}/data", filesystem=people.fs)
        people.write_json(SUMMARY, summary(faces, told["label_steps"]))


def correct_fingerprints(store: Folder, run: Folder, job: str) -> None:
    """Let a later run of the same source find what was fetched, though its seed is another now."""
    seed, ingest = ((run / name).read_json("job.json") for name in ("seed", job))
    if not seed or not ingest or not seed["finished_at"]:
        return
    rows = store / seed["data"]
    seen = hashlib.sha256()
    for path in rows.files(".parquet"):
        for row in pq.read_table(path, filesystem=rows.fs, columns=SEED).to_pylist():
            digest_row(seen, row)
    output = seen.hexdigest()[:16]

    def fingerprint(given: str) -> str:
        return digest(job, ingest["settings"], [given], ingest["models"], version(ingest))

    if ingest["fingerprint"] == fingerprint(seed["output"]):
        ingest["fingerprint"] = fingerprint(output)
        ingest["output"] = ingest["output"] and ingest["fingerprint"]
        (run / job).write_json("job.json", ingest)
    # Last: until here the fingerprint above can be recognised.
    (run / "seed").write_json("job.json", seed | {"output": output})


def version(record: dict[str, Any]) -> str:
    """Return the version of the code that did a job."""
    return str(record["code"]).partition("+")[0]


def _tell_again(store: Folder, name: str, finished: dict[str, Any]) -> None:
    """Write report and datasheet anew, and in their places in the store's own MLflow."""
    recipe = recipe_of(store / name)
    assert isinstance(recipe, Recipe)
    run = RetriedRun(store, name)
    known = set(JobRecord.__dataclass_fields__)
    run.jobs = [
        JobRecord(**{key: job[key] for key in known if key in job}) for job in finished["jobs"]
    ]
    decided = next(job for job in run.jobs if job.job == "people")
    decisions = read(run.data(decided), DECIDED)
    about = summarise(run, recipe, decisions, finished["seconds"])
    report, sheet = tell(run, recipe, decisions, about)
    texts = {"report.html": report, "DATASHEET.md": sheet}
    replace_artifacts(store, finished["mlflow"], texts)


def replace_artifacts(store: Folder, mlflow: str, texts: dict[str, str]) -> None:
    """Put pages in their places in the store's own MLflow."""
    for path in (store / "mlartifacts").files():
        place = PurePosixPath(path)
        if mlflow and mlflow in place.parts and place.name in texts:
            store.write(path.removeprefix(f"{store.path}/"), texts[place.name])


def correct_pairs(folder: Folder) -> None:
    """Count the pairs of a folder again; photos and people are told as they were paired."""
    record = folder.read_json(PAIRS) or {}
    path = f"{folder.path}/pairs.parquet"
    if "paired" not in record or not folder.exists("pairs.parquet"):
        return
    rows = pq.read_table(path, filesystem=folder.fs, columns=["kind", "stratum"])
    alone = rows.filter(pc.equal(rows["kind"], "pair"))
    for name, column in (("matches", rows["kind"]), ("strata", alone["stratum"])):
        record["paired"][name] = dict(sorted(Counter(column.to_pylist()).items()))
    folder.write_json(PAIRS, record)


def correct_features(folder: Folder) -> bool:
    """Make the index and the means of features agree with their shards; say if any row is left.

    Features of which nothing is left are deleted.
    """
    index = pq.read_table(f"{folder.path}/index.parquet", filesystem=folder.fs)
    places: dict[str, dict[str, int]] = {}
    vectors = []
    for path in (folder / "shards").files(".safetensors"):
        with safe_open(path, framework="np") as held:
            about = json.loads((held.metadata() or {})["rows"])
            vectors += [held.get_tensor("identity")] if about["ids"] else []
        seen: defaultdict[int, int] = defaultdict(int)
        for row, (id_, bucket) in enumerate(zip(about["ids"], about["buckets"], strict=True)):
            places[id_] = {"row": row, "place": seen[bucket]}
            seen[bucket] += 1
    if not vectors:
        folder.clear()
        return False
    rows = [row for row in index.to_pylist() if row["id"] in places]
    rows = [{k: places[row["id"]].get(k, v) for k, v in row.items()} for row in rows]
    folder.write_table("index.parquet", pa.Table.from_pylist(rows, schema=index.schema))
    every = np.concatenate(vectors)
    about = folder.read_json("features.json") or {}
    about["identity_mean"] = every.mean(0).tolist()
    about["identity_std"] = (every.std(0) + 1e-6).tolist()
    folder.write_json("features.json", about)
    return True
