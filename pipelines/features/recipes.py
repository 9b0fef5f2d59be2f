"""How corpora become training features: recipes of ``visage prepare``, free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue
from training.aspects import aspect_sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareRecipe:
    """All that decides a set of features."""

    name: str
    corpus: str = ""
    """Folder of a curation run, or its export folder."""
    crop: Literal["aligned", "cover", "portrait"] = "cover"
    """aligned: the face upright and centred, as dlib's encoder sees it; cover: the largest part
    that has the wanted shape, with the main face as near to its middle as the edges allow;
    portrait: the square twice as large as the main face."""
    image_px: int = 512
    aspects: tuple[str, ...] = ("1:1",)
    """cover: shapes, width:height, of about image_px squared; each picture goes to the nearest."""
    max_enlarge: float = 2.0
    """cover, portrait: leave out, and count, pictures that would be enlarged more times than
    this; 0: leave none out."""
    codec: str = "random:sd15"
    """`patches`: a linear code fitted to the corpus; otherwise the weights of an autoencoder."""
    text_encoder: str = ""
    """Weights that read the captions, `random:<preset>` or `file:<pipeline folder>`; empty: no
    text. An empty caption is the empty prompt."""
    caption: Literal["auto", "merged", "attributes", "action", "alt"] = "auto"
    """What is said of a picture: of the captions that `visage curate` made the whole, or the looks
    of the person alone, or what happens alone; alt: the page's own text; auto: merged where the
    corpus has such captions, else alt."""
    image_encoder: str = ""
    """CLIP weights that see the aligned face, for IP-Adapter-FaceID-Plus; empty: none."""
    people: Literal["label", "identity", "self", "embedding"] = "label"
    """Whose photographs belong together: by the source's label; by the identity that curation
    found, and then photographs of nobody are left out; each only to itself; or those that are one
    person by their vectors (see stages.people.clusters)."""
    pairs: str = ""
    """identity: folder of `visage pairs` on this corpus. A photograph is then drawn from the face
    on one that it is paired with (CrossFaceID), and not from just any of the same person."""
    pair_below: float = 0.0
    """embedding: distance below which two single photographs show one person; 0: the encoder's
    own. The more people there are, the lower it must be."""
    batch_rows: int = 32
    """Pictures that the models see at once: what bounds memory."""

    def __post_init__(self) -> None:
        if self.image_px % 8 or self.image_px < 32:
            raise BadValue("image_px", self.image_px, "give a multiple of 8, at least 32.")
        if self.crop == "aligned" and self.image_px > 128:
            raise BadValue(
                "image_px", self.image_px, "an aligned face has 128 px, give up to that."
            )
        if not aspect_sizes(self.aspects, self.image_px):
            raise BadValue("aspects", self.aspects, "give at least one, such as '1:1'.")
        if self.crop != "cover" and self.aspects != ("1:1",):
            raise BadValue("aspects", self.aspects, "only `cover` has other shapes than '1:1'.")
        if self.codec == "patches" and len(self.aspects) > 1:
            raise BadValue("aspects", self.aspects, "the patch codec is fitted to one shape.")
        if self.pairs and self.people != "identity":
            raise BadValue("people", self.people, "pairs are of identities: give identity.")
        for name in ("max_enlarge", "pair_below"):
            if getattr(self, name) < 0:
                raise BadValue(name, getattr(self, name), "give 0 or more.")
        if self.batch_rows < 1:
            raise BadValue("batch_rows", self.batch_rows, "give 1 or more.")


def lfw64() -> PrepareRecipe:
    """Aligned faces at 64 px as linear patches: features that a CPU can learn from."""
    return PrepareRecipe(name="lfw64", crop="aligned", image_px=64, codec="patches")


def tiny() -> PrepareRecipe:
    """Pictures of 64 px for tiny random models: what tests and a first try are prepared with."""
    return PrepareRecipe(
        name="tiny",
        image_px=64,
        codec="random:tiny-sd",
        text_encoder="random:tiny-sd",
        image_encoder="random:tiny-clip",
    )


def sd15() -> PrepareRecipe:
    """Squares of 512 px and captions for Stable Diffusion 1.5; give your weights as file:."""
    return PrepareRecipe(name="sd15", text_encoder="random:sd15", batch_rows=8)


def sdxl() -> PrepareRecipe:
    """Seven shapes of about 1024 px squared and captions for SDXL; give your weights as file:."""
    return PrepareRecipe(
        name="sdxl",
        image_px=1024,
        aspects=("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16"),
        codec="random:sdxl",
        text_encoder="random:sdxl",
        batch_rows=2,
    )


RECIPES: dict[str, Callable[[], PrepareRecipe]] = {
    make.__name__: make for make in (tiny, lfw64, sd15, sdxl)
}


def recipe(name: str) -> PrepareRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
