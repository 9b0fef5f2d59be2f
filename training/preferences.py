"""Pairs of a better and a worse sample: on disk, and as the batches of a run.

Beside prepared features stands ``preferences.parquet``, one row per pair: ``winner``, ``loser`` and
``told``, ids of samples, of which the last says whose text both are told; and ``stage``, 1 or 2.
``prefer`` makes it of ``candidates.parquet`` there, one row per scored sample: the fields of
``training.video.mining.Candidate``.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64
from torch import Tensor

from infra.errors import BadValue, UnreadableSource
from training.data import Batches
from training.features import Prepared
from training.order import Order
from training.settings import TrainRecipe
from training.video.mining import Candidate, Mined, Preference, Rules, mine

CANDIDATES_FILE = "candidates.parquet"
PREFERENCES_FILE = "preferences.parquet"
NAMES = ("winner", "loser", "told", "stage")

_log = logging.getLogger(__name__)


def write_candidates(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Write ``candidates.parquet``, whole or not at all."""
    _write(folder / CANDIDATES_FILE, pa.Table.from_pylist([asdict(each) for each in candidates]))


def prefer(folder: Path, rules: Rules | None = None) -> Mined:
    """Make the pairs of a folder of features from its scored candidates, and write them.

    Returns:
        What was found, and what was left out, by reason; the latter is logged too.

    Raises:
        UnreadableSource: There are no candidates, or nothing in which one is clearly better.
        BadValue: Two candidates have one id.
    """
    path = folder / CANDIDATES_FILE
    if not path.is_file():
        cure = "Score them with training.video.candidates.score, and write them there."
        raise UnreadableSource(str(folder), f"it has no {CANDIDATES_FILE}", cure)
    names = [each.name for each in fields(Candidate)]
    rows = pq.read_table(path, columns=names).to_pylist()
    found = mine([Candidate(**row) for row in rows], rules)
    for reason, many in sorted(found.left_out.items()):
        _log.info("%d pairs or candidates of %s: %s.", many, path, reason)
    write_preferences(folder, found.pairs)
    return found


def write_preferences(folder: Path, pairs: Sequence[Preference]) -> None:
    """Write ``preferences.parquet``, whole or not at all.

    Args:
        folder: Of prepared features, whose samples the pairs name.
        pairs: In any order; a run shuffles them.

    Raises:
        UnreadableSource: There are no pairs.
    """
    if not pairs:
        cure = "Give more candidates, or a smaller margin."
        raise UnreadableSource(str(folder), "no candidate is clearly better than another", cure)
    columns = {name: [getattr(pair, name) for pair in pairs] for name in NAMES}
    _write(folder / PREFERENCES_FILE, pa.table(columns))


def _write(path: Path, table: pa.Table) -> None:
    beside = path.with_name(f"{path.name}.part")
    pq.write_table(table, beside)
    beside.replace(path)


@dataclass(frozen=True)
class Pairs:
    """Pairs by number."""

    winner: Int64[np.ndarray, " pairs"]
    """Numbers of samples, as are the next two."""
    loser: Int64[np.ndarray, " pairs"]
    told: Int64[np.ndarray, " pairs"]
    stage: Int64[np.ndarray, " pairs"]
    left_out: Counter[str]
    """How many more there are on disk, by why they are not here."""


