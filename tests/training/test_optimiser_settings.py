import pytest

from infra.errors import BadValue
from training.settings import OptimiserSettings

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", [-1.0, 0.0, NAN, INF]),
        ("weight_decay", [-0.01, NAN, INF]),
        ("warmup_steps", [-1]),
        ("clip_norm", [-1.0, 0.0, NAN, INF]),
        ("ema_decay", [-0.1, 1.0, NAN]),
    ],
)
def test_numbers_that_cannot_work_are_refused_with_the_cure(name, values):
    for value in values:
        with pytest.raises(BadValue, match=rf"optimiser\.{name} cannot be {value}: give "):
            OptimiserSettings(**{name: value})


def test_the_edges_of_what_can_work_are_taken():
    OptimiserSettings(weight_decay=0.0, warmup_steps=0, ema_decay=0.0, learning_rate=1e-12)
