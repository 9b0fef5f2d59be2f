"""Every picture fetched, decoded, hashed and looked at, once."""

from collections.abc import Callable
from functools import partial

from ray.data import Dataset

from pipelines.apply import Pool, apply
from pipelines.recipes import Recipe
from stages.decode import Decode
from stages.exposure import ScoreExposure
from stages.faces import AlignFaces, DetectFaces, EmbedFaces
from stages.fetch import Fetch
from stages.hashes import Hash
from stages.models.backend import load_detector, load_embedder
from stages.models.faces import SCHEMES
from stages.pose import ScorePose
from stages.read import Read
from stages.sharpness import ScoreSharpness
from stages.types import Stage

Make = Callable[[], Stage]
FETCHER_CPUS = 0.25
"""CPUs reserved for all fetchers together: they mostly wait."""


def fetching(recipe: Recipe) -> Make:
    """Return the stage that brings a picture's bytes from the web."""
    how = recipe.fetch
    return partial(
        Fetch,
        concurrency=how.concurrency,
        connect_s=how.connect_s,
        deadline_s=how.deadline_s,
        max_bytes=how.max_bytes,
        max_redirects=how.max_redirects,
        allow_loopback=how.allow_loopback,
    )


def looking(recipe: Recipe) -> tuple[Make, ...]:
    """Return the stages that share decoded pixels, in order."""
    faces = recipe.faces
    detector = partial(
        load_detector, faces.backend, faces.pack, faces.detect_px, faces.min_score, faces.device
    )
    embedder = partial(load_embedder, faces.backend, faces.pack, faces.device)
    return (
        partial(Decode, max_megapixels=recipe.decode.max_megapixels, work_px=recipe.decode.work_px),
        Hash,
        partial(DetectFaces, detector),
        partial(AlignFaces, embedder),
        partial(EmbedFaces, embedder),
        partial(ScorePose, SCHEMES[faces.backend]),
        ScoreSharpness,
        ScoreExposure,
    )


def ingest(rows: Dataset, recipe: Recipe, *, cpus: int, from_web: bool) -> Dataset:
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
            rows, partial(Read, max_bytes=recipe.fetch.max_bytes), *looking(recipe), pool=lookers
        )
    # Waiting needs little CPU, but one batch must fill the fetcher's whole concurrency.
    fetchers = Pool(
        batch_rows=max(hands.block_rows, recipe.fetch.concurrency),
        workers=hands.fetchers,
        cpus=FETCHER_CPUS / hands.fetchers,
    )
    return apply(apply(rows, fetching(recipe), pool=fetchers), *looking(recipe), pool=lookers)
