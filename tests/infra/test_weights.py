import pytest

from infra.errors import BadValue, BadWeights
from infra.weights import locate, sha256


def test_a_package_reference_finds_the_file_without_importing_the_package():
    path = locate("package:face_recognition_models/models/shape_predictor_5_face_landmarks.dat")
    assert path.stat().st_size > 1_000_000


def test_a_file_is_known_by_its_hash(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert sha256(locate(f"file:{tmp_path}/w")).startswith("ba7816bf8f01cfea")


def test_what_is_missing_is_named():
    with pytest.raises(BadWeights, match="does not exist"):
        locate("file:/no/such/weights.safetensors")
    with pytest.raises(BadValue, match="install 'no_such_package'"):
        locate("package:no_such_package/w.dat")
    with pytest.raises(BadValue, match="begin with"):
        locate("weights.dat")
