"""What a gateway counts, also where Ray exports it: under the same names, from every node.

``GET /metrics`` tells of one process, and behind a proxy nobody knows which. Ray's exporter knows
all replicas; it puts ``ray_`` before a name and ``_total`` behind a counter's (infra/metrics.py).
"""

import threading

from ray.util.metrics import Counter, Gauge, Histogram

from serving.metrics import BATCHES, SECONDS, Metrics
from serving.types import Drawn


class RayMetrics(Metrics):
    """Counters of one replica, in its own registry and in Ray's."""

    def __init__(self) -> None:
        """Start from zero."""
        super().__init__()
        self._count, self._lock = 0, threading.Lock()
        self._ray_open = Gauge("visage_requests_open", "Requests being answered.")
        self._ray = {
            name: Counter(name, about, tag_keys=tags)
            for name, about, tags in (
                ("visage_requests", "Requests answered.", ("route", "status")),
                ("visage_refusals", "Requests refused, by reason.", ("code",)),
                ("visage_pictures", "Pictures drawn.", ("model",)),
                ("visage_steps", "Denoising steps of pictures.", ("model",)),
                ("visage_faces", "Faces found, by what was asked.", ("operation",)),
            )
        }
        self._ray_seen = {
            name: Histogram(name, about, boundaries=list(bounds), tag_keys=tags)
            for name, about, bounds, tags in (
                ("visage_request_seconds", "From request to answer.", SECONDS, ("route",)),
                ("visage_queued_seconds", "Requests for pictures, in the queue.", SECONDS, ()),
                ("visage_drawing_seconds", "Requests for pictures, being drawn.", SECONDS, ()),
                ("visage_batch_pictures", "Pictures drawn together.", BATCHES, ()),
            )
        }

    @property
    def mirrored(self) -> set[str]:
        """The names that Ray exports."""
        return {*self._ray, *self._ray_seen, "visage_requests_open"}

    def opened(self, change: int) -> None:
        """Count a request that begins, by 1, or ends, by -1."""
        super().opened(change)
        with self._lock:  # Ray's gauge can only be set
            self._count += change
            self._ray_open.set(self._count)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        super().answered(route, status, seconds)
        self._ray["visage_requests"].inc(tags={"route": route, "status": str(status)})
        self._ray_seen["visage_request_seconds"].observe(seconds, tags={"route": route})

    def refused(self, code: str) -> None:
        """Count a refusal."""
        super().refused(code)
        self._ray["visage_refusals"].inc(tags={"code": code})

    def drew(self, drawn: Drawn, model: str, steps: int) -> None:
        """Count what was drawn, of so many steps each."""
        super().drew(drawn, model, steps)
        pictures = len(drawn.pictures)
        self._ray["visage_pictures"].inc(pictures, tags={"model": model})
        self._ray["visage_steps"].inc(pictures * steps, tags={"model": model})
        self._ray_seen["visage_queued_seconds"].observe(drawn.queued_s)
        self._ray_seen["visage_drawing_seconds"].observe(drawn.drawing_s)
        self._ray_seen["visage_batch_pictures"].observe(drawn.batch)

    def saw(self, operation: str, faces: int) -> None:
        """Count faces that were found."""
        super().saw(operation, faces)
        if faces:  # Ray refuses to count nothing
            self._ray["visage_faces"].inc(faces, tags={"operation": operation})
