"""How videos are curated: the whole recipe, and the ones we stand behind."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue
from pipelines import recipes as pictures
from pipelines.recipes import FaceSettings, Recipe, Source, Workers
from pipelines.video.layouts import LayoutSettings
from stages.captions.settings import CaptionSettings
from stages.keep import KeepRules
from stages.people.settings import PeopleSettings
from stages.video.keep import KeepVideoRules
from stages.video.settings import VideoSettings
from stages.web.settings import VIDEOS, FetchSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPairSettings:
    """Which moments show the face of which stretches of film."""

    window_frames: int = 49
    """Frames of a target; a shorter clip is one as a whole. ConsisID and CogVideoX learn from 49
    at a time."""
    per_clip: int = 4
    """Other clips of its person that each clip is paired with, at most."""
    min_apart_frames: int = 3
    """Between a target and a reference of the same clip, at least."""
    seed: int = 0
    """Another seed chooses other clips."""

    def __post_init__(self) -> None:
        if self.window_frames < 1:
            raise BadValue("pairs.window_frames", self.window_frames, "give 1 or more.")
        for name in ("per_clip", "min_apart_frames"):
            if getattr(self, name) < 0:
                raise BadValue(f"pairs.{name}", getattr(self, name), "give 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecipe:
    """All that decides how videos are curated."""

    name: str
    source: Source = field(default_factory=Source)
    fetch: FetchSettings = field(
        default_factory=lambda: FetchSettings(
            types=VIDEOS, concurrency=8, per_host=2, deadline_s=600.0, budget_s=1200.0
        )
    )
    video: VideoSettings = field(default_factory=VideoSettings)
    text_reader: Literal["none", "rapidocr"] = "none"
    """Who looks for writing, of which keep.max_text_share allows a little; rapidocr is a package
    that must be installed, with its weights in it."""
    faces: FaceSettings = field(default_factory=FaceSettings)
    keep: KeepVideoRules = field(default_factory=KeepVideoRules)
    people: PeopleSettings = field(default_factory=lambda: PeopleSettings(min_photos=1))
    captions: CaptionSettings = field(default_factory=lambda: CaptionSettings(backend="none"))
    pairs: VideoPairSettings = field(default_factory=VideoPairSettings)
    layouts: LayoutSettings = field(default_factory=LayoutSettings)
    workers: Workers = field(default_factory=lambda: Workers(batch_rows=1, block_rows=1))

    def __post_init__(self) -> None:
        if not set(self.fetch.types) <= set(VIDEOS):
            raise BadValue("fetch.types", self.fetch.types, f"choose among {VIDEOS}.")
        if self.faces.anonymise:
            cure = "leave it out: nobody is hidden in videos yet."
            raise BadValue("faces.anonymise", self.faces.anonymise, cure)

    def seeding(self) -> Recipe:
        """Return what decides a video's row before it is watched, as a picture's recipe says it."""
        rules = KeepRules(human_terms=self.keep.human_terms, min_side_px=self.keep.min_side_px)
        return replace(pictures.photos(), name=self.name, source=self.source, keep=rules)


def faceid_video() -> VideoRecipe:
    """Curate videos into clips of one main person, with face tracks and identities.

    References:
        The rules are ConsisID's, see ``KeepVideoRules``; sizes and quality of faces are ours.
    """
    return VideoRecipe(name="faceid_video", faces=FaceSettings(min_score=0.1))


RECIPES: dict[str, Callable[[], VideoRecipe]] = {faceid_video.__name__: faceid_video}


def recipe(name: str) -> VideoRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
