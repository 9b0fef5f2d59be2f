"""The steps of ``cast.clean_labels``: each drops faces or merges labels, and says how many."""

from dataclasses import dataclass
from itertools import count

import faiss
import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from stages.people.clusters import large_pairs, nearest_other
from stages.people.graph import Neighbours, Points, knn_graph
from stages.people.linkage import Groups, Labels, Pairs, agglomerate, graph_pairs, unique_pairs
from stages.people.thresholds import Limits

Faces = Bool[np.ndarray, " faces"]

_FAR = 2.0
"""In units of the labelled limit: further away than this, another label is no rival."""
_ALL_PAIRS_UP_TO = 256
"""Faces of one label that are all compared with each other; of larger ones, the neighbours are."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the cleaning did, for the record of a run."""

    name: str
    kept: int
    """Faces kept after it."""
    labels: int
    """Labels that have a kept face after it."""
    changed: int
    """Faces that it dropped or took back, or labels that it merged."""


@dataclass(slots=True)
class State:
    """What is known of the faces so far; rows are in the order of ids."""

    points: Points
    graph: Neighbours
    limits: Limits
    label: Labels
    """-1 where there is none."""
    size: int
    """Labels there are, at least 1."""
    reason: Shaped[np.ndarray, " faces"]
    """Why a face is dropped; empty while it is kept."""
    steps: list[Step]

    @staticmethod
    def begin(
        points: Points, graph: Neighbours, limits: Limits, names: list[str], label: Labels
    ) -> "State":
        """Keep every face that has a label."""
        reason = np.where(label < 0, "no_label", "").astype(object)
        state = State(points, graph, limits, label, max(len(names), 1), reason, [])
        state.note("labelled", 0)
        return state

    @property
    def kept(self) -> Faces:
        """Which faces nothing speaks against."""
        return np.asarray(self.reason == "", dtype=bool)

    def cores(self) -> tuple[Labels, Groups]:
        """Return the label of every kept face, -1 for the others, and the sums of each label."""
        label = np.where(self.kept, self.label, -1)
        return label, Groups.of(self.points, label, self.size)

    def drop(self, step: str, faces: Faces, reason: str) -> None:
        """Drop those of ``faces`` that are still kept."""
        dropped = faces & self.kept
        self.reason[dropped] = reason
        self.note(step, int(dropped.sum()))

    def note(self, step: str, changed: int) -> None:
        """Write down what a step did."""
        labels = len(np.unique(self.label[self.kept]))
        self.steps.append(Step(step, int(self.kept.sum()), labels, changed))


def keep_largest_groups(state: State) -> None:
    """Within every label keep the largest group of faces; of equal ones, the tightest."""
    rows = np.flatnonzero(state.label >= 0)
    label = state.label[rows]
    # Within a label the odds are for one person, not against it: one limit, and a wide one.
    wide = state.limits.labelled
    singles = Groups.of(state.points[rows], np.arange(len(rows)), len(rows))
    group, groups = agglomerate(singles, _pairs_within(state.points[rows], label), wide, wide)
    counts = groups.counts
    spread = groups.squares / counts - np.einsum("gd,gd->g", groups.sums, groups.sums) / counts**2
    of_label = np.zeros(len(counts), np.int64)
    of_label[group] = label
    best_first = np.lexsort((spread, -counts, of_label))
    heads = best_first[np.flatnonzero(np.diff(of_label[best_first], prepend=-1))]
    away = np.ones(len(state.label), bool)
    away[rows] = ~np.isin(group, heads)
    state.drop("largest groups", away, "not_the_person")


