"""Which photograph is shown for which: the pairs of a corpus, for its features."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import UnreadableSource
from infra.storage import open_folder
from pipelines.pairs import RECORD


@dataclass(frozen=True)
class Pairs:
    """Photographs of one person, two by two."""

    ids: list[tuple[str, str]]
    """Reference and target: whose face is shown, and what is drawn from it. Sorted."""
    digest: str
    """Empty where no pairs are asked for."""

    def among(self, people: Mapping[str, str], folder: str) -> list[tuple[str, str]]:
        """Return the pairs whose photographs are both there, of one person.

        Args:
            people: Whose photograph each sample is, by its id.
            folder: Where the pairs are from, for the message.

        Raises:
            UnreadableSource: There are pairs, and no photograph of any is there.
        """
        known = [(a, b) for a, b in self.ids if a in people and b in people]
        if self.ids and not known:
            cure = "Make them of this corpus: visage pairs RUN --out FOLDER."
            why = f"none of its {len(self.ids):,} pairs is of photographs that are prepared"
            raise UnreadableSource(folder, why, cure)
        return [(a, b) for a, b in known if people[a] == people[b]]


def read_pairs(folder: str) -> Pairs:
    """Read the pairs, not the triplets and groups, of a folder; none where no folder is named.

    Raises:
        UnreadableSource: No finished pairs are there.
    """
    if not folder:
        return Pairs([], "")
    home = open_folder(folder)
    if not home.exists(RECORD):
        cure = "Make them with `visage pairs RUN --out FOLDER`."
        raise UnreadableSource(folder, "no finished pairs are there", cure)
    names = ["kind", "reference_id", "target_id"]
    rows = pq.read_table(f"{home.path}/pairs.parquet", filesystem=home.fs, columns=names)
    rows = rows.filter(pc.equal(rows["kind"], "pair"))
    ids = sorted(zip(rows["reference_id"].to_pylist(), rows["target_id"].to_pylist(), strict=True))
    seen = hashlib.sha256("\n".join(f"{a} {b}" for a, b in ids).encode())
    return Pairs(ids, seen.hexdigest()[:16])
