"""An ONNX network as a frozen torch module that a loss can be sent back through.

It knows the operators that the recognition networks of insightface's packs are made of (IResNet:
``w600k_r50``, ``glintr100``; MobileFaceNet: ``w600k_mbf``), as ``torch.onnx`` writes them, and
refuses all others. (onnx2torch knows more; its last release is of August 2024, and it needs
torchvision.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import BadWeights

CURE = "Give a network that is made of these: "
_READ = "Give a whole ONNX file."


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: tuple[int, ...] = (0, 0, 0, 0),
    strides: tuple[int, ...] = (1, 1),
    dilations: tuple[int, ...] = (1, 1),
    group: int = 1,
) -> Tensor:
    top, left, bottom, right = pads
    if (top, left) != (bottom, right):
        x, top, left = nn.functional.pad(x, (left, right, top, bottom)), 0, 0
    return nn.functional.conv2d(x, weight, bias, strides, (top, left), dilations, group)


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    return nn.functional.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def _reshape(x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    return x.reshape([x.shape[n] if size == 0 else size for n, size in enumerate(sizes)])


def _unsqueeze(x: Tensor, at: Tensor | None = None, *, axes: tuple[int, ...] = ()) -> Tensor:
    for axis in sorted(axes if at is None else at.tolist()):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, b: a + b,
    "BatchNormalization": _batch_norm,
    "Concat": lambda *parts, axis: torch.cat(parts, dim=axis),
    "Conv": _conv,
    "Flatten": lambda x, axis=1: x.reshape(prod(x.shape[:axis]), -1),
    "Gather": lambda x, indices: x[indices],
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "MatMul": lambda a, b: a @ b,
    "PRelu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "Reshape": _reshape,
    "Shape": lambda x: torch.tensor(x.shape),
    "Transpose": lambda x, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
}
"""What a node does: inputs in ONNX's order, attributes by their ONNX names."""

_UNUSED = {("Conv", "kernel_shape"), ("BatchNormalization", "momentum")}
"""Attributes that the weights tell too, or that are of training."""
_ONLY: dict[tuple[str, str], object] = {
    ("BatchNormalization", "spatial"): 1,
    ("BatchNormalization", "training_mode"): 0,
    ("Conv", "auto_pad"): b"NOTSET",
    ("Gather", "axis"): 0,
    ("Reshape", "allowzero"): 0,
}
"""Attributes that are known with one value: ONNX's default."""


@dataclass(frozen=True, slots=True)
class _Node:
    """One step of the graph."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class OnnxGraph(nn.Module):
    """Compute what an ONNX graph computes, for batches of any size.

    Its numbers are buffers, in float32 and not part of the state: nothing here is trained. Whole
    numbers are sizes; they stay on the CPU.

    Args:
        path: The ``.onnx`` file, of one input and one output.

    Raises:
        BadWeights: It cannot be read, or has an operator, or an attribute, that is not known here.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnx  # half a second

        self.path = path
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:
            words = f"cannot be read ({type(error).__name__}: {error})"
            raise BadWeights(str(path), words, _READ) from error
        self._sizes: dict[str, Tensor] = {}
        self._buffer_of: dict[str, str] = {}
        for held in graph.initializer:
            self._keep(held.name, onnx.numpy_helper.to_array(held))
        self._nodes: list[_Node] = []
        for node in graph.node:
            given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and given.keys() == {"value"}:
                self._keep(node.output[0], onnx.numpy_helper.to_array(given["value"]))
            else:
                self._nodes.append(self._step(node, given))
        inputs = [each.name for each in graph.input if each.name not in self._held]
        if len(inputs) != 1 or len(graph.output) != 1:
            words = f"has {len(inputs)} inputs and {len(graph.output)} outputs"
            raise BadWeights(str(path), words, "Give a network with one of each.")
        self._input, self._output = inputs[0], graph.output[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph."""
        values = {self._input: x} | self._sizes
        values |= {name: self.get_buffer(buffer) for name, buffer in self._buffer_of.items()}
        for node in self._nodes:
            # An input that is left out has no name.
            given = [values[name] if name else None for name in node.inputs]
            values[node.output] = OPERATORS[node.operator](*given, **node.attributes)
        return values[self._output]

    @property
    def _held(self) -> set[str]:
        return {*self._sizes, *self._buffer_of}

    def _keep(self, name: str, array: Any) -> None:  # noqa: ANN401 - numpy of any kind
        if not np.issubdtype(array.dtype, np.floating):
            self._sizes[name] = torch.tensor(array)
            return
        self._buffer_of[name] = f"held_{len(self._buffer_of)}"
        weight = torch.tensor(array, dtype=torch.float32)
        self.register_buffer(self._buffer_of[name], weight, persistent=False)

    def _step(self, node: Any, given: dict[str, Any]) -> _Node:  # noqa: ANN401 - onnx.NodeProto
        """Check a node, and leave out what says nothing."""
        kind, file = node.op_type, str(self.path)
        known = OPERATORS.get(kind) if node.domain in ("", "ai.onnx") else None
        if known is None or len(node.output) != 1:
            words = f"has an operator {kind!r}"
            words += f" of {len(node.output)} outputs" if known else ""
            cure = CURE + ", ".join(OPERATORS) + "."
            raise BadWeights(file, f"{words} (node {node.name!r}), not known here", cure)
        attributes: dict[str, Any] = {}
        for name, value in given.items():
            if (kind, name) in _UNUSED or _ONLY.get((kind, name)) == value:
                continue
            if name not in signature(known).parameters:
                words = f"has {name}={value!r} at its operator {kind!r} (node {node.name!r})"
                raise BadWeights(file, f"{words}, not known here", "Export it without.")
            attributes[name] = tuple(value) if isinstance(value, list) else value
        return _Node(kind, tuple(node.input), node.output[0], attributes)
