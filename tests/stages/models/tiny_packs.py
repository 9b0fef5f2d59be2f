"""Model packs of a few kilobytes: real ONNX files with seeded weights, of the published shapes."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

STRIDES, ANCHORS = (8, 16, 32), 2
VALUES = {"score": 1, "box": 4, "kps": 10}

# How a head's answer, pictures x anchors*values x rows x columns, is flattened.
_EXPORTS = {
    "batched": ((0, 2, 3, 1), lambda _, values: [0, -1, values]),
    "interleaved": ((2, 3, 0, 1), lambda _, values: [-1, values]),
    "stacked": ((0, 2, 3, 1), lambda _, values: [-1, values]),
    "folded": ((0, 2, 3, 1), lambda _, values: [1, -1, values]),
    "counted": ((0, 2, 3, 1), lambda places, values: [places * ANCHORS, values]),
}


def write_detector(path, export="batched", *, batch="N", side=None, heads=tuple(VALUES)):
    """Write an SCRFD: one strided convolution per stride and head, flattened as ``export`` says.

    Two exports can only run one picture: ``folded`` puts the anchors of all pictures into one, and
    ``counted`` has the number of one picture's anchors built in, so it needs a ``side``.
    """
    rng = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []

    def constant(name, array):
        weights.append(numpy_helper.from_array(array, name))
        return name

    order, shape = _EXPORTS[export]
    for head in heads:
        for stride in STRIDES:
            name, values = f"{head}_{stride}", VALUES[head]
            kernel = rng.normal(0, 1, (ANCHORS * values, 3, stride, stride)) / stride
            w = constant(f"{name}_w", kernel.astype(np.float32))
            # Scores are rare, boxes reach a few places in every direction.
            bias = {"score": -0.5, "box": 3.0, "kps": 0.0}[head]
            b = constant(f"{name}_b", np.full(ANCHORS * values, bias, np.float32))
            to = shape(((side or 0) // stride) ** 2, values)
            new_shape = constant(f"{name}_shape", np.array(to, np.int64))
            nodes += [
                helper.make_node("Conv", ["x", w, b], [f"{name}_c"], strides=[stride, stride]),
                helper.make_node("Transpose", [f"{name}_c"], [f"{name}_t"], perm=order),
                helper.make_node("Reshape", [f"{name}_t", new_shape], [f"{name}_r"]),
                helper.make_node(
                    {"score": "Sigmoid", "box": "Abs", "kps": "Identity"}[head],
                    [f"{name}_r"],
                    [name],
                ),
            ]
            free = [None] * (len(to) - 1)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [*free, values]))
    _save(path, nodes, [batch, 3, side or "H", side or "W"], outputs, weights)


def write_recogniser(path, *, batch="N", side=112):
    """Write an ArcFace: coarse patches, projected to 512 values."""
    rng = np.random.default_rng(1)
    kernel = (rng.normal(0, 1, (8, 3, 16, 16)) / 16).astype(np.float32)
    matrix = rng.normal(0, 1, (8 * (side // 16) ** 2, 512)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["patches"], strides=[16, 16]),
        helper.make_node("Tanh", ["patches"], ["bent"]),
        helper.make_node("Flatten", ["bent"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["embedding"]),
    ]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(matrix, "matrix")]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 512])]
    _save(path, nodes, [batch, 3, side, side], outputs, weights)


def write_pack(folder, export="batched", *, batch="N"):
    """Write a folder with a detector and a recogniser; return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "det.onnx", export, batch=batch)
    write_recogniser(folder / "rec.onnx", batch=batch)
    return str(folder)


def _save(path, nodes, input_shape, outputs, weights):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
