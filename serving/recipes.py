"""Every deployment we stand behind, each a function that returns its whole recipe.

Frozen like the recipes of curation and training, and free of torch and Ray.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue
from serving.jobs.settings import VideoSettings
from serving.provenance.settings import ProvenanceSettings

_PASSWORD = re.compile(r"([a-z0-9+]+://[^:@/]*)(:[^@/]*@|.*[?&]password=)")


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
class PeopleSettings:
    """Who can be enrolled, and whom nobody may draw."""

    most: int = 100_000
    """Per API key."""
    min_face_px: int = 60
    """Shorter side of the face in an enrolled photograph."""
    min_sharpness: float = 20.0
    """As ``keep.min_sharpness`` of a curation recipe."""
    crops: bool = False
    """Keep each photograph's aligned face: models that look at the face itself need it, others
    need its vector only."""
    liveness: str = ""
    """`file:<path>` of insightface's liveness.onnx; needs the backend insightface. Empty: enrolment
    answers that there was no such check."""
    require_liveness: bool = False
    """Refuse enrolment where there is no such check."""
    grace_days: int = 30
    """How long somebody whose consent has ended can be renewed before all of them is deleted."""
    protect_below: float = 0.0
    """Distance from a protected person below which a face is refused; 0: as measured, see
    ``serving.people.protected``."""

    def __post_init__(self) -> None:
        if self.liveness and not self.liveness.startswith("file:"):
            raise BadValue("people.liveness", self.liveness, "give `file:<path>`.")
        for name in ("min_face_px", "min_sharpness", "grace_days", "protect_below"):
            if not getattr(self, name) >= 0:
                raise BadValue(f"people.{name}", getattr(self, name), "give 0 or more.")


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
    records: str = ""
    """Where people, the audit log and jobs are kept: path of a SQLite file, or
    `postgresql+psycopg2://USER@HOST/DATABASE` for gateways on several machines; empty:
    `<store>/serving.db`."""
    playground: bool = True
    """A page at `/` on which people can try it; the routes ask it for the same keys as anybody."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    people: PeopleSettings = field(default_factory=PeopleSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    videos: VideoSettings = field(default_factory=VideoSettings)
    provenance: ProvenanceSettings = field(default_factory=ProvenanceSettings)
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
        if found := _PASSWORD.match(self.records):
            cure = "leave the password out: every gateway reads PGPASSWORD or ~/.pgpass."
            raise BadValue("records", f"{found[1]}:***", cure)

    @property
    def database(self) -> str:
        """Where records are kept, for ``open_database``.

        Raises:
            BadValue: The store is no folder of this machine, and no other place is named.
        """
        if not self.records and "://" in self.store:
            cure = f"{self.store} is not on this machine: name a file or a PostgreSQL."
            raise BadValue("records", "", cure)
        return self.records or str(Path(self.store) / "serving.db")

    @property
    def results(self) -> str:
        """Where video jobs keep their files.

        Raises:
            BadValue: The store is no folder of this machine, and no other place is named.
        """
        if self.videos.model and not self.videos.folder and "://" in self.store:
            cure = f"{self.store} is not on this machine: name a folder that all can reach."
            raise BadValue("videos.folder", "", cure)
        return self.videos.folder or str(Path(self.store) / "videos")


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
