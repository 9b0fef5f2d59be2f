"""Every curation we stand behind, each a function that returns its whole recipe.

A recipe is frozen: derive another with ``dataclasses.replace``, which checks it again. The command
line and a YAML file of the same shape change single settings (``--keep.min-side-px 200``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue
from stages.captions.settings import CaptionSettings
from stages.copies.settings import DedupeSettings
from stages.keep import KeepRules
from stages.people.settings import PeopleSettings
from stages.web.settings import FetchSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the pictures, or the table that names them, are."""

    path: str = ""
    """A URL table (Parquet, CSV, TSV, JSONL), a text file of URLs, a folder of pictures or of
    tables, or a tar of pictures. A local path or s3://..."""
    kind: Literal["auto", "table", "urls", "folder", "tar"] = "auto"
    """How to read it; `auto` goes by the name's ending."""
    url_column: str = ""
    """The table's column of URLs; empty: url, URL or image_url."""
    caption_column: str = ""
    """Its column of captions; empty: caption, TEXT or text, where present."""
    license_column: str = ""
    """Its column of licences; empty: license, LICENSE, where present."""
    label_column: str = ""
    """Its column of person labels; empty: label, where present."""
    width_column: str = ""
    """Its column of declared widths; empty: width or WIDTH, where present."""
    height_column: str = ""
    """Its column of declared heights; empty: height or HEIGHT, where present."""
    license: str = ""
    """The licence of every picture whose source states none."""
    folders_are_people: bool = False
    """Take the name of a picture's folder as the label of the person in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeSettings:
    """How files become pixels."""

    max_megapixels: float = 64.0
    """A header that promises more is taken for a decompression bomb."""
    work_px: int = 1600
    """Long side to which larger pictures are reduced for measuring; the file stays as it is."""

    def __post_init__(self) -> None:
        if self.max_megapixels <= 0 or self.work_px < 64:
            raise BadValue(
                "decode", self, "max_megapixels must be positive and work_px at least 64."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceSettings:
    """Which models look at faces."""

    backend: Literal["dlib", "insightface"] = "dlib"
    """dlib comes with its weights (CC0). insightface needs a model pack, whose weights are for
    non-commercial research only."""
    pack: str = ""
    """insightface: folder of a model pack, or the name of one to download (buffalo_l)."""
    detect_px: int = 640
    """Long side of the picture in which faces are searched. dlib sees faces from 80 px there."""
    min_score: float = 0.0
    """Detections below are not faces. dlib: 0 is its author's, below 0.1 is much that is none;
    insightface: 0.5 is usual."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks run."""
    anonymise: Literal["", "blur", "pixelate", "cover"] = ""
    """Hide everybody but the main face in the pictures that are kept, and how; empty: nobody."""

    def __post_init__(self) -> None:
        if self.backend == "insightface" and not self.pack:
            raise BadValue(
                "faces.pack", "", "name a folder with a model pack, or buffalo_l to download it."
            )
        if self.detect_px < 80:
            raise BadValue("faces.detect_px", self.detect_px, "give 80 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """What is written for others."""

    formats: tuple[Literal["parquet", "webdataset", "instantid"], ...] = (
        "parquet",
        "webdataset",
        "instantid",
    )
    """Layouts to write."""
    rows_per_shard: int = 1000
    """Pictures per tar and per folder, at most."""

    def __post_init__(self) -> None:
        if self.rows_per_shard <= 0:
            raise BadValue("export.rows_per_shard", self.rows_per_shard, "give 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many hands; decides nothing about the result."""

    fetchers: int = 1
    """Processes that fetch."""
    lookers: int = 0
    """Processes that decode and look at faces; 0: one per CPU of the cluster."""
    cpus_per_looker: float = 0.5
    """CPUs to reserve for each. Less than 1 leaves room for reading and writing on a laptop."""
    gpus_per_looker: float = 0.0
    """GPUs to reserve for each; 0.25 lets four share one."""
    captioners: int = 1
    """Processes that ask for captions, or hold a model that writes them."""
    gpus_per_captioner: float = 0.0
    """GPUs to reserve for each."""
    batch_rows: int = 16
    """Pictures that one worker holds decoded at a time."""
    block_rows: int = 256
    """Pictures per task, per file written, and at most lost to a crash."""

    def __post_init__(self) -> None:
        for name in ("fetchers", "captioners", "batch_rows", "block_rows"):
            if getattr(self, name) < 1:
                raise BadValue(f"workers.{name}", getattr(self, name), "give 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides a curation run."""

    name: str
    source: Source = field(default_factory=Source)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    faces: FaceSettings = field(default_factory=FaceSettings)
    keep: KeepRules = field(default_factory=KeepRules)
    dedupe: DedupeSettings = field(default_factory=DedupeSettings)
    people: PeopleSettings = field(default_factory=PeopleSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    workers: Workers = field(default_factory=Workers)


def faceid_6m() -> Recipe:
    """Curate a URL table the way FaceID-6M was: people named in the caption, 1 to 3 large faces.

    References:
        FaceID-6M's README: no face, more than 3 faces, low resolution (512 px) or faces below 4 %
        of the picture are dropped; captions must speak of people. Detector and the other floors
        are ours. Its captions are the pages' texts, as they came.
    """
    return Recipe(
        name="faceid_6m",
        faces=FaceSettings(detect_px=800, min_score=0.1),
        captions=CaptionSettings(backend="none"),
    )


def photos() -> Recipe:
    """Curate a folder or tar of photographs that have no captions."""
    return replace(
        faceid_6m(),
        name="photos",
        keep=KeepRules(human_terms=(), min_side_px=256),
        captions=CaptionSettings(),
    )


def lfw() -> Recipe:
    """Curate Labeled Faces in the Wild or another set of small photographs in folders by person."""
    return replace(
        photos(),
        name="lfw",
        source=Source(folders_are_people=True, license="research only (LFW)"),
        faces=FaceSettings(detect_px=300),
        keep=KeepRules(human_terms=(), min_side_px=100),
        people=PeopleSettings(labels="use"),
    )


def quickstart() -> Recipe:
    """Curate the small web that ``visage quickstart`` serves on loopback."""
    return replace(
        faceid_6m(),
        name="quickstart",
        fetch=FetchSettings(
            attempts=2,
            connect_s=2.0,
            deadline_s=3.0,
            max_bytes=4 * 2**20,
            allow_loopback=True,
        ),
        faces=FaceSettings(detect_px=1280, min_score=0.1),
        keep=KeepRules(min_side_px=200),
        captions=CaptionSettings(),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make for make in (quickstart, photos, lfw, faceid_6m)
}


def recipe(name: str) -> Recipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
