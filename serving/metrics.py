"""What a gateway counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.types import Drawn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        """Start from zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "visage_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "visage_request_seconds", "From request to answer.", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._refusals = Counter(
            "visage_refusals", "Requests refused, by reason.", ["code"], registry=self.registry
        )
        self._open = Gauge(
            "visage_requests_open", "Requests being answered.", registry=self.registry
        )
        self._pictures = Counter(
            "visage_pictures", "Pictures drawn.", ["model"], registry=self.registry
        )
        self._steps = Counter(
            "visage_steps", "Denoising steps of pictures.", ["model"], registry=self.registry
        )
        self._queued = Histogram(
            "visage_queued_seconds", "Requests for pictures, in the queue.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._drawing = Histogram(
            "visage_drawing_seconds", "Requests for pictures, being drawn.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._batch = Histogram(
            "visage_batch_pictures", "Pictures drawn together.",
            buckets=BATCHES, registry=self.registry,
        )  # fmt: skip
        self._faces = Counter(
            "visage_faces", "Faces found, by what was asked.", ["operation"], registry=self.registry
        )

    def opened(self, change: int) -> None:
        """Count a request that begins, by 1, or ends, by -1."""
        self._open.inc(change)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` is its template, so that names in paths make no series."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refusals.labels(code).inc()

    def drew(self, drawn: Drawn, model: str, steps: int) -> None:
        """Count what was drawn, of so many steps each."""
        self._pictures.labels(model).inc(len(drawn.pictures))
        self._steps.labels(model).inc(len(drawn.pictures) * steps)
        self._queued.observe(drawn.queued_s)
        self._drawing.observe(drawn.drawing_s)
        self._batch.observe(drawn.batch)

    def saw(self, operation: str, faces: int) -> None:
        """Count faces that were found."""
        self._faces.labels(operation).inc(faces)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
