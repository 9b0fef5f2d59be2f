"""What was learnt from rows that are to go: features, which lose them; checkpoints, which cannot.

A model cannot be made to forget by deleting rows. So whoever asks is told which ones there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.storage import Folder
from pipelines.forgetting.files import Gone

_EXPORT = "export/features.json"


@dataclass
class Learnt:
    """What knows rows that are to go."""

    corpora: set[str] = field(default_factory=set)
    """Digests of the corpora that they are in, as features and registered models have them."""
    features: dict[str, int] = field(default_factory=dict)
    """Samples that go, by folder of features."""
    trained: set[str] = field(default_factory=set)
    """Folders of training runs with checkpoints that learnt from such corpora."""


def feature_folders(home: Folder) -> list[Folder]:
    """List the folders of prepared features: a checkpoint has ``features.json`` too, and no index.

    Those whose end a crash prevented are found by their index as well.
    """
    return [
        folder
        for path in home.files("/index.parquet")
        if (folder := Folder(home.fs, path.rpartition("/")[0])).exists("shards")
    ]


def are_of_videos(folder: Folder) -> bool:
    """Say whether features are of clips, whose index names the clip of every sample."""
    path = f"{folder.path}/index.parquet"
    return "clip" in pq.read_schema(path, filesystem=folder.fs).names


def samples_of(folder: Folder, gone: Gone) -> int:
    """Count the samples of features that are to go."""
    column = "clip" if are_of_videos(folder) else "id"
    path = f"{folder.path}/index.parquet"
    index = pq.read_table(path, filesystem=folder.fs, columns=[column])
    return pc.sum(gone.among(index[column])).as_py() or 0


def learnt_from(homes: Iterable[Folder], gone: Gone, corpora: Iterable[str]) -> Learnt:
    """Find the features that hold rows, and the checkpoints that were trained on their corpora.

    Args:
        homes: The store, and what else the person named.
        gone: What is to go; it must still be there.
        corpora: Digests that are known already.
    """
    found = Learnt(set(corpora))
    for home in (homes := tuple(homes)):
        for folder in feature_folders(home):
            if samples := samples_of(folder, gone):
                found.features[str(folder)] = samples
                about = folder.read_json("features.json") or folder.read_json("prepare.json")
                found.corpora |= {str(about["corpus"])} if about else set()
    for home in homes:
        for path in home.files(f"/{_EXPORT}"):
            checkpoint = Folder(home.fs, path.removesuffix(f"/{_EXPORT}"))
            about = checkpoint.read_json(_EXPORT) or {}
            if about.get("corpus") in found.corpora:
                found.trained.add(str(Folder(home.fs, checkpoint.path.rpartition("/")[0])))
    return found
