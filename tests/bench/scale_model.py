"""What a large curation would take, from what one row costs."""

from dataclasses import dataclass

FACE_STAGES = ("DetectFaces", "AlignFaces", "EmbedFaces")
"""What a GPU would take over."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What is taken as given, and was not measured."""

    urls: float = 1e9
    nodes: int = 10
    cores: int = 32
    """Per node."""
    alive: float = 0.75
    """Share of the URLs that still give a picture."""
    kept: float = 0.2
    """Share of the URLs whose picture passes the rules, and is compared and exported."""
    side_px: int = 640
    """Of a picture of the web; its bytes follow from it."""
    node_gbit_per_s: float = 10.0
    answer_s: float = 0.7
    """Mean time of one URL, dead ones included."""
    in_flight: int = 256
    """Requests per node: four fetchers of 64."""
    gpus: int = 8
    """In all; 0: faces are found on CPUs."""
    pictures_per_gpu_s: float = 300.0
    """That one GPU detects, aligns and embeds: SCRFD at 640 px and ArcFace R100."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one row each, on one core."""

    fetch_s: float
    """CPU seconds of the fetching process."""
    look_s: dict[str, float]
    """Seconds by stage."""
    picture_bytes: float
    seed_s: float
    export_s: float
    near_s: tuple[float, float]
    """Looking for near hashes: seconds per row, and per row and row."""
    decided_bytes: float
    """Memory of the one process that compares."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """How long each part takes if nothing else did, and what follows."""

    hours: dict[str, float]
    ingest_h: float
    """Fetching and looking go on together: the longest of their parts."""
    dedupe_gb: float
    bottleneck: str
    balanced_urls: float
    """URLs of one run of which comparing takes as long as ingest on this cluster."""
    words: str


def forecast(costs: Costs, efficiency: float, given: Assumed) -> Forecast:
    """Scale the costs of one row to a run.

    Args:
        costs: Of one row.
        efficiency: Share of the cores that is at work on rows; measured on two cores.
        given: The cluster, the web.
    """
    pictures, kept = given.urls * given.alive, given.urls * given.kept
    cores = given.nodes * given.cores * efficiency
    faces = sum(s for stage, s in costs.look_s.items() if stage in FACE_STAGES)
    rest = sum(costs.look_s.values()) - faces
    seconds = {
        "wait for servers": given.urls * given.answer_s / (given.nodes * given.in_flight),
        "network": pictures * costs.picture_bytes * 8 / (given.nodes * given.node_gbit_per_s * 1e9),
        "CPUs": (given.urls * costs.fetch_s + pictures * (rest + (0 if given.gpus else faces)))
        / cores,
    }
    if given.gpus:
        seconds["GPUs"] = pictures / (given.gpus * given.pictures_per_gpu_s)
    ingest_s = max(seconds.values())
    # By the threads of one process.
    each_s, pair_s = (s / given.cores for s in costs.near_s)
    others = {
        "seed, one process": given.urls * costs.seed_s,
        "dedupe, one process": kept * each_s + kept**2 * pair_s,
        "export": kept * costs.export_s / cores,
    }
    hours = {name: s / 3600 for name, s in (seconds | others).items()}
    bottleneck = max(hours, key=lambda name: hours[name])
    left_s = ingest_s / given.urls - given.kept * each_s
    balanced = max(0.0, left_s) / (given.kept**2 * pair_s) if pair_s else float("inf")
    dedupe_gb = given.urls * costs.decided_bytes / 1e9
    cluster = f"{given.nodes} nodes of {given.cores} cores, {given.gpus} GPUs"
    lines = [
        f"{given.urls:g} URLs on {cluster}, efficiency {efficiency:.0%}:",
        *(f"  {name:22}{h:14,.1f} h" for name, h in hours.items()),
        f"  ingest, the longest of the first {len(seconds)}: {ingest_s / 3600:,.1f} h. "
        f"Bottleneck of the whole: {bottleneck}.",
        f"  One process holds every row to compare it: {dedupe_gb:,.0f} GB. Comparing takes as "
        f"long as ingest at {balanced / 1e6:,.0f} million URLs per run.",
    ]
    return Forecast(
        hours=hours, ingest_h=ingest_s / 3600, dedupe_gb=dedupe_gb, bottleneck=bottleneck,
        balanced_urls=balanced, words="\n".join(lines),
    )  # fmt: skip
