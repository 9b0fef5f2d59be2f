"""What a finished run leaves behind: run.json, the report, the datasheet, an MLflow run."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.configuration import flat, to_dict, to_yaml
from infra.storage import Folder
from infra.tracking import Tracker
from pipelines.captions.pace import metrics as caption_metrics
from pipelines.captions.pace import read_summary
from pipelines.dedupe import read
from pipelines.job import Run, code_version, utc_now
from pipelines.people import SUMMARY, home_of, read_mains
from pipelines.people import metrics as people_metrics
from pipelines.progress import Reporter
from pipelines.recipes import Recipe
from pipelines.reports.captions import caption_sections
from pipelines.reports.datasheet import datasheet
from pipelines.reports.funnel import funnel, funnel_table
from pipelines.reports.page import Example, JobSummary, RunSummary, StageSummary, write_report
from pipelines.reports.people import people_sections
from stages.models.faces import ModelCard

EXAMPLES_PER_REASON = 8
_MEASURES = [
    "id", "num_faces", "face_sizes_px", "face_yaws_deg", "face_pitches_deg", "face_sharpness",
    "face_exposures",
]  # fmt: skip
_VERSIONS = ("visage", "ray", "pyarrow", "numpy", "torch", "pillow", "opencv-python", "pdqhash")


@dataclass(frozen=True)
class Result:
    """How a run ended; ``--json`` prints it."""

    run: str
    path: str
    rows: int
    keep: int
    reject: dict[str, int]
    error: dict[str, int]
    seconds: float
    report: str
    mlflow: str
    """MLflow's id of the run; empty where it could not be written."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read it back from ``run.json``."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})


def finish(
    run: Run,
    recipe: Recipe,
    decisions: pa.Table,
    tracker: Tracker,
    reporter: Reporter,
    began: float,
) -> Result:
    """Write everything that tells of a run, show the funnel, and return how it ended."""
    summary = summarise(run, recipe, decisions, round(time.monotonic() - began, 1))
    report, about = tell(run, recipe, decisions, summary)
    reporter.console.print(funnel_table(funnel(decisions)))

    decided = next(job for job in run.jobs if job.job == "people")  # its rows are the decisions
    people = home_of(run.store, decided).read_json(SUMMARY) or {}
    captions = read_summary(run)
    count = {name: getattr(decided, name) for name in ("rows", "keep", "reject", "error")}
    mlflow = tracker.finish(
        params=dict(flat(to_dict(recipe))),
        metrics=_metrics(count, summary) | people_metrics(people) | caption_metrics(captions),
        texts={"report.html": report, "recipe.yaml": to_yaml(recipe), "DATASHEET.md": about},
        tags={
            "visage.code": code_version(),
            "visage.path": str(run.folder),
        },
    )
    if tracker.problem:
        reporter.console.print(f"{tracker.problem}. The run itself is complete.", markup=False)
    result = Result(
        run=run.name,
        path=str(run.folder),
        seconds=round(time.monotonic() - began, 1),
        report=f"{run.folder}/report.html",
        mlflow=mlflow,
        **count,
    )
    run.folder.write_json(
        "run.json",
        asdict(result)
        | {
            "recipe": recipe.name,
            "version": version("visage"),
            "code": code_version(),
            "finished_at": summary.finished_at,
            "mlflow_uri": tracker.uri,
            "people": people,
            "captions": captions,
            "jobs": [asdict(record) for record in run.jobs],
        },
    )
    return result


def tell(run: Run, recipe: Recipe, decisions: pa.Table, summary: RunSummary) -> tuple[str, str]:
    """Write and return the report and the datasheet of a run whose jobs are done."""
    jobs = {record.job: record for record in run.jobs}
    ingested, judged = run.data(jobs["ingest"]), run.data(jobs["keep"])
    home = home_of(run.store, jobs["people"])
    measures = read(judged, _MEASURES)
    sections = people_sections(
        decisions,
        read_mains(home),
        measures,
        home.read_json(SUMMARY) or {},
        lambda ids: pictures(ingested, ids),
    )
    report = write_report(
        summary,
        decisions,
        measures,
        examples(ingested, decisions),
        thresholds(recipe),
        sections,
        caption_sections(run, decisions, lambda ids: pictures(ingested, ids)),
    )
    run.folder.write("report.html", report)
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))
    sizes = read(judged, ["id", "width_px", "height_px"])
    about = datasheet(summary, kept.join(sizes, "id"), funnel(decisions))
    run.folder.write("export/DATASHEET.md", about)
    return report, about


