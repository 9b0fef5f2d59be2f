"""Weights of the networks that score videos: one file of safetensors, given by reference."""

from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from infra.errors import BadValue, BadWeights
from infra.weights import locate

_NO_STATISTIC = "num_batches_tracked"
"""What a batch norm counts while it learns; frozen, nobody looks at it."""
Network = TypeVar("Network", bound=nn.Module)


def read_file(reference: str) -> tuple[Path, dict[str, Tensor]]:
    """Read one file of weights.

    Args:
        reference: ``file:<path of a .safetensors>``, or of a folder that holds one of them.

    Returns:
        Its path, and its tensors by name.

    Raises:
        BadValue: The reference has another scheme.
        BadWeights: There is no such file, it is a pickle (as TorchScript is), or damaged.
    """
    if not reference.startswith("file:"):
        raise BadValue("weights", reference, "give 'file:<path of a .safetensors>'.")
    path = locate(reference)
    if path.is_dir():
        held = sorted(path.glob("*.safetensors"))
        if len(held) != 1:
            raise BadWeights(str(path), f"holds {len(held)} files of safetensors", "Name one.")
        path = held[0]
    if path.suffix != ".safetensors":
        raise BadWeights(
            str(path),
            "may be a pickle, which can run code when it is read",
            "Save its state_dict as safetensors (safetensors.torch.save_file).",
        )
    try:
        return path, load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadWeights(str(path), f"cannot be read: {error}") from error


def filled(network: Network, path: Path, held: dict[str, Tensor], what: str) -> Network:
    """Give a network its weights, all of them, and freeze it.

    Args:
        network: On the CPU.
        path: Where they are from, for the message.
        held: By the network's own names; more than it has are left.
        what: The network's name in words.

    Raises:
        BadWeights: Some are missing or have another shape.
    """
    wanted = network.state_dict()
    for name, weight in wanted.items():
        if name.endswith(_NO_STATISTIC):
            held.setdefault(name, weight)
        if name not in held:
            raise BadWeights(str(path), f"lacks {name!r}", f"Give the weights of {what}.")
        if held[name].shape != weight.shape:
            why = f"has {name!r} of {tuple(held[name].shape)}, not {tuple(weight.shape)}"
            raise BadWeights(str(path), why, f"Give the weights of {what}.")
    network.load_state_dict({name: held[name] for name in wanted})
    return network.eval().requires_grad_(False)
