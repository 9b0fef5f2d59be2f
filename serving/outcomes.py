"""How the requests of a trial ended, from all gateways together: one small actor."""

from typing import Any

import ray

from serving.remote import Outcome

NAME, NAMESPACE = "visage-outcomes", "visage"
_MOST = 100_000


class Outcomes:
    """Collects the outcomes of one trial."""

    def __init__(self) -> None:
        """Start with none."""
        self._seen: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Add one; after ``_MOST`` a trial has been decided long since."""
        if len(self._seen) < _MOST:
            self._seen.append(outcome)

    def read(self) -> list[Outcome]:
        """Return all so far."""
        return self._seen

    def clear(self) -> None:
        """Forget them, for another trial."""
        self._seen = []


def outcomes() -> Any:  # noqa: ANN401 - an actor's handle
    """Return the cluster's actor of ``Outcomes``, started if need be."""
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
    return ray.remote(Outcomes).options(get_if_exists=True, **options).remote()
