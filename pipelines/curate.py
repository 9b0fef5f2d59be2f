"""Curate a source of pictures into a face-identity corpus: seed, ingest, keep, dedupe, export.

Read ``curate`` from top to bottom: it is the table of contents of a run.
"""

import time
from functools import partial
from importlib.metadata import version

from rich.console import Console

from infra.cluster import cluster
from infra.configuration import digest, to_dict, to_yaml
from infra.storage import open_store
from infra.tracking import Tracker
from pipelines.job import Run, locked
from pipelines.progress import Reporter
from pipelines.recipes import Recipe
from pipelines.record import Result, finish
from pipelines.sources import Listing, list_source
from stages.columns import DECISIONS
from stages.models.faces import SCHEMES

LIGHT = [
    "id", "url", "source", "source_row", "member", "rejected_by", "error", "error_detail",
    "num_faces", "dup_of", "dup_kind", "label", "license", "width_px", "height_px",
    "face_area_shares", "face_sizes_px", "face_sharpness", "face_exposures", "face_yaws_deg",
    "face_pitches_deg", "face_rolls_deg", "sha256", "pdq", "pdq_mirror", "pdq_quality",
    "bytes_len",
]  # fmt: skip
"""All that deciding needs of an ingested row: no pixels, no bytes, no vectors."""


def plan(recipe: Recipe) -> tuple[Listing, str]:
    """Find the source's files and name the run: the same recipe and files give the same name."""
    listing = list_source(recipe.source)
    decides = {k: v for k, v in to_dict(recipe).items() if k != "workers"}
    return listing, f"{recipe.name}-{digest(decides, listing.digest)[:8]}"


def curate(recipe: Recipe, store: str, console: Console, address: str = "") -> Result:
    """Carry out ``recipe``; do only what no finished job has done before.

    Args:
        recipe: Everything that decides the result, the source included.
        store: Folder or object-store prefix that holds runs.
        console: Where progress is shown.
        address: A Ray cluster; empty for an embedded one.

    Raises:
        BadInput: The source cannot be read, the store cannot be written, a setting cannot work.
    """
    from stages.models.backend import cards

    began = time.monotonic()
    listing, name = plan(recipe)
    models = cards(recipe.faces.backend, recipe.faces.pack)
    run = Run(open_store(store), name)
    with locked(run.folder):
        before = run.folder.read_json("run.json") or {}
        if before.get("version") == version("visage"):
            console.print(f"{name} was finished at {before['finished_at']}: nothing is left to do.")
            return Result.of(before)
        reporter = Reporter(console)
        tracker = Tracker(run.store, "curate", name)
        run.folder.write("recipe.yaml", to_yaml(recipe))
        with cluster(address) as cpus:
            # Heavy imports, hidden behind the start of the cluster's first workers.
            from pipelines.dedupe import dedupe, read
            from pipelines.export import export
            from pipelines.ingest import ingest
            from pipelines.parallel import map_files
            from pipelines.rows import map_rows
            from pipelines.seed import seed
            from stages.keep import Keep

            seeded = run.do(
                "seed",
                lambda target: seed(listing, recipe, target, reporter),
                settings={
                    "source": recipe.source,
                    "human_terms": recipe.keep.human_terms,
                    "min_side_px": recipe.keep.min_side_px,
                },
                inputs=[listing.digest],
            )
            ingested = run.do(
                "ingest",
                lambda target: map_rows(
                    run.data(seeded),
                    target,
                    partial(
                        ingest,
                        recipe=recipe,
                        cpus=cpus,
                        from_web=listing.kind in ("table", "urls"),
                    ),
                    checkpoint=run.folder / "ingest/checkpoint",
                    block_rows=recipe.workers.block_rows,
                    reporter=reporter,
                ),
                settings={"fetch": recipe.fetch, "decode": recipe.decode, "faces": recipe.faces},
                inputs=[seeded.output],
                models=models,
            )
            judged = run.do(
                "keep",
                lambda target: map_files(
                    run.data(ingested),
                    target,
                    [partial(Keep, recipe.keep)],
                    columns=LIGHT,
                    rows_per_part=65_536,
                    at_once=cpus,
                    reporter=reporter,
                ),
                settings={"keep": recipe.keep},
                inputs=[ingested.output],
            )
            decided = run.do(
                "dedupe",
                lambda target: dedupe(run.data(judged), recipe.dedupe, target),
                settings={"dedupe": recipe.dedupe},
                inputs=[judged.output],
                data="decisions",
            )
            decisions = read(run.data(decided), DECISIONS)
            run.do(
                "export",
                lambda target: export(
                    run.data(ingested),
                    decisions,
                    target,
                    recipe.export,
                    SCHEMES[recipe.faces.backend],
                    reporter,
                    at_once=cpus,
                ),
                settings={"export": recipe.export},
                inputs=[ingested.output, decided.output],
                data="export",
            )
        return finish(run, recipe, decisions, tracker, reporter, began)
