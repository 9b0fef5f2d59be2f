"""What an evaluation finds: scores, what stands behind them, and what could not be had."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from training.evaluation.metrics import Score, mean_score
from training.evaluation.sheets import Row


@dataclass
class Evaluation:
    """What was found; a score that cannot be had is in ``absent`` with the reason, never 0."""

    scores: dict[str, Score] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    each: dict[str, Float[np.ndarray, " people"]] = field(default_factory=dict)
    """What stands behind a score, per person; nan where a person says nothing."""
    p_values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a reader must know before comparing."""
    rows: list[Row] = field(default_factory=list)
    """The contact sheet's."""

    def mean(self, name: str, values: Float[np.ndarray, " people"], why: str = "") -> None:
        """Keep values per person, and their mean as a score."""
        self.put(name, mean_score(values), why, values)

    def put(
        self,
        name: str,
        score: Score | None,
        why: str,
        values: Float[np.ndarray, " people"] | None = None,
    ) -> None:
        """Keep a score, or why there is none."""
        if score is None:
            self.absent[name] = why
            return
        self.scores[name] = score
        if values is not None:
            self.each[name] = values