def summarise(run: Run, recipe: Recipe, decisions: pa.Table, seconds: float) -> RunSummary:
    """Gather what a run was and what it took."""
    stages = [item for job in run.jobs for item in job.stage_seconds.items()]
    cards = {card["sha256"]: ModelCard(**card) for job in run.jobs for card in job.models}
    return RunSummary(
        run=run.name,
        recipe_name=recipe.name,
        recipe_yaml=to_yaml(recipe),
        source=recipe.source.path,
        rows=decisions.num_rows,
        seconds=seconds,
        jobs=tuple(JobSummary(j.job, j.rows, j.seconds, j.reused) for j in run.jobs),
        stages=tuple(StageSummary(name, rows, spent) for name, (rows, spent) in stages),
        models=tuple(cards.values()),
        versions={name: version(name) for name in _VERSIONS},
        code_version=code_version(),
        finished_at=utc_now(),
    )


def thresholds(recipe: Recipe) -> dict[str, tuple[float, ...]]:
    """Name the lines that the rules draw through each measure."""
    rules = recipe.keep
    return {
        "face_sharpness": (rules.min_sharpness,),
        "face_yaws_deg": (-rules.max_yaw_deg, rules.max_yaw_deg),
        "face_pitches_deg": (-rules.max_pitch_deg, rules.max_pitch_deg),
        "face_exposures": (rules.min_exposure, rules.max_exposure),
    }


def examples(ingested: Folder, decisions: pa.Table) -> list[Example]:
    """Pick a few rows for every reason, with their pictures where they have one."""
    reasons = pc.if_else(
        pc.equal(decisions["error"], ""), decisions["rejected_by"], decisions["error"]
    )
    wanted = {
        row["id"]: row
        for reason in pc.unique(reasons).to_pylist()
        for row in decisions.filter(pc.equal(reasons, reason))
        .slice(0, EXAMPLES_PER_REASON)
        .to_pylist()
    }
    found = pictures(ingested, wanted)
    return [_example(row, found.get(key, {})) for key, row in wanted.items()]


def pictures(ingested: Folder, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the pictures of some rows, with their faces' boxes and scores."""
    ids = pa.array(list(wanted), pa.string())
    found: dict[str, dict[str, Any]] = {}
    for path in ingested.files(".parquet"):
        if len(found) == len(ids):
            break
        # Bytes are read only from the files that hold a wanted row.
        some = pq.read_table(path, filesystem=ingested.fs, columns=["id"], partitioning=None)
        if pc.any(pc.is_in(some["id"], value_set=ids)).as_py():
            columns = ["id", "blob", "face_boxes_px", "face_scores"]
            rows = pq.read_table(path, filesystem=ingested.fs, columns=columns, partitioning=None)
            here = rows.filter(pc.is_in(rows["id"], value_set=ids))
            found |= {row["id"]: row for row in here.to_pylist()}
    return found


def _example(row: Mapping[str, Any], picture: Mapping[str, Any]) -> Example:
    repeats = f"{row['dup_kind']} copy of {row['dup_of']}" if row["dup_of"] else ""
    return Example(
        reason=row["error"] or row["rejected_by"],
        id=row["id"],
        title=row["member"] or row["url"],
        url=row["url"],
        blob=picture.get("blob"),
        boxes_px=picture.get("face_boxes_px") or [],
        scores=picture.get("face_scores") or [],
        note=row["error_detail"] or repeats,
    )


def _metrics(count: Mapping[str, Any], summary: RunSummary) -> dict[str, float]:
    metrics: dict[str, float] = {
        "rows": count["rows"], "keep": count["keep"], "seconds": summary.seconds,
        "reject": sum(count["reject"].values()), "error": sum(count["error"].values()),
    }  # fmt: skip
    metrics |= {f"reject.{reason}": n for reason, n in count["reject"].items()}
    metrics |= {f"error.{reason}": n for reason, n in count["error"].items()}
    metrics |= {f"seconds.{job.name}": job.seconds for job in summary.jobs}
    return metrics
