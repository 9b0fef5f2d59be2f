"""What an engine needs to go on: one format, whoever wrote it and whoever reads it.

Every trained weight, its two moments of Adam and its moving average, by name and whole, spread over
as many safetensors files as there were workers. DeepSpeed's own checkpoints are pickles of each
worker's slices, which another number of workers reads only after a conversion (its "universal"
checkpoints). These are read as they are by any number of workers and any ZeRO stage, by one plain
process too, and carry no code.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import BadWeights
from training.group import Group

_NAME = re.compile(r"engine-(\d{5})-of-(\d{5})\.safetensors")


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], words: Mapping[str, Any], group: Group
) -> None:
    """Write this worker's part of the tensors.

    Args:
        folder: Which is there already.
        tensors: All of them, in the same order on every worker; one after the other is made, and
            only this worker's are held.
        words: What else is to be known; JSON, the same in every file.
        group: The workers that share the writing.
    """
    mine = {
        name: tensor.detach().cpu().contiguous()
        for at, (name, tensor) in enumerate(tensors)
        if at % group.world == group.rank
    }
    name = f"engine-{group.rank:05d}-of-{group.world:05d}.safetensors"
    save_file(mine, folder / name, {"state": json.dumps(words)})


class Shards:
    """The tensors of a checkpoint by name, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open all files.

        Raises:
            BadWeights: A file is missing or damaged.
        """
        paths = sorted(p for p in folder.glob("engine-*") if _NAME.fullmatch(p.name))
        counts = {_NAME.fullmatch(p.name).group(2) for p in paths}  # type: ignore[union-attr]
        if not paths or counts != {f"{len(paths):05d}"}:
            raise BadWeights(
                str(folder), f"is one of {sorted(counts)}, of which {len(paths)} are there",
                "Delete this checkpoint; training goes on from the one before.",
            )  # fmt: skip
        self.folder = folder
        self.words: dict[str, Any] = {}
        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                opened: Any = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise BadWeights(
                    str(path), f"is damaged: {error}",
                    "Delete this checkpoint; training goes on from the one before.",
                ) from None  # fmt: skip
            self.words = json.loads(opened.metadata()["state"])
            self._files |= dict.fromkeys(opened.keys(), opened)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): tuple(opened.get_slice(name).get_shape())
            for name, opened in self._files.items()
            if name.startswith(prefix)
        }

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        held: Tensor = self._files[name].get_tensor(name)
        return held
