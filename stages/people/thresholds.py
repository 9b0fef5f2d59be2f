"""At which distances vectors are of one person: what each embedder says of itself."""

from dataclasses import dataclass

from infra.errors import BadValue, nearest
from stages.models.backend import BACKENDS
from stages.models.faces import GroupingPoints


def grouping_points(backend: str) -> GroupingPoints:
    """Return the distances that a backend's embedder groups people by, without loading weights.

    Raises:
        BadValue: There is no such backend.
    """
    if backend == "dlib":
        from stages.models.dlib_faces import DlibEmbedder

        return DlibEmbedder.grouping
    if backend == "insightface":
        from stages.models.insightface_faces import InsightEmbedder

        return InsightEmbedder.grouping
    raise BadValue("backend", backend, nearest(backend, BACKENDS))


@dataclass(frozen=True, slots=True)
class Limits:
    """Grouping points as squared Euclidean distances, which is what the arithmetic here is in."""

    pair: float
    group: float
    labelled: float
    duplicate: float

    @staticmethod
    def of(points: GroupingPoints) -> "Limits":
        """Convert distances; between unit vectors the squared one is twice the cosine distance.

        Raises:
            BadValue: The distances are not positive and in their order.
        """
        if not 0 < points.pair_below <= points.group_below <= points.labelled_below:
            cure = "give 0 < pair_below <= group_below <= labelled_below."
            raise BadValue("grouping points", points, cure)
        if not 0 <= points.duplicate_below < points.pair_below:
            raise BadValue("grouping points", points, "give 0 <= duplicate_below < pair_below.")
        return Limits(
            squared(points.pair_below, points.metric),
            squared(points.group_below, points.metric),
            squared(points.labelled_below, points.metric),
            squared(points.duplicate_below, points.metric),
        )


def squared(distance: float, metric: str) -> float:
    """Return a distance of one metric as a squared Euclidean distance of prepared vectors."""
    return 2 * distance if metric == "cosine" else distance**2
