"""Captions of clips within a run: what was written of the kept ones, and which are no good."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.caption import decide
from pipelines.dedupe import read
from pipelines.job import JobRecord, Run
from pipelines.progress import Reporter
from pipelines.video.recipes import VideoRecipe
from stages.columns import DECISIONS


def add_captions(
    run: Run,
    recipe: VideoRecipe,
    judged: JobRecord,
    decided: JobRecord,
    files: Folder,
    reporter: Reporter,
) -> tuple[JobRecord, pa.Table]:
    """Caption the kept clips, and decide again as a job of its own.

    Args:
        run: The run.
        recipe: Who writes captions.
        judged: The job with the clips' measures and tracks.
        decided: The job that says which are kept.
        files: Where the clips are.
        reporter: Shows the progress.

    Returns:
        The job that decides, and the captions: id, and some of ``exported.WORDS``.

    Raises:
        BadInput: A model cannot be loaded.
    """
    from pipelines.video.caption import caption_clips

    words = caption_clips(run, recipe, kept_of(run, judged, decided), files, reporter)
    told = next(record for record in reversed(run.jobs) if record.job == "caption")
    again = run.do(
        "captioned",
        lambda target: decide(read(run.data(decided), DECISIONS), run.data(told), target),
        settings={},
        inputs=[decided.output, told.output],
    )
    return again, words


def kept_of(run: Run, judged: JobRecord, decided: JobRecord) -> pa.Table:
    """Return all that is known of the kept clips, by id."""
    decisions = read(run.data(decided), ["id", "status"])
    kept = decisions.filter(pc.equal(decisions["status"], "keep"))["id"].combine_chunks()
    home = run.data(judged)
    parts = [
        pq.read_table(p, filesystem=home.fs, partitioning=None) for p in home.files(".parquet")
    ]
    rows = pa.concat_tables(parts)
    return rows.filter(pc.is_in(rows["id"], value_set=kept)).sort_by("id").combine_chunks()
