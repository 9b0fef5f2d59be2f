"""How corpora become training features: recipes of ``visage prepare``, free of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infra.configuration import named
from infra.errors import BadValue


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareRecipe:
    """All that decides a set of features."""

    name: str
    corpus: str = ""
    """Folder of a curation run, or its export folder."""
    crop: Literal["aligned", "square"] = "square"
    """aligned: the face upright and centred, as its encoder sees it; square: the picture's middle,
    or where the main face is."""
    image_px: int = 512
    codec: str = "random:sd15"
    """`patches`: a linear code fitted to the corpus; otherwise the weights of an autoencoder."""
    people: Literal["label", "self"] = "label"
    """Whose photographs belong together: by the source's label, or each only to itself."""
    batch_rows: int = 32

    def __post_init__(self) -> None:
        if self.image_px % 8 or self.image_px < 32:
            raise BadValue("image_px", self.image_px, "give a multiple of 8, at least 32.")
        if self.crop == "aligned" and self.image_px > 128:
            raise BadValue(
                "image_px", self.image_px, "an aligned face has 128 px, give up to that."
            )


def lfw64() -> PrepareRecipe:
    """Aligned faces at 64 px as linear patches: features that a CPU can learn from."""
    return PrepareRecipe(name="lfw64", crop="aligned", image_px=64, codec="patches")


def sd15() -> PrepareRecipe:
    """Square pictures at 512 px as latents of Stable Diffusion 1.5."""
    return PrepareRecipe(name="sd15")


RECIPES: dict[str, Callable[[], PrepareRecipe]] = {make.__name__: make for make in (lfw64, sd15)}


def recipe(name: str) -> PrepareRecipe:
    """Look a recipe up by name; see ``named``."""
    return named(name, RECIPES)
