"""What the published layouts of identity adapters share: perceivers, and checks of what is read.

A layout maps the names of our weights, which are those of diffusers' modules, to the names that
others read. In the original perceivers keys and values are one matrix, ``to_kv``.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from infra.errors import BadWeights

DEPTH = 4
"""Blocks of a perceiver: diffusers' loader knows no other number."""

_AROUND = ("proj_in", "proj_out", "norm_out")
_NORMS = {"ln0": "0.norm1", "ln1": "0.norm2", "ff.0": "1.0"}
_LINEAR = {
    "attn.to_q": "0.to_q", "attn.to_k": "0.to_k", "attn.to_v": "0.to_v",
    "attn.to_out.0": "0.to_out", "ff.1.net.0.proj": "1.1", "ff.1.net.2": "1.3",
}  # fmt: skip


def with_biases(names: Mapping[str, str]) -> dict[str, str]:
    """Name weight and bias of each layer."""
    kinds = ("weight", "bias")
    return {f"{ours}.{kind}": f"{names[ours]}.{kind}" for ours in names for kind in kinds}


def perceiver_names() -> dict[str, str]:
    """Return the published name of each weight of a perceiver, but for its queries.

    Keys and values have a name each; see ``keys_and_values_joined``.
    """
    names = with_biases({name: name for name in _AROUND})
    block = with_biases(_NORMS) | {f"{o}.weight": f"{t}.weight" for o, t in _LINEAR.items()}
    for i in range(DEPTH):
        names |= {f"layers.{i}.{ours}": f"layers.{i}.{theirs}" for ours, theirs in block.items()}
    return names


def keys_and_values_joined(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make one ``to_kv`` of a perceiver's keys and values."""
    joined = dict(published)
    for name in [name for name in joined if name.endswith(".0.to_k.weight")]:
        key, value = joined.pop(name), joined.pop(name.replace("to_k", "to_v"))
        joined[name.replace("to_k", "to_kv")] = torch.cat([key, value])
    return joined


def keys_and_values_apart(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Divide a perceiver's ``to_kv`` into its halves."""
    apart: dict[str, Tensor] = {}
    for name, weight in published.items():
        if name.endswith(".0.to_kv.weight"):
            for which, half in zip(("to_k", "to_v"), weight.chunk(2), strict=True):
                apart[name.replace("to_kv", which)] = half
        else:
            apart[name] = weight
    return apart


def renamed(
    published: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    names: Mapping[str, str],
    path: Path,
) -> dict[str, Tensor]:
    """Give published weights our names.

    Args:
        published: By their published names, keys and values of perceivers apart.
        expected: Our weights as they are now: of what shapes they must be.
        names: The published name of each of ours.
        path: Where the published weights are from, for the message.

    Raises:
        BadWeights: A weight is missing, unknown or of another shape.
    """
    cure = "Load it with the config.json that was saved beside it."
    for name in sorted(set(names.values()) ^ set(published)):
        what = "has an unknown" if name in published else "lacks the"
        raise BadWeights(str(path), f"{what} weight {name!r}", cure)
    for ours, theirs in names.items():
        found, wanted = tuple(published[theirs].shape), tuple(expected[ours].shape)
        if found != wanted:
            raise BadWeights(
                str(path), f"has {theirs!r} of shape {found}, and the model {wanted}", cure
            )
    return {ours: published[theirs] for ours, theirs in names.items()}
