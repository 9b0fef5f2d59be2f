"""Recognition networks in torch compute what onnxruntime computes, and let gradients through."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, save

from infra.errors import BadWeights
from tests.stages.models.tiny_packs import write_arcface, write_recogniser
from training.nets.onnx_graph import OnnxGraph

SIDE = 16


def both(path, x):
    """Return torch's answer, and onnxruntime's."""
    (theirs,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x.numpy()})
    return OnnxGraph(path)(x), torch.from_numpy(theirs)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tail", ["gemm", "matmul"])
@pytest.mark.parametrize("pictures", [1, 3])
def test_vectors_are_those_of_onnxruntime_for_any_number_of_pictures(tmp_path, tail, pictures):
    write_arcface(tmp_path / "rec.onnx", tail)
    ours, theirs = both(tmp_path / "rec.onnx", noise(pictures, 3, 112, 112))
    assert ours.shape == (pictures, 32)
    assert theirs.abs().mean() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [{"auto_pad": "NOTSET"}, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"pads": [0, 1, 2, 1]}],
)
def test_convolutions_of_all_kinds_are_those_of_onnxruntime(tmp_path, more):
    write_arcface(tmp_path / "rec.onnx", side=SIDE, **more)
    ours, theirs = both(tmp_path / "rec.onnx", noise(2, 3, SIDE, SIDE))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_the_pixels_is_that_of_finite_differences(tmp_path):
    write_arcface(tmp_path / "rec.onnx", side=SIDE)
    graph = OnnxGraph(tmp_path / "rec.onnx").double()
    x = noise(2, 3, SIDE, SIDE).double().requires_grad_()
    assert torch.autograd.gradcheck(graph, (x,), fast_mode=True)
    graph(x).sum().backward()
    assert (x.grad != 0).double().mean() > 0.8  # the stem's strides leave out one edge


def test_there_is_nothing_to_train_and_nothing_to_keep(tmp_path):
    write_arcface(tmp_path / "rec.onnx")
    graph = OnnxGraph(tmp_path / "rec.onnx")
    assert [*graph.parameters(), *graph.state_dict()] == []
    assert sum(weight.numel() for weight in graph.buffers()) > 32 * 8 * 14**2
    moved = graph.to("meta")
    assert all(weight.device.type == "meta" for weight in moved.buffers())


def test_an_operator_that_is_not_known_is_named_with_its_file(tmp_path):
    write_recogniser(tmp_path / "rec.onnx")
    with pytest.raises(
        BadWeights, match=r"rec\.onnx.* has an operator 'Tanh' .*BatchNormalization"
    ):
        OnnxGraph(tmp_path / "rec.onnx")


def test_an_attribute_that_is_not_known_is_named_with_its_node(tmp_path):
    write_arcface(tmp_path / "rec.onnx", side=SIDE, auto_pad="SAME_UPPER", pads=None)
    why = r"has auto_pad=b'SAME_UPPER' at its operator 'Conv' \(node 'block_in'"
    with pytest.raises(BadWeights, match=why):
        OnnxGraph(tmp_path / "rec.onnx")


def write_graph(path, nodes, inputs=("x",), outputs=("y",)):
    """Write any graph on vectors of four numbers."""
    said = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in names]
        for names in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "any", *said)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))


def test_an_operator_of_another_domain_is_not_taken_for_one_of_onnx(tmp_path):
    write_graph(tmp_path / "a.onnx", [helper.make_node("Add", ["x", "x"], ["y"], domain="mine")])
    with pytest.raises(BadWeights, match="has an operator 'Add'"):
        OnnxGraph(tmp_path / "a.onnx")


def test_a_network_of_two_inputs_is_refused(tmp_path):
    node = helper.make_node("Add", ["x", "z"], ["y"])
    write_graph(tmp_path / "a.onnx", [node], inputs=("x", "z"))
    with pytest.raises(BadWeights, match="has 2 inputs and 1 outputs"):
        OnnxGraph(tmp_path / "a.onnx")


def test_numbers_in_the_graph_itself_are_read(tmp_path):
    two = helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])
    write_graph(tmp_path / "a.onnx", [helper.make_node("Constant", [], ["two"], value=two),
                                      helper.make_node("Add", ["x", "two"], ["y"])])  # fmt: skip
    x = torch.from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4))
    assert OnnxGraph(tmp_path / "a.onnx")(x).equal(x + 2)


@pytest.mark.parametrize("content", [b"not an ONNX file", None])
def test_a_file_that_is_damaged_or_missing_says_so(tmp_path, content):
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BadWeights, match=r"a\.onnx.* cannot be read .*Give a whole ONNX file"):
        OnnxGraph(tmp_path / "a.onnx")
