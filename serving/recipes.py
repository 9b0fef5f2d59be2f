"""Every deployment we stand behind, each a function that returns its whole recipe.

Frozen like the recipes of curation and training, and free of torch and Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceSettings:
    """Who measures faces: as a curation recipe's ``faces``, so vectors are the same."""

    backend: Literal["dlib", "insightface"] = "dlib"
    pack: str = ""
    """insightface: `file:<folder>` of a model pack."""
    detect_px: int = 640
    """Longest side at which faces are looked for."""
    min_score: float = 0.1
    at_once: int = 0
    """Photographs measured at the same time; 0: one per CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSettings:
    """What is drawn, and within which bounds."""

    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    steps: int = 30
    max_steps: int = 100
    guidance: float = 3.0
    max_pictures: int = 4
    """Per request."""
    max_side_px: int = 1024
    batch: int = 8
    """Pictures drawn together at most."""
    batch_wait_ms: int = 10
    adapters_held: int = 16
    """Sets of weights kept on the device, least recently used out first."""
    queue: int = 64
    """Pictures that may wait; beyond that a request is told to come back."""
    slowdown: float = 0.0
    """How many times as long as alone a request may take; one that would take longer is told to
    come back at once. 3 keeps answers quick under overload, and batches small where drawing
    together gains little. 0: as long as the queue allows."""
    threads: int = 0
    """CPU threads; 0: all there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSettings:
    """The door."""

    host: str = "127.0.0.1"
    port: int = 8000
    proxy: Literal["default", "haproxy"] = "default"
    """`haproxy` is the faster one, but drawing goes on when a client has left, and it listens on
    all interfaces too, with pages of numbers at ports 9101 and 8404."""
    max_body_bytes: int = 20 * 2**20
    max_pixels: int = 25_000_000
    """Of an uploaded photograph, asked of its header before anything is decoded."""
    timeout_s: int = 300
    drain_s: int = 30
    """How long a stopping replica finishes what it has begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSettings:
    """OpenTelemetry: how requests go through proxy, gateway and generator."""

    share: float = 0.0
    """Of the requests that are traced, 0 to 1."""
    exporter: str = ""
    """Import path of a function that returns span processors; empty: files in Ray's log folder,
    under serve/spans. See Ray Serve's `TracingConfig`."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise BadValue("traces.share", self.share, "give a share between 0 and 1.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Replicas:
    """How many of each; a cluster scales between the two."""

    gateway_min: int = 1
    gateway_max: int = 1
    images_min: int = 1
    images_max: int = 1
    cpus_per_gateway: float = 1.0
    cpus_per_images: float = 1.0
    gpus_per_images: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeRecipe:
    """All that decides a deployment."""

    name: str
    model: str = ""
    """`NAME@alias`, `NAME/version` or `NAME` in the registry, or `file:<export folder>`; empty:
    faces only."""
    adapters: tuple[str, ...] = ()
    """Registry names that requests may ask for beside the model."""
    registry: str = ""
    """MLflow's address; empty: MLFLOW_TRACKING_URI, or the store's own SQLite file."""
    store: str = "trained"
    keys: str = ""
    """File of API keys (`visage keys add`); empty: none are asked for, on loopback only."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    traces: TraceSettings = field(default_factory=TraceSettings)
    replicas: Replicas = field(default_factory=Replicas)

    def __post_init__(self) -> None:
        loopback = self.http.host in ("127.0.0.1", "::1", "localhost")
        if not self.keys and not loopback:
            raise BadValue(
                "http.host",
                self.http.host,
                "without --keys anybody who reaches it may draw; name a key file, or stay on "
                "127.0.0.1.",
            )


def local() -> ServeRecipe:
    """Serve on this machine's CPU, to loopback only."""
    return ServeRecipe(name="local")


def gpu() -> ServeRecipe:
    """Serve on one GPU per replica, in bfloat16, compiled, behind API keys."""
    return replace(
        local(),
        name="gpu",
        keys="keys.db",
        images=ImageSettings(device="cuda", precision="bf16", compile=True, slowdown=3.0),
        replicas=Replicas(gateway_max=4, images_max=4, gpus_per_images=1.0),
    )


RECIPES: dict[str, Callable[[], ServeRecipe]] = {make.__name__: make for make in (local, gpu)}


def recipe(name: str) -> ServeRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
