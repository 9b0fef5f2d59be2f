import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadValue, BadWeights
from stages.landmarks import ARCFACE_TEMPLATE_PX
from stages.models.faces import Detector, Embedder
from stages.models.insightface_faces import (
    NON_COMMERCIAL,
    InsightDetector,
    InsightEmbedder,
    open_pack,
    pack_cards,
)
from tests.stages.models.photos import astronaut, group, hanks
from tests.stages.models.tiny_packs import write_detector, write_pack, write_recogniser

SIDE = 160
FLOOR = 0.6
RNG = np.random.default_rng(0)


@pytest.fixture
def pack(tmp_path):
    return write_pack(tmp_path / "tiny")


def by_scrfd(detector, picture):
    """Ask insightface's own, one picture at a time; put its faces in our order."""
    model = detector._scrfd.model
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    boxes, points = model.detect(bgr, input_size=(SIDE, SIDE), det_thresh=FLOOR)
    sides = boxes[:, 2:4] - boxes[:, :2]
    order = np.lexsort((boxes[:, 1], boxes[:, 0], -sides.prod(axis=1)))
    return boxes[order, :4], boxes[order, 4], points[order]


EXPORTS = [
    ("batched", "N", None, "batched"),
    ("interleaved", "N", None, "interleaved"),
    ("stacked", "N", None, "stacked"),
    ("folded", "N", None, "single"),
    # A batch of one that is only declared, as in the published packs, and can be opened up ...
    ("interleaved", 1, None, "interleaved"),
    ("batched", 1, None, "batched"),
    ("interleaved", 1, SIDE, "interleaved"),
    # ... and one that is built in.
    ("folded", 1, SIDE, "single"),
    ("counted", 1, SIDE, "single"),
]