def _pairs_within(points: Points, label: Labels) -> Pairs:
    """Return pairs of faces that share a label: all, or neighbours where that were too many."""
    order = np.argsort(label, kind="stable")
    ends = np.flatnonzero(np.diff(label[order], append=-1)) + 1
    starts = np.concatenate([[0], ends[:-1]])
    sizes = ends - starts
    found = [np.empty((0, 2), np.int64)]
    few = np.repeat(np.where(sizes <= _ALL_PAIRS_UP_TO, ends, 0), sizes)
    for offset in range(1, int(sizes[sizes <= _ALL_PAIRS_UP_TO].max(initial=1))):
        first = np.flatnonzero(np.arange(len(order)) + offset < few)
        found.append(np.column_stack([order[first], order[first + offset]]))
    for at in np.flatnonzero(sizes > _ALL_PAIRS_UP_TO):
        members = order[starts[at] : ends[at]]
        near = knn_graph(points[members], _ALL_PAIRS_UP_TO // 4)
        found.append(members[graph_pairs(near, np.inf)])
    return np.concatenate(found)


def settle(state: State, min_photos: int) -> None:
    """Judge all faces by the centres of their labels until that changes no centre.

    A face at the edge may come and go with its neighbours; who leaves twice stays away.
    """
    labelled = state.label >= 0
    left = np.zeros(len(labelled), np.int64)
    for round_number in count(1):
        before = state.kept
        own, rival = _distances(state)
        near = labelled & (own < state.limits.labelled) & (own < rival) & (left < 2)
        members = np.bincount(state.label[near], minlength=state.size)
        enough = members[state.label] >= min_photos
        supported = np.bincount(state.label[before], minlength=state.size)[state.label] > 0
        state.reason[labelled & ~near & supported] = "not_the_person"
        state.reason[labelled & np.where(near, ~enough, ~supported)] = "unsupported_label"
        state.reason[near & enough] = ""
        left += before & ~state.kept
        changed = int((state.kept != before).sum())
        state.note(f"centres, round {round_number}", changed)
        if not changed:
            return


def _distances(
    state: State,
) -> tuple[Float64[np.ndarray, " faces"], Float64[np.ndarray, " faces"]]:
    """Return how far every face is from its label's kept faces, and from the nearest other's."""
    core, groups = state.cores()
    far = _FAR * state.limits.labelled
    rival = nearest_other(state.points, state.label, core, groups, state.graph, far)
    own = np.full(len(core), np.inf)
    inside = np.flatnonzero((core >= 0) & (groups.counts[core] > 1))
    own[inside] = groups.from_members(state.points, inside, core[inside])
    outside = np.flatnonzero((core < 0) & (state.label >= 0) & (groups.counts[state.label] > 0))
    own[outside] = groups.from_faces(state.points, outside, state.label[outside])
    return own, rival


def scores(state: State) -> Float64[np.ndarray, " faces"]:
    """Score faces by 1 - own / rival, 0 to 1, as ``clusters.silhouettes`` does."""
    own, rival = _distances(state)
    return np.asarray(np.clip(1 - np.minimum(own, rival) / rival, 0, 1))


def merge_labels(state: State) -> bool:
    """Merge labels whose kept faces are one person, and drop those that may be; say if any was."""
    core, groups = state.cores()
    present = np.flatnonzero(groups.counts)
    small = Groups(groups.counts[present], groups.sums[present], groups.squares[present])
    place = np.full(state.size + 1, -1)
    place[present] = np.arange(len(present))
    core = place[core]  # the last place, -1, is that of faces without a label
    first, column = np.nonzero((state.graph.rows >= 0) & (core[:, None] >= 0))
    pairs = np.column_stack([core[first], core[state.graph.rows[first, column]]])
    pairs = unique_pairs(pairs[pairs[:, 1] >= 0], len(present))
    large = large_pairs(small, state.graph.rows.shape[1], state.limits.group)
    pairs = np.concatenate([pairs, large])
    into, merged = agglomerate(small, pairs, state.limits.pair, state.limits.group)

    # A merged label is called after the largest of its labels, of equal ones the first by name.
    best_first = np.lexsort((present, -small.counts, into))
    heads = present[best_first[np.flatnonzero(np.diff(into[best_first], prepend=-1))]]
    new = np.arange(state.size)
    new[present] = heads[into]
    joined = len(present) - len(heads)
    labelled = state.label >= 0
    state.label[labelled] = new[state.label[labelled]]
    state.note("merged labels", joined)

    doubtful = _doubtful(merged, unique_pairs(into[pairs], len(heads)), state.limits.group)
    unsure = np.isin(state.label, heads[doubtful])
    state.drop("doubtful labels", unsure, "doubtful_label")
    # What is dropped so has no label any more: no later round may take it back.
    state.label[unsure & labelled] = -1
    return joined > 0 or bool(len(doubtful))


def _doubtful(groups: Groups, pairs: Pairs, group_limit: float) -> Labels:
    """Return the smaller labels of pairs that would be one, had they more photos."""
    near = pairs[groups.apart(pairs) < group_limit]
    a, b = near.T
    smaller = np.where(groups.counts[a] < groups.counts[b], a, b)
    return np.unique(smaller)


def small(state: State, min_photos: int) -> Faces:
    """Say which faces are of labels with too few kept ones."""
    members = np.bincount(state.label[state.kept], minlength=state.size)
    return np.asarray((state.label >= 0) & (members[state.label] < min_photos), dtype=bool)


def overlap(state: State, known: Float32[np.ndarray, "known dim"]) -> Faces:
    """Say which faces are, or are of a label that is, as near to a benchmark as one person's."""
    found = np.zeros(len(state.label), bool)
    if not len(known) or not len(found):
        return found
    core, groups = state.cores()
    present = np.flatnonzero(groups.counts)
    centres = (groups.sums[present] / groups.counts[present, None]).astype(np.float32)
    to_face, _ = faiss.knn(state.points, known, 1)
    to_centre, _ = faiss.knn(centres, known, 1)
    # The mean squared distance to a label's faces is that to their centre, and their spread.
    counts = groups.counts[present]
    lengths = np.einsum("gd,gd->g", groups.sums[present], groups.sums[present]) / counts**2
    near = to_centre[:, 0] + groups.squares[present] / counts - lengths < state.limits.group
    return np.asarray(np.isin(core, present[near]) | (to_face[:, 0] < state.limits.pair))


def repeated(state: State) -> Faces:
    """Say which faces repeat another kept one of their label that is nearer to its centre."""
    core, _ = state.cores()
    pairs = graph_pairs(state.graph, state.limits.duplicate)
    pairs = pairs[(core[pairs[:, 0]] >= 0) & (core[pairs[:, 0]] == core[pairs[:, 1]])]
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (len(core),) * 2)
    _, part = connected_components(links, directed=False)
    own, _ = _distances(state)
    best_first = np.lexsort((np.arange(len(core)), own, part))
    heads = best_first[np.flatnonzero(np.diff(part[best_first], prepend=-1))]
    copies = np.ones(len(core), bool)
    copies[heads] = False
    return copies
