"""Which samples of a corpus are the subject's, and which are of the class that it belongs to."""

from difflib import get_close_matches

import numpy as np
from jaxtyping import Int64

from infra.errors import BadValue
from training.features import Prepared
from training.settings import TrainRecipe


def training_samples(
    prepared: Prepared, recipe: TrainRecipe
) -> tuple[Int64[np.ndarray, " mine"], Int64[np.ndarray, " others"]]:
    """Choose the samples that are trained on.

    A subject is trained on wherever the split puts them; held-out people are never anybody's class.

    Returns:
        The subject's samples and other people's for the prior; without a subject everybody's who
        is not held out, and none.

    Raises:
        BadValue: Nobody has the subject's name; or there is a prior to keep and nobody else; or the
            method learns one person, and there are several.
    """
    data, train = recipe.data, prepared.split(recipe.data.heldout_share)[0]
    known = set(prepared.people)
    if not data.subject:
        if data.prior_share:
            raise BadValue("data.prior_share", data.prior_share, "name a data.subject with it.")
        if not recipe.method.per_subject:
            return train, train[:0]
        if len(known) > 1:
            cure = f"{recipe.method.kind} learns one person; name one of the {len(known)}."
            raise BadValue("data.subject", "", cure)
        return np.arange(len(prepared)), train[:0]
    if data.subject not in known:
        # Not all names that there are: they may be thousands.
        near = get_close_matches(data.subject, known, n=1)
        cure = f"did you mean {near[0]!r}?" if near else "see `person` in its index.parquet."
        raise BadValue("data.subject", data.subject, f"nobody there has that name; {cure}")
    is_mine = np.array([person == data.subject for person in prepared.people], dtype=bool)
    others = train[~is_mine[train]] if data.prior_share else train[:0]
    if data.prior_share and len(others) == 0:
        cure = "nobody else is there to train on; prepare other people's photographs, or give 0."
        raise BadValue("data.prior_share", data.prior_share, cure)
    return np.flatnonzero(is_mine), others
