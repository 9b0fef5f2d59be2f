"""What a finished run over videos leaves behind: numbers, run.json, the report, an MLflow run."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.configuration import flat, to_dict, to_yaml
from infra.storage import Folder
from infra.tracking import Tracker
from pipelines.captions.pace import metrics as caption_metrics
from pipelines.captions.pace import read_summary
from pipelines.dedupe import read
from pipelines.job import JobRecord, Run, code_version, utc_now
from pipelines.people import SUMMARY, home_of
from pipelines.people import metrics as people_metrics
from pipelines.progress import Reporter
from pipelines.record import Result
from pipelines.reports.funnel import Step, funnel, funnel_table
from pipelines.video.recipes import VideoRecipe
from stages.columns import DECIDED


@dataclass(frozen=True)
class VideoResult(Result):
    """How a run over videos ended; ``--json`` prints it.

    Rows are clips, and the videos that gave none: every video is accounted for by its clips or by
    the reason why it has none.
    """

    videos: dict[str, float] = field(default_factory=dict)
    """How many there were, gave clips and failed; their length, and the seconds that watching
    took."""
    clips: dict[str, float] = field(default_factory=dict)
    """How many there were, and how many are kept."""
    tracks: dict[str, float] = field(default_factory=dict)
    """Faces followed in all clips, and in those that are kept."""
    pairs: int = 0


def summary(
    run: Run, watched: JobRecord, clips: Folder, decisions: pa.Table, pairs: pa.Table
) -> dict[str, Any]:
    """Count videos, clips, tracks and pairs.

    Args:
        run: The run.
        watched: The record of its watch job.
        clips: The rows of its clips job.
        decisions: What was decided of them.
        pairs: What was paired.
    """
    videos = read(run.data(watched), ["id", "video", "error"])
    length_s = pc.sum(pc.struct_field(videos["video"], "duration_s")).as_py() or 0.0
    rows = _ids(clips)
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))
    tracks = pc.fill_null(rows["num_faces"], 0)
    staying = pc.is_in(rows["id"], value_set=kept["id"].combine_chunks())
    # Rows of the forgotten name no video.
    known = rows.filter(pc.not_equal(rows["id"], rows["video_id"]))
    parents = set(known["video_id"].to_pylist()) - {""}
    found, watching_s = known.num_rows, watched.seconds
    return {
        "videos": {
            "rows": videos.num_rows,
            "with_clips": len(parents),
            "errors": pc.sum(pc.not_equal(videos["error"], "")).as_py() or 0,
            "length_s": round(length_s, 2),
            "watching_s": watching_s,
            "speed": round(length_s / watching_s, 3) if watching_s else 0.0,
        },
        "clips": {
            "rows": found,
            "keep": kept.num_rows,
            "keep_share": round(kept.num_rows / found, 4) if found else 0.0,
        },
        "tracks": {
            "rows": pc.sum(tracks).as_py() or 0,
            "keep": pc.sum(tracks.filter(staying)).as_py() or 0,
        },
        "pairs": pairs.num_rows,
    }


def _ids(clips: Folder) -> pa.Table:
    """Read ids and numbers of tracks of the clips job's rows."""
    names = ["id", "video_id", "num_faces"]
    parts = [
        pq.read_table(path, filesystem=clips.fs, columns=names, partitioning=None)
        for path in clips.files(".parquet")
    ]
    return pa.concat_tables(parts)


def finish(
    run: Run,
    recipe: VideoRecipe,
    told: Mapping[str, Any],
    tracker: Tracker,
    reporter: Reporter,
    began: float,
) -> VideoResult:
    """Write everything that tells of a run, show the funnel, and return how it ended."""
    decided = record_of(run, "people")
    steps = funnel(read(run.data(decided), DECIDED))
    reporter.console.print(funnel_table(steps))
    people = home_of(run.store, decided).read_json(SUMMARY) or {}
    seconds = round(time.monotonic() - began, 1)
    about = describe(run, recipe, told, people, steps, seconds)
    report = tell(run, about)
    mlflow = tracker.finish(
        params=dict(flat(to_dict(recipe))),
        metrics=_metrics(run, told, decided, seconds)
        | people_metrics(people)
        | caption_metrics(about["captions"]),
        texts={"report.html": report, "recipe.yaml": to_yaml(recipe)},
        tags={"visage.code": code_version(), "visage.path": str(run.folder)},
    )
    if tracker.problem:
        reporter.console.print(f"{tracker.problem}. The run itself is complete.", markup=False)
    result = VideoResult(
        run=run.name,
        path=str(run.folder),
        rows=decided.rows,
        keep=decided.keep,
        reject=decided.reject,
        error=decided.error,
        seconds=seconds,
        report=f"{run.folder}/report.html",
        mlflow=mlflow,
        **told,
    )
    run.folder.write_json("run.json", about | asdict(result) | {"mlflow_uri": tracker.uri})
    return result


def describe(
    run: Run,
    recipe: VideoRecipe,
    told: Mapping[str, Any],
    people: Mapping[str, Any],
    steps: list[Step],
    seconds: float,
) -> dict[str, Any]:
    """Say all of a run that its report and ``run.json`` tell."""
    return {
        "run": run.name,
        "recipe": recipe.name,
        "recipe_yaml": to_yaml(recipe),
        "source": recipe.source.path,
        "seconds": seconds,
        "version": version("visage"),
        "code": code_version(),
        "finished_at": utc_now(),
        "people": dict(people),
        "captions": read_summary(run),
        "funnel": [asdict(step) | {"outcome": step.outcome} for step in steps],
        "jobs": [asdict(job) for job in run.jobs],
        **told,
    }


def tell(run: Run, about: Mapping[str, Any]) -> str:
    """Write the report and return it."""
    from pipelines.video.report import write_report  # draws, which takes seconds to import

    write_report(run.folder, about)
    return run.folder.read("report.html").decode()


def record_of(run: Run, job: str) -> JobRecord:
    """Return the record of one of the run's jobs."""
    return next(record for record in run.jobs if record.job == job)


def _metrics(
    run: Run, told: Mapping[str, Any], decided: JobRecord, seconds: float
) -> dict[str, float]:
    metrics: dict[str, float] = {
        "rows": decided.rows, "keep": decided.keep, "seconds": seconds,
        "reject": sum(decided.reject.values()), "error": sum(decided.error.values()),
        "pairs": told["pairs"],
    }  # fmt: skip
    metrics |= {f"reject.{reason}": n for reason, n in decided.reject.items()}
    metrics |= {f"error.{reason}": n for reason, n in decided.error.items()}
    metrics |= {f"seconds.{job.job}": job.seconds for job in run.jobs}
    for name in ("videos", "clips", "tracks"):
        metrics |= {f"{name}.{key}": value for key, value in told[name].items()}
    return metrics
