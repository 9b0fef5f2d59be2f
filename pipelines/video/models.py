"""The models that look at videos, as a recipe names them."""

from collections.abc import Callable

from pipelines.video.recipes import VideoRecipe
from stages.models.backend import cards
from stages.models.faces import ModelCard
from stages.video.scores import TextReader


def text_reader(recipe: VideoRecipe) -> Callable[[], TextReader] | None:
    """Return what makes the reader that a recipe names; None where nobody looks for writing."""
    if recipe.text_reader == "none":
        return None
    from stages.video.text_reader import RapidOcrReader

    return RapidOcrReader


def models_of(recipe: VideoRecipe) -> list[ModelCard]:
    """Describe the detector, the embedder and, where there is one, the reader, in this order.

    Raises:
        BadWeights: The weights cannot be had or read.
    """
    models = cards(recipe.faces.backend, recipe.faces.pack)
    if recipe.text_reader == "rapidocr":
        from stages.video.text_reader import RapidOcrReader

        models.append(RapidOcrReader().card)
    return models
