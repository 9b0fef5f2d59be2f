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


def write_arcface(path, tail="gemm", *, seed=2, dim=32, batch="N", side=112, bend="PRelu", **more):
    """Write an ArcFace of the published networks' operators, as ``torch.onnx`` writes them.

    One residual block between a batch norm and the end of an IResNet (``gemm``) or of a
    MobileFaceNet, which counts the pictures (``matmul``), or takes one (``folded``).

    Args:
        path: Of the file.
        tail: Which end.
        seed: Of the weights.
        dim: Of the vectors.
        batch: The declared number of pictures.
        side: Of the pictures, in pixels.
        bend: The operator after the first convolution.
        more: Attributes of the block's first convolution.
    """
    rng = np.random.default_rng(seed)
    weights, nodes = [], []
    places = (side // 8) ** 2

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def held(name, array, kind=np.float32):
        weights.append(numpy_helper.from_array(np.asarray(array).astype(kind), name))
        return name

    def drawn(name, *shape, about=0.0, scale=0.1):
        return held(name, rng.normal(about, scale, shape))

    def norm(x, name):
        channels = dim if name == "embedding" else 8
        about = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "variance": 1.0}
        parts = [drawn(f"{name}_{part}", channels, about=of) for part, of in about.items()]
        return node("BatchNormalization", [x, *parts], name, epsilon=1e-5, momentum=0.9)

    def conv(x, name, stride, size=3, **attributes):
        into = (3 if x == "x" else 8) // attributes.get("group", 1)
        kernel = drawn(f"{name}_kernel", 8, into, size, size, scale=(into * size**2) ** -0.5)
        said = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
        return node("Conv", [x, kernel, drawn(f"{name}_bias", 8)], name, **said | attributes)

    slope = [drawn("slope", 8, 1, 1)] if bend == "PRelu" else []
    x = node(bend, [conv("x", "stem", 4, 5), *slope], "bent")
    inner = conv(norm(x, "block_norm"), "block_in", 1, group=4, **more)
    inner = conv(node("PRelu", [inner, drawn("slopes", 8, 1, 1)], "block_bent"), "block_out", 2)
    x = norm(node("Add", [inner, conv(x, "beside", 2, 1)], "sum"), "last_norm")
    matrix = drawn("matrix", dim, 8 * places, scale=(8 * places) ** -0.5)
    if tail == "gemm":
        flat = node("Flatten", [x], "flat", axis=1)
        said = {"alpha": 1.0, "beta": 1.0, "transB": 1}
        x = node("Gemm", [flat, matrix, drawn("bias", dim)], "dense", **said)
    else:
        first, minus, zero = (held(f"n{n}", n, np.int64) for n in ([0], [-1], 0))
        many = held("sole", [1], np.int64)
        if tail == "matmul":
            one = node("Gather", [node("Shape", [x], "shape"), zero], "one", axis=0)
            many = node("Unsqueeze", [one, first], "many")
        flat = node("Reshape", [x, node("Concat", [many, minus], "sizes", axis=0)], "flat")
        x = node("MatMul", [flat, node("Transpose", [matrix], "turned", perm=[1, 0])], "dense")
    norm(x, "embedding")
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, dim])]
    _save(path, nodes, [batch, 3, side, side], outputs, weights)


def write_pack(folder, export="batched", *, batch="N", recogniser=write_recogniser, **more):
    """Write a folder with a detector and a recogniser; return its name."""
    folder.mkdir(parents=True, exist_ok=True)
    write_detector(folder / "det.onnx", export, batch=batch)
    recogniser(folder / "rec.onnx", batch=batch, **more)
    return str(folder)


def _save(path, nodes, input_shape, outputs, weights):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
