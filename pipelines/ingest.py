"""Every picture fetched, decoded, hashed and looked at, once."""

from collections.abc import Callable
from functools import partial

from ray.data import Dataset

from pipelines.apply import Pool, apply
from pipelines.recipes import Recipe
from stages.anonymise import Anonymise
from stages.decode import Decode
from stages.exposure import ScoreExposure
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.forgotten import DropForgotten
from stages.hashes import Hash
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import SCHEMES
from stages.pose import ScorePose
from stages.read import Read
from stages.sharpness import ScoreSharpness
from stages.types import Stage
from stages.web.fetch import Fetch

Make = Callable[[], Stage]
FETCHER_CPUS = 0.25
"""CPUs reserved for all fetchers together: they mostly wait."""


def fetching(recipe: Recipe, refresh: bool = False) -> Make:
    """Return the stage that brings a picture's bytes from the web."""
    return partial(Fetch, recipe.fetch, shares=recipe.workers.fetchers, refresh=refresh)


def looking(recipe: Recipe, forgotten: frozenset[str] = frozenset()) -> tuple[Make, ...]:
    """Return the stages that share decoded pixels, in order.

    Files whose tombstone is in ``forgotten`` are looked at no further, and not kept.
    """
    faces = recipe.faces
    detector = partial(
        load_detector, faces.backend, faces.pack, faces.detect_px, faces.min_score, faces.device
    )
    embedder = partial(load_embedder, faces.backend, faces.pack, faces.device)
    return (
        partial(Decode, max_megapixels=recipe.decode.max_megapixels, work_px=recipe.decode.work_px),
        Hash,
        *((partial(DropForgotten, forgotten),) if forgotten else ()),
        partial(DetectFaces, detector),
        partial(AlignFaces, embedder),
        partial(EmbedFaces, embedder),
        *((partial(Anonymise, embedder, faces.anonymise),) if faces.anonymise else ()),
        partial(ScorePose, SCHEMES[faces.backend]),
        ScoreSharpness,
        ScoreExposure,
    )


def ingest(
    rows: Dataset,
    recipe: Recipe,
    *,
    cpus: int,
    from_web: bool,
    refresh: bool = False,
    forgotten: frozenset[str] = frozenset(),
) -> Dataset:
    """Bring every row's picture and measure it, with pools that reserve at most ``cpus``.

    Pictures from the web are fetched by a process of its own, which waits while others work.
    Local ones are read where they are looked at, so that their bytes are not passed on.
    """
    hands = recipe.workers
    count = hands.lookers or cpus
    lookers = Pool(
        batch_rows=hands.batch_rows,
        workers=count,
        cpus=round(min(hands.cpus_per_looker, (cpus - FETCHER_CPUS) / count), 3),
        gpus=hands.gpus_per_looker,
    )
    if not from_web:
        return apply(
            rows,
            partial(Read, max_bytes=recipe.fetch.max_bytes),
            *looking(recipe, forgotten),
            pool=lookers,
        )
    # Waiting needs little CPU, but one batch must fill the fetcher's whole concurrency.
    fetchers = Pool(
        batch_rows=max(hands.block_rows, recipe.fetch.concurrency),
        workers=hands.fetchers,
        cpus=FETCHER_CPUS / hands.fetchers,
    )
    return apply(
        apply(rows, fetching(recipe, refresh), pool=fetchers),
        *looking(recipe, forgotten),
        pool=lookers,
    )