def read_preferences(prepared: Prepared, samples: Int64[np.ndarray, " samples"]) -> Pairs:
    """Read the pairs of which a run may see both sides.

    Args:
        prepared: What they are of.
        samples: What is trained on.

    Raises:
        UnreadableSource: There are none, or they name samples that were not prepared.
    """
    path = prepared.folder / PREFERENCES_FILE
    if not path.is_file():
        cure = "Make it with training.preferences.write_preferences."
        raise UnreadableSource(str(prepared.folder), f"it has no {PREFERENCES_FILE}", cure)
    table = pq.read_table(path, columns=list(NAMES))
    number = {id_: n for n, id_ in enumerate(prepared.ids)}
    named = {name: table[name].to_pylist() for name in NAMES[:3]}
    if unknown := sorted({id_ for ids in named.values() for id_ in ids} - number.keys()):
        why = f"it names {len(unknown):,} samples that were not prepared, such as {unknown[0]!r}"
        raise UnreadableSource(str(path), why, "Make it again for these features.")
    winner, loser, told = (np.array([number[i] for i in named[n]], np.int64) for n in NAMES[:3])
    stage = table["stage"].to_numpy().astype(np.int64)
    seen = np.isin(winner, samples) & np.isin(loser, samples)
    alike = prepared.buckets[winner] == prepared.buckets[loser]
    kept, left_out = np.flatnonzero(seen & alike), Counter[str]()
    left_out["not trained on"] = int((~seen).sum())
    left_out["of two shapes"] = int((seen & ~alike).sum())
    if not len(kept):
        counts = ", ".join(f"{many} are {reason}" for reason, many in left_out.items())
        cure = "Name their subject with data.subject, or make them again."
        why = f"none of its {len(seen)} pairs is usable: {counts}"
        raise UnreadableSource(str(path), why, cure)
    for reason, many in left_out.items():
        if many:
            _log.warning("%d of %d pairs of preferences are %s.", many, len(seen), reason)
    return Pairs(winner[kept], loser[kept], told[kept], stage[kept], left_out)


class PairBatches(Batches):
    """The batches of a run over pairs: winners as its samples, and ``loser_latents`` beside.

    Everything else of a pair is one: the person who is shown, the winner's landmarks and mask, the
    text of ``told``, noise, time and drop. Pairs of stage 1 come in the first share of the steps,
    ``losses.dpo_first_stage``, and those of stage 2 after them.
    """

    def __init__(self, prepared: Prepared, pairs: Pairs, recipe: TrainRecipe) -> None:
        """Put pairs in their order.

        Raises:
            BadValue: Others of the class are to be shown too.
        """
        if recipe.data.prior_share:
            cure = "pairs are all of the subject; give 0."
            raise BadValue("data.prior_share", recipe.data.prior_share, cure)
        super().__init__(prepared, np.unique(pairs.winner), recipe)
        self.pairs = pairs
        share, numbers = recipe.losses.dpo_first_stage, np.arange(len(pairs.stage))
        buckets = prepared.buckets[pairs.winner]
        self._orders = {
            stage: Order(numbers[of], buckets[of], recipe.batch, recipe.seed)
            for stage in (1, 2)
            if (of := pairs.stage == stage).any()
        }
        self._first_steps = round(share * recipe.steps)

    def _targets(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Return the pairs of one step, in their order."""
        stages = sorted(self._orders)
        if len(stages) == 1:
            return self._orders[stages[0]].at(step)
        first = step < self._first_steps
        return self._orders[1 if first else 2].at(step if first else step - self._first_steps)

    def _read(
        self, targets: Int64[np.ndarray, " batch"], positions: Int64[np.ndarray, " batch"]
    ) -> dict[str, Tensor]:
        """Read pairs."""
        pairs = self.pairs
        batch = super()._read(pairs.winner[targets], positions)
        batch["loser_latents"] = self.prepared.read("latents", pairs.loser[targets])
        for name in {"text", "pooled", "attributes_text"} & batch.keys():
            batch[name] = self.prepared.read(name, pairs.told[targets])
        return batch | self.captions(pairs.told[targets])


def make_batches(
    prepared: Prepared,
    samples: Int64[np.ndarray, " samples"],
    recipe: TrainRecipe,
    others: Int64[np.ndarray, " others"],
) -> Batches:
    """Make the batches that a recipe's losses look at: of pairs, or of single samples.

    Raises:
        BadInput: See ``Batches``, ``PairBatches`` and ``read_preferences``.
    """
    if recipe.losses.dpo or recipe.losses.ipo:
        return PairBatches(prepared, read_preferences(prepared, samples), recipe)
    return Batches(prepared, samples, recipe, others)
