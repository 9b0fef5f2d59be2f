"""Numbers for Prometheus: which ones we add to Ray's own, and how they get there.

Every Ray node exports what its workers count, on its metrics port. Ray puts ``_total`` behind a
counter's name, and ``ray_`` before all, which infra/prometheus and infra/k8s/monitors take away
again: ``visage_rows`` is asked for as ``visage_rows_total``. What a gateway counts itself is in
serving/metrics.py. Dashboards and alerts are tested against both lists and against Ray's source.
"""

import sys
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from infra.errors import BadValue, nearest


@dataclass(frozen=True, slots=True)
class Metric:
    """One number over time."""

    name: str
    kind: Literal["counter", "gauge"]
    about: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name that Prometheus knows."""
        return self.name + ("_total" if self.kind == "counter" else "")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("visage_rows", "counter", "Rows decided.", ("run", "status", "reason")),
        Metric("visage_ingested_rows", "counter", "Rows looked at, however they end.", ("run",)),
        Metric("visage_stage_seconds", "counter", "Seconds spent in a stage.", ("run", "stage")),
        Metric("visage_stage_rows", "counter", "Rows that went through a stage.", ("run", "stage")),
        Metric("visage_train_step", "gauge", "Optimiser steps done.", ("run",)),
        Metric("visage_train_loss", "gauge", "Loss at the last report.", ("run",)),
        Metric("visage_train_samples_per_s", "gauge", "Samples per second, all workers.", ("run",)),
        Metric("visage_train_checkpoints", "counter", "Checkpoints written.", ("run",)),
    )
}
"""What curation and training count, by name."""


def count(name: str, value: float = 1.0, **labels: str) -> None:
    """Add to a counter; where no Ray runs, do nothing.

    Raises:
        BadValue: There is no counter of that name, or it has other labels.
    """
    if made := _made(_known(name, "counter", labels)):
        made.inc(value, tags=labels)


def gauge(name: str, value: float, **labels: str) -> None:
    """Set a gauge; where no Ray runs, do nothing.

    Raises:
        BadValue: There is no gauge of that name, or it has other labels.
    """
    if made := _made(_known(name, "gauge", labels)):
        made.set(value, tags=labels)


def _known(name: str, kind: str, labels: dict[str, str]) -> Metric:
    metric = METRICS.get(name)
    if metric is None or metric.kind != kind:
        names = [m.name for m in METRICS.values() if m.kind == kind]
        raise BadValue(kind, name, nearest(name, names))
    if set(labels) != set(metric.labels):
        raise BadValue(f"{name} labels", sorted(labels), f"give {', '.join(metric.labels)}.")
    return metric


def _made(metric: Metric) -> Any:  # noqa: ANN401 - Ray's Counter or Gauge, which mypy does not read
    # Who does not run on Ray must not have to import it.
    ray = sys.modules.get("ray")
    return _make(metric.name) if ray is not None and ray.is_initialized() else None


@cache
def _make(name: str) -> Any:  # noqa: ANN401 - as above
    import ray.util.metrics

    metric = METRICS[name]
    kind = {"counter": ray.util.metrics.Counter, "gauge": ray.util.metrics.Gauge}[metric.kind]
    return kind(metric.name, description=metric.about, tag_keys=metric.labels)
