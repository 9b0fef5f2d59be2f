"""How curated clips become training features: recipes of ``visage prepare``, free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPrepareRecipe:
    """All that decides a set of features of videos."""

    name: str
    corpus: str = ""
    """Folder of a curation run of videos, or its export folder."""
    sizes: tuple[str, ...] = ("512x512",)
    """Shapes, width x height in px; each clip goes to the nearest, cut around its main face."""
    frames: int = 16
    """Of each sample. CogVideoX's autoencoder takes one more than a multiple of 8."""
    fps: float = 8.0
    """At which they follow each other; a clip is never slowed down: one of fewer is left out."""
    windows_per_clip: int = 4
    """Most samples of one clip; they do not overlap, and are spread over it."""
    alone: bool = False
    """Leave out, and count, windows in which somebody else's face is seen too."""
    stills: bool = False
    """Also the first frame of each sample by itself: batches of pictures among those of videos."""
    max_enlarge: float = 2.0
    """Leave out, and count, clips that would be enlarged more times than this; 0: leave none."""
    codec: str = "random:animatediff-sd15"
    """Weights of an autoencoder, of pictures or of videos."""
    tiled: bool = False
    """Encode in overlapping tiles: less memory, the same but at their seams."""
    text_encoder: str = ""
    """Weights that read the captions, `random:<preset>` or `file:<pipeline folder>`; empty: no
    text."""
    caption: Literal["merged", "attributes", "action"] = "merged"
    """What is said of a clip: the whole, the looks of the person alone, or what happens alone.
    The looks alone are also prepared as `attributes_text` where captions say them."""
    image_encoder: str = ""
    """CLIP weights that see the reference face, for methods that attend to it; empty: none."""
    face_encoder: str = ""
    """CLIP weights of which several layers, and the vector, see the reference face, for
    consis_id and proteus_id; empty: none."""
    face_layers: int = 5
    """How many layers."""
    reference_latents: bool = False
    """Also encode the reference face, for methods that put it beside the first frame."""
    motion: bool = True
    """Also the optical flow of the person."""
    pack: str = ""
    """Of corpora whose faces are insightface's: the model pack's folder."""
    batch_clips: int = 8
    """Clips per shard: what a crash can cost."""

    def __post_init__(self) -> None:
        if not self.sizes:
            raise BadValue("sizes", self.sizes, "give at least one, such as 512x512.")
        for size in self.sizes:
            if min(sides_px(size)) < 32 or any(side % 8 for side in sides_px(size)):
                raise BadValue("sizes", size, "give sides of 32 px or more, multiples of 8.")
        floors = {"frames": 2, "windows_per_clip": 1, "face_layers": 1, "batch_clips": 1}
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise BadValue(name, getattr(self, name), f"give {floor} or more.")
        if self.fps <= 0:
            raise BadValue("fps", self.fps, "give more than 0.")
        if self.max_enlarge < 0:
            raise BadValue("max_enlarge", self.max_enlarge, "give 0 or more.")
        if self.reference_latents and len(self.sizes) > 1:
            cure = "a reference is shown in the size of the video; give one size with it."
            raise BadValue("sizes", self.sizes, cure)


def sides_px(size: str) -> tuple[int, int]:
    """Read ``720x480`` as width and height.

    Raises:
        BadValue: It is no such pair.
    """
    try:
        width, height = (int(side) for side in size.split("x"))
    except ValueError:
        cure = "give width x height in px, such as 720x480."
        raise BadValue("sizes", size, cure) from None
    return width, height


def video_tiny() -> VideoPrepareRecipe:
    """Four frames of 32 px for a tiny AnimateDiff: what tests and a first try are prepared with."""
    return VideoPrepareRecipe(
        name="video_tiny",
        sizes=("32x32",),
        frames=4,
        codec="random:tiny-animatediff",
        text_encoder="random:tiny-animatediff",
        image_encoder="random:tiny-clip",
    )


def video_tiny_cogvideox() -> VideoPrepareRecipe:
    """Nine frames of 64 px for a tiny CogVideoX, with all that its methods look at."""
    return VideoPrepareRecipe(
        name="video_tiny_cogvideox",
        sizes=("64x64",),
        frames=9,
        codec="random:tiny-cogvideox",
        text_encoder="random:tiny-cogvideox",
        face_encoder="random:tiny-clip",
        reference_latents=True,
    )


def animatediff() -> VideoPrepareRecipe:
    """Sixteen frames of 512 px for AnimateDiff on SD 1.5; give your weights as file:."""
    return VideoPrepareRecipe(
        name="animatediff",
        text_encoder="random:animatediff-sd15",
        image_encoder="random:clip-h",
    )


def cogvideox() -> VideoPrepareRecipe:
    """Six seconds, 49 frames of 720 x 480 px, for CogVideoX; give your weights as file:."""
    return VideoPrepareRecipe(
        name="cogvideox",
        sizes=("720x480",),
        frames=49,
        codec="random:cogvideox-5b",
        tiled=True,
        text_encoder="random:cogvideox-5b",
        face_encoder="random:clip-l336",
        reference_latents=True,
        batch_clips=2,
    )


RECIPES: dict[str, Callable[[], VideoPrepareRecipe]] = {
    make.__name__: make for make in (video_tiny, video_tiny_cogvideox, animatediff, cogvideox)
}


def recipe(name: str) -> VideoPrepareRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
