import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from infra.errors import BadWeights
from stages.models.liveness import InsightLiveness, Liveness

FACE = np.array([[180, 200], [220, 200], [200, 225], [185, 245], [215, 245]], dtype=np.float32)


def network(path, axes=(1, 2, 3)):
    """Write a network that calls a face as live as it is bright."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["picture"], ["live"], axes=list(axes), keepdims=0)],
        "brightness",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 80, 80])],
        [helper.make_tensor_value_info("live", TensorProto.FLOAT, ["n"] * (4 - len(axes)))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def plain(level, size_px=400):
    return np.full((size_px, size_px, 3), level, dtype=np.uint8)


def test_a_face_is_judged_by_the_network_and_its_authors_threshold(tmp_path):
    liveness = InsightLiveness(network(tmp_path / "liveness.onnx"))
    assert isinstance(liveness, Liveness)
    bright, dim = liveness.judge(plain(230), FACE), liveness.judge(plain(150), FACE)
    assert (bright.live, dim.live) == (True, False)
    assert bright.score == pytest.approx(230 / 255, abs=1e-3)
    assert dim.score == pytest.approx(150 / 255, abs=1e-3)
    assert liveness.card.name == "liveness"
    assert len(liveness.card.sha256) == 64


def test_colours_reach_it_as_it_was_trained(tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["picture", "from", "to", "axis"], ["red"]),
            helper.make_node("ReduceMean", ["red"], ["live"], axes=[1, 2, 3], keepdims=0),
        ],
        "red",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 80, 80])],
        [helper.make_tensor_value_info("live", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor(name, TensorProto.INT64, [1], [value])
         for name, value in (("from", 0), ("to", 1), ("axis", 1))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "red.onnx")
    red = plain(0)
    red[..., 0] = 255
    assert InsightLiveness(tmp_path / "red.onnx").judge(red, FACE).score == pytest.approx(1.0)


def test_of_a_face_at_the_edge_nothing_is_said(tmp_path):
    liveness = InsightLiveness(network(tmp_path / "liveness.onnx"))
    told = liveness.judge(plain(255), FACE - FACE[0])
    assert (told.live, told.score) == (None, 0.0)


def test_what_is_no_such_network_is_refused(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for path, words in (
        (tmp_path / "none.onnx", "is not there"),
        (tmp_path / "junk.onnx", "is no liveness network"),
        (network(tmp_path / "other.onnx", axes=(2, 3)), "is no liveness network"),
    ):
        with pytest.raises(BadWeights, match=words):
            InsightLiveness(path)