@pytest.mark.parametrize(("export", "batch", "side", "layout"), EXPORTS)
def test_pictures_together_have_the_faces_that_scrfd_finds_in_each(
    tmp_path, export, batch, side, layout
):
    write_detector(tmp_path / "det.onnx", export, batch=batch, side=side)
    detector = InsightDetector(str(tmp_path), detect_px=SIDE, min_score=FLOOR)
    assert detector._scrfd.layout == layout
    pictures = [astronaut(), group(), hanks(), astronaut()[:, 100:200], group()[:90]]
    found = detector.detect(pictures)
    for picture, faces in zip(pictures, found, strict=True):
        boxes, scores, points = by_scrfd(detector, picture)
        assert len(boxes) > 0
        np.testing.assert_allclose(faces.boxes_px, boxes, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(faces.scores, scores, rtol=1e-4)
        np.testing.assert_allclose(faces.landmarks_px, points, rtol=1e-4, atol=1e-3)


def test_more_pictures_than_one_call_takes_are_all_searched(pack):
    detector = InsightDetector(pack, detect_px=SIDE, min_score=FLOOR)
    pictures = [np.roll(astronaut(), 10 * i, axis=1) for i in range(19)]
    alone = [detector.detect([picture])[0] for picture in pictures]
    for faces, expected in zip(detector.detect(pictures), alone, strict=True):
        np.testing.assert_allclose(faces.boxes_px, expected.boxes_px, rtol=1e-4, atol=1e-3)


def test_no_pictures_give_no_answers(pack):
    assert InsightDetector(pack, detect_px=SIDE).detect([]) == []


def test_a_picture_one_pixel_high_is_searched_too(pack):
    line = RNG.integers(0, 256, (1, 3000, 3), dtype=np.uint8)
    (faces,) = InsightDetector(pack, detect_px=SIDE, min_score=FLOOR).detect([line])
    assert faces.boxes_px.shape == (len(faces.scores), 4)


def test_a_network_of_fixed_size_keeps_its_own(tmp_path):
    write_detector(tmp_path / "det.onnx", side=96)
    assert InsightDetector(str(tmp_path), detect_px=640)._scrfd.width == 96


def test_nothing_passes_a_floor_above_every_score(pack):
    (faces,) = InsightDetector(pack, detect_px=SIDE, min_score=1.01).detect([astronaut()])
    assert (faces.boxes_px.shape, faces.landmarks_px.shape) == ((0, 4), (0, 5, 2))


def test_a_side_that_the_strides_do_not_divide_is_refused(pack):
    with pytest.raises(BadValue, match="detect_px cannot be 100: give a multiple of 32"):
        InsightDetector(pack, detect_px=100)


def test_a_detector_without_landmarks_is_refused(tmp_path):
    write_detector(tmp_path / "det.onnx", heads=("score", "box"))
    with pytest.raises(BadWeights, match="has 6 outputs, so it gives no landmarks"):
        InsightDetector(str(tmp_path))


def test_both_are_what_the_stages_ask_for(pack):
    assert isinstance(InsightDetector(pack, detect_px=SIDE), Detector)
    assert isinstance(InsightEmbedder(pack), Embedder)


def test_crops_are_those_of_insightface_within_rounding(pack):
    from insightface.utils.face_align import norm_crop

    turns = RNG.uniform(-0.6, 0.6, 20)[:, None, None]
    flat = np.tile(ARCFACE_TEMPLATE_PX - 56, (20, 1, 1)) * RNG.uniform(0.3, 4, (20, 1, 1))
    turned = flat * np.cos(turns) + flat[..., ::-1] * np.sin(turns) * [-1, 1]
    points = (turned + RNG.uniform(100, 500, (20, 1, 2)) + RNG.normal(0, 3, (20, 5, 2))).astype(
        np.float32
    )
    chips = InsightEmbedder(pack).align(group(), points)
    for chip, face in zip(chips, points, strict=True):
        expected = norm_crop(group(), face)
        assert np.abs(chip.astype(int) - expected).max() <= 1


def test_vectors_are_those_of_insightface_for_bgr_chips(pack):
    embedder = InsightEmbedder(pack)
    chips = RNG.integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    model = open_pack(pack, "cpu", 1).models["recognition"]
    expected = [model.get_feat(np.ascontiguousarray(chip[..., ::-1]))[0] for chip in chips]
    np.testing.assert_allclose(embedder.embed(chips), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("batch", ["N", 1])
def test_every_chip_has_its_vector_whether_the_network_takes_many_or_one(tmp_path, batch):
    embedder = InsightEmbedder(write_pack(tmp_path, batch=batch))
    chips = RNG.integers(0, 256, (130, 112, 112, 3), dtype=np.uint8)
    vectors = embedder.embed(chips)
    assert vectors.shape == (130, 512)
    np.testing.assert_allclose(vectors[129:], embedder.embed(chips[129:]), rtol=1e-4, atol=1e-3)


def test_no_chips_give_no_vectors(pack):
    embedder = InsightEmbedder(pack)
    none = embedder.align(astronaut(), np.empty((0, 5, 2), np.float32))
    assert embedder.embed(none).shape == (0, 512)


def test_detector_and_embedder_share_one_pack(pack):
    assert open_pack(pack, "cpu", 1) is open_pack(pack, "cpu", 1)


def test_the_cards_name_the_files_their_digests_and_the_license(pack):
    detector, recogniser = pack_cards(pack)
    digest = hashlib.sha256(Path(pack, "det.onnx").read_bytes()).hexdigest()
    assert (detector.name, detector.sha256, detector.license) == (
        "tiny/det",
        digest,
        NON_COMMERCIAL,
    )
    assert recogniser.name == "tiny/rec"
    assert InsightDetector(pack, detect_px=SIDE).card == detector
    assert InsightEmbedder(pack).card == recogniser


def test_a_license_that_nobody_signed_is_not_believed(pack):
    manifest = {
        "manifest_version": 2,
        "model_id": "tiny",
        "license": "MODEL.LICENSE",
        "tasks": {"detection": {"file": "det.onnx"}, "recognition": {"file": "rec.onnx"}},
    }
    Path(pack, "manifest.json").write_text(json.dumps(manifest))
    assert pack_cards(pack)[0].license == NON_COMMERCIAL
    Path(pack, "MODEL.LICENSE").write_text('{"grant": "commercial"}')
    assert pack_cards(pack)[0].license.startswith(f"{NON_COMMERCIAL}; its MODEL.LICENSE is not")


def test_a_pack_that_cannot_be_downloaded_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(BadWeights, match=r"could not be fetched or read .*Give a folder"):
        InsightDetector("no_such_pack")
    assert list(tmp_path.rglob("*.onnx")) == []


def test_a_path_that_is_no_folder_is_never_downloaded(tmp_path):
    with pytest.raises(BadWeights, match="is not a folder"):
        InsightDetector(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []


def test_a_pack_without_a_detector_says_so(tmp_path):
    write_recogniser(tmp_path / "rec.onnx")
    with pytest.raises(BadWeights, match="is a pack without a face detector"):
        InsightDetector(str(tmp_path))


@pytest.mark.parametrize("side", [None, 128])
def test_a_pack_without_a_recogniser_of_the_right_size_says_so(tmp_path, side):
    write_detector(tmp_path / "det.onnx")
    if side:
        write_recogniser(tmp_path / "rec.onnx", side=side)
    with pytest.raises(BadWeights, match="holds no recogniser of 112 px"):
        InsightEmbedder(str(tmp_path))


def test_a_damaged_file_says_so(pack):
    Path(pack, "det.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(BadWeights, match="could not be fetched or read"):
        InsightDetector(pack)


def test_an_unknown_device_is_refused(pack):
    with pytest.raises(BadValue, match="device cannot be 'tpu': give 'cpu' or 'cuda'"):
        InsightDetector(pack, device="tpu")


def test_a_gpu_that_onnxruntime_cannot_use_is_refused(pack):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BadValue, match="device cannot be 'cuda': put onnxruntime-gpu"):
        InsightEmbedder(pack, device="cuda")
