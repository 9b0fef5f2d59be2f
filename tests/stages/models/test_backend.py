import subprocess
import sys

import pytest

from infra.errors import BadValue
from stages.models.backend import BACKENDS, cards, load_detector, load_embedder
from stages.models.dlib_faces import DlibDetector, DlibEmbedder
from stages.models.insightface_faces import InsightDetector, InsightEmbedder
from tests.stages.models.tiny_packs import write_pack


def test_dlib_needs_no_pack():
    assert isinstance(load_detector("dlib", "", 640, 0.0, "cpu"), DlibDetector)
    assert isinstance(load_embedder("dlib", "", "cpu"), DlibEmbedder)


def test_insightface_comes_from_its_pack(tmp_path):
    pack = write_pack(tmp_path)
    assert isinstance(load_detector("insightface", pack, 64, 0.5, "cpu"), InsightDetector)
    assert isinstance(load_embedder("insightface", pack, "cpu"), InsightEmbedder)


def test_the_settings_arrive():
    detector = load_detector("dlib", "", 320, 0.5, "cpu")
    assert (detector.detect_px, detector.min_score) == (320, 0.5)


def test_stages_of_one_process_share_one_embedder():
    assert load_embedder("dlib", "", "cpu") is load_embedder("dlib", "", "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_record_and_the_rows_name_the_same_models(tmp_path, backend):
    pack = write_pack(tmp_path)
    loaded = [
        load_detector(backend, pack, 64 if backend == "insightface" else 640, 0.5, "cpu"),
        load_embedder(backend, pack, "cpu"),
    ]
    assert cards(backend, pack) == [model.card for model in loaded]


def test_an_unknown_backend_is_refused_with_the_nearest():
    asked = [
        lambda: load_detector("insigthface", "", 640, 0.5, "cpu"),
        lambda: load_embedder("insigthface", "", "cpu"),
        lambda: cards("insigthface", ""),
    ]
    for ask in asked:
        with pytest.raises(BadValue, match="backend cannot be 'insigthface': Did you mean"):
            ask()


def test_insightface_without_a_pack_is_refused():
    with pytest.raises(BadValue, match="pack cannot be '': the backend 'insightface' needs"):
        cards("insightface", "")


def test_naming_dlibs_models_loads_neither_torch_nor_insightface():
    code = (
        "import sys; from stages.models.backend import cards; cards('dlib', ''); "
        "sys.exit(bool({'torch', 'insightface', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
