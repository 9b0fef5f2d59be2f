"""Curate a source of pictures into a face-identity corpus: seed to export.

Read ``curate`` from top to bottom: it is the table of contents of a run.
"""

import time
from dataclasses import asdict
from functools import partial
from importlib.metadata import version

from rich.console import Console

from infra.cluster import cluster
from infra.configuration import digest, to_dict, to_yaml
from infra.errors import BadValue
from infra.storage import Folder, open_store
from infra.tracking import Tracker
from pipelines.forgetting.tombstones import Tombstones
from pipelines.job import locked
from pipelines.progress import Reporter
from pipelines.recipes import Recipe
from pipelines.record import Result, finish
from pipelines.retry import RetriedRun, begin, end, retry
from pipelines.sources import Listing, list_source
from stages.columns import DECIDED
from stages.models.faces import SCHEMES
from stages.web.settings import FetchSettings

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


def jobs_of(recipe: Recipe) -> tuple[str, ...]:
    """Name the jobs of a recipe's run, in their order."""
    told = ("caption", "captioned") if recipe.captions.backend != "none" else ()
    return ("seed", "ingest", "keep", "dedupe", *told, "people", "export")


def check_courtesy(recipe: Recipe, listing: Listing) -> None:
    """Refuse to go out onto the web without a name, or for what is not curated here.

    Raises:
        BadValue: The source is on the web, and the recipe names nobody to write to; or it fetches
            videos.
    """
    check_contact(recipe.fetch, from_web(listing))
    if recipe.fetch.takes_videos:
        cure = "name images only; videos are curated by the recipe faceid_video."
        raise BadValue("fetch.types", recipe.fetch.types, cure)


def check_contact(fetch: FetchSettings, from_web: bool) -> None:
    """Refuse to go out onto the web without a name.

    Raises:
        BadValue: The settings name nobody to write to.
    """
    if from_web and not fetch.contact and not fetch.allow_loopback:
        cure = (
            "name an e-mail address or a page of yours, by which webmasters can reach you. "
            "Only this machine's own servers can be asked without (--fetch.allow-loopback)."
        )
        raise BadValue("fetch.contact", "", cure)


def from_web(listing: Listing) -> bool:
    """Say whether a source's pictures are fetched over HTTP."""
    return listing.kind in ("table", "urls")


def curate(
    recipe: Recipe,
    store: str,
    console: Console,
    address: str = "",
    retry_errors: tuple[str, ...] = (),
    refresh: bool = False,
) -> Result:
    """Carry out ``recipe``; do only what no finished job has done before.

    Args:
        recipe: Everything that decides the result, the source included.
        store: Folder or object-store prefix that holds runs.
        console: Where progress is shown.
        address: A Ray cluster; empty for an embedded one.
        retry_errors: Rows of the finished run that ended so are tried again; all others stay.
        refresh: Ask for other versions of the finished run's pictures; the same ones stay.

    Raises:
        BadInput: The source cannot be read, the store cannot be written, a setting cannot work.
    """
    from stages.models.backend import cards

    began = time.monotonic()
    listing, name = plan(recipe)
    check_courtesy(recipe, listing)
    if refresh and not from_web(listing):
        raise BadValue("--refresh", "given", "only pictures from the web have versions.")
    models = cards(recipe.faces.backend, recipe.faces.pack)
    run = RetriedRun(open_store(store), name)
    with locked(run.folder):
        again = begin(run, retry_errors, console, refresh)
        before = run.folder.read_json("run.json") or {}
        if before.get("version") == version("visage"):
            console.print(f"{name} was finished at {before['finished_at']}: nothing is left to do.")
            return Result.of(before)
        reporter = Reporter(console, name)
        tracker = Tracker(run.store, "curate", name)
        forgotten = Tombstones.read(run.store)
        run.folder.write("recipe.yaml", to_yaml(recipe))
        with cluster(address) as cpus:
            # Heavy imports, hidden behind the start of the cluster's first workers.
            from pipelines.counters import count_decided
            from pipelines.dedupe import dedupe, read
            from pipelines.export import export
            from pipelines.ingest import ingest
            from pipelines.parallel import map_files
            from pipelines.people import exported, find_identities, home_of, read_mains
            from pipelines.rows import map_rows
            from pipelines.seed import seed
            from pipelines.shards import hands
            from stages.keep import Keep
            from stages.people.thresholds import grouping_points

            seeded = run.do(
                "seed",
                lambda target: seed(listing, recipe, target, reporter, forgotten.rows),
                settings={
                    "source": recipe.source,
                    "human_terms": recipe.keep.human_terms,
                    "min_side_px": recipe.keep.min_side_px,
                },
                inputs=[listing.digest, *sorted(forgotten.rows)],
            )

            def carry(
                rows: Folder, target: Folder, checkpoint: Folder, refresh: bool = False
            ) -> None:
                map_rows(
                    rows,
                    target,
                    partial(
                        ingest,
                        recipe=recipe,
                        cpus=cpus,
                        from_web=from_web(listing),
                        refresh=refresh,
                        forgotten=forgotten.files,
                    ),
                    checkpoint=checkpoint,
                    block_rows=recipe.workers.block_rows,
                    reporter=reporter,
                )

            looking = {"fetch": recipe.fetch, "decode": recipe.decode, "faces": recipe.faces}
            ingested = run.do(
                "ingest",
                lambda target: carry(run.data(seeded), target, run.folder / "ingest/checkpoint"),
                settings=looking,
                inputs=[seeded.output],
                models=models,
            )
            if again:
                run.do(
                    again.job,
                    lambda target: retry(
                        run,
                        again,
                        run.data(seeded),
                        ingested,
                        target,
                        partial(carry, refresh=again.refresh),
                    ),
                    settings={"run": name, **asdict(again), **looking},
                    inputs=[ingested.output],
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
                inputs=run.ingested(ingested),
            )
            decided = run.do(
                "dedupe",
                lambda target: dedupe(
                    run.data(judged), recipe.dedupe, target, run.data(ingested), hands(cpus)
                ),
                settings={"dedupe": recipe.dedupe},
                inputs=[judged.output],
            )
            told = None
            if recipe.captions.backend != "none":
                from pipelines.caption import add_captions, export_captions

                told, decided = add_captions(run, recipe, ingested, decided, reporter, cpus)
            benchmark, benchmark_digest = exported(recipe.people.benchmark)
            known = run.do(
                "people",
                lambda target: find_identities(
                    run.data(ingested),
                    run.data(decided),
                    recipe.people,
                    grouping_points(recipe.faces.backend),
                    target,
                    run.folder / "people",
                    benchmark,
                    hands(cpus),
                ),
                settings={"people": recipe.people},
                inputs=[*run.ingested(ingested), decided.output, benchmark_digest],
                data="decisions",
            )
            count_decided(name, ingested, judged, known)
            decisions = read(run.data(known), DECIDED)
            run.do(
                "export",
                lambda target: export(
                    run.data(ingested),
                    decisions,
                    read_mains(home_of(run.store, known)),
                    target,
                    recipe.export,
                    SCHEMES[recipe.faces.backend],
                    reporter,
                    at_once=cpus,
                    told=run.data(told) if told else None,
                ),
                settings={"export": recipe.export},
                inputs=[*run.ingested(ingested), known.output],
                data="export",
            )
            if told is not None:
                export_captions(run.data(told), decisions, run.folder / "export/captions")
        result = finish(run, recipe, decisions, tracker, reporter, began)
        end(run)
        return result
