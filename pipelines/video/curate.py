"""Curate videos into clips of people: seed to export.

Read ``curate_videos`` from top to bottom: it is the table of contents of a run.
"""

import time
from functools import partial
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from infra.cluster import cluster
from infra.configuration import digest, to_dict, to_yaml
from infra.errors import UnwritableStore
from infra.storage import Folder, open_store
from infra.tracking import Tracker
from pipelines.curate import check_contact, from_web
from pipelines.forgetting.tombstones import Tombstones
from pipelines.job import JobRecord, Run, locked
from pipelines.progress import Reporter
from pipelines.sources import VIDEOS, Listing, list_source
from pipelines.video.recipes import VideoRecipe
from pipelines.video.record import VideoResult


def plan(recipe: VideoRecipe) -> tuple[Listing, str]:
    """Find the source's files and name the run: the same recipe and files give the same name."""
    listing = list_source(recipe.source, VIDEOS)
    decides = {k: v for k, v in to_dict(recipe).items() if k != "workers"}
    return listing, f"{recipe.name}-{digest(decides, listing.digest)[:8]}"


def jobs_of(recipe: VideoRecipe) -> tuple[str, ...]:
    """Name the jobs of a recipe's run, in their order."""
    told = ("caption", "captioned") if recipe.captions.backend != "none" else ()
    return ("seed", "watch", "clips", "keep", "dedupe", *told, "people", "pairs", "export")


def curate_videos(
    recipe: VideoRecipe, store: str, console: Console, address: str = ""
) -> VideoResult:
    """Carry out ``recipe``; do only what no finished job has done before.

    Args:
        recipe: Everything that decides the result, the source included.
        store: Folder that holds runs. Not an object store: clips are written while videos are
            watched, and every machine that watches must see the folder.
        console: Where progress is shown.
        address: A Ray cluster; empty for an embedded one.

    Raises:
        BadInput: The source cannot be read, the store cannot be written, a setting cannot work.
    """
    from pipelines.video.models import models_of

    began = time.monotonic()
    listing, name = plan(recipe)
    check_contact(recipe.fetch, from_web(listing))
    models = models_of(recipe)
    home = open_store(store)
    if not home.is_local:
        why = "clips are written while videos are watched, which needs a folder"
        raise UnwritableStore(store, why)
    run = Run(home, name)
    with locked(run.folder):
        before = run.folder.read_json("run.json") or {}
        if before.get("version") == version("visage"):
            console.print(f"{name} was finished at {before['finished_at']}: nothing is left to do.")
            return VideoResult.of(before)
        reporter = Reporter(console, name)
        tracker = Tracker(run.store, "curate", name)
        run.folder.write("recipe.yaml", to_yaml(recipe))
        with cluster(address) as cpus:
            # Heavy imports, hidden behind the start of the cluster's first workers.
            from pipelines.counters import count_decided
            from pipelines.dedupe import read
            from pipelines.parallel import map_files
            from pipelines.people import exported, find_identities, home_of
            from pipelines.seed import seed
            from pipelines.shards import hands
            from pipelines.video.clips import CLIP_ROWS, CLIPS, fan_out, shots_of
            from pipelines.video.dedupe import dedupe
            from pipelines.video.export import assemble, export, pairs_of
            from pipelines.video.exported import CLIPS_FILE
            from pipelines.video.record import finish, summary
            from pipelines.video.watch import watch
            from stages.columns import DECIDED
            from stages.people.thresholds import grouping_points
            from stages.video.keep import KeepVideo

            forgotten = Tombstones.read(run.store)
            points = grouping_points(recipe.faces.backend)
            seeding = recipe.seeding()
            seeded = run.do(
                "seed",
                lambda target: seed(listing, seeding, target, reporter, forgotten.rows),
                settings={
                    "source": recipe.source,
                    "endings": listing.endings,
                    "human_terms": recipe.keep.human_terms,
                    "min_side_px": recipe.keep.min_side_px,
                },
                inputs=[listing.digest, *sorted(forgotten.rows)],
            )
            watched = run.do(
                "watch",
                lambda target: watch(
                    run.data(seeded),
                    target,
                    run.folder / "watch",
                    recipe,
                    reporter,
                    cpus=cpus,
                    from_web=from_web(listing),
                    forgotten=forgotten.files,
                ),
                settings={
                    "fetch": recipe.fetch,
                    "video": recipe.video,
                    "faces": recipe.faces,
                    "text_reader": recipe.text_reader,
                },
                inputs=[seeded.output],
                models=models,
            )
            files = _beside(run, watched, CLIPS)
            fanned = run.do(
                "clips",
                lambda target: fan_out(run.data(watched), target, models[:2]),
                settings={},
                inputs=[watched.output],
            )
            judged = run.do(
                "keep",
                lambda target: map_files(
                    run.data(fanned),
                    target,
                    [partial(KeepVideo, recipe.keep, recipe.video.detect_every, points)],
                    columns=[
                        name for name in CLIP_ROWS.names if name not in ("num_faces", "status")
                    ],
                    rows_per_part=1,
                    at_once=cpus,
                    reporter=reporter,
                ),
                settings={"keep": recipe.keep, "detect_every": recipe.video.detect_every},
                inputs=[fanned.output],
            )
            decided = run.do(
                "dedupe",
                lambda target: dedupe(run.data(judged), target),
                settings={},
                inputs=[judged.output],
            )
            words = pa.table({"id": pa.array([], pa.string())})
            if recipe.captions.backend != "none":
                from pipelines.video.captioned import add_captions

                decided, words = add_captions(run, recipe, judged, decided, files, reporter)
            benchmark, benchmark_digest = exported(recipe.people.benchmark)
            known = run.do(
                "people",
                lambda target: find_identities(
                    run.data(judged),
                    run.data(decided),
                    recipe.people,
                    points,
                    target,
                    run.folder / "people",
                    benchmark,
                    hands(cpus),
                ),
                settings={"people": recipe.people},
                inputs=[judged.output, decided.output, benchmark_digest],
                data="decisions",
            )
            count_decided(name, watched, judged, known)
            decisions = read(run.data(known), DECIDED)
            faces = pq.read_table(f"{home_of(run.store, known).path}/data/part-00000.parquet")
            clips = assemble(run.data(judged), decisions, faces, words)
            paired = run.do(
                "pairs",
                lambda target: target.write_table(
                    "part-00000.parquet", pairs_of(clips, recipe.pairs)
                ),
                settings={"pairs": recipe.pairs},
                inputs=[judged.output, known.output],
            )
            pairs = pq.read_table(f"{run.data(paired).path}/part-00000.parquet")
            run.do(
                "export",
                lambda target: export(
                    target, files, clips, pairs, shots_of(run.data(watched)), recipe.layouts, cpus
                ),
                settings={"layouts": recipe.layouts},
                inputs=[watched.output, judged.output, known.output, paired.output],
                data="export",
                counted=f"/{CLIPS_FILE}",
            )
            numbers = summary(run, watched, run.data(fanned), decisions, pairs)
        return finish(run, recipe, numbers, tracker, reporter, began)


def _beside(run: Run, record: JobRecord, name: str) -> Folder:
    """Return a folder beside a job's rows, which may lie in another run."""
    return run.store / record.data.rpartition("/")[0] / name
