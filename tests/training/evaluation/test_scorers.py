import numpy as np
import pytest
import scipy.linalg
import torch
from transformers import CLIPModel

from infra.errors import BadValue, BadWeights
from training.evaluation.metrics import cosines
from training.evaluation.scorers import frechet, load_scorer

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 48, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize(("kind", "dim"), [("clip", 32), ("dino", 32)])
def test_a_picture_has_one_vector_alone_and_in_company(kind, dim):
    scorer = load_scorer(kind, f"random:tiny-{kind}")
    together = scorer.pictures(PICTURES)
    assert together.shape == (3, dim)
    np.testing.assert_allclose(scorer.pictures(PICTURES[1:2]), together[1:2], atol=1e-5)
    assert cosines(together[:1], together[1:2])[0] < 0.9999
    assert np.array_equal(load_scorer(kind, f"random:tiny-{kind}").pictures(PICTURES), together)


def test_prompts_have_vectors_of_the_pictures_space_and_long_ones_are_counted():
    clip = load_scorer("clip", "random:tiny-clip")
    vectors, cut = clip.prompts(["a woman", "a man with a hat", "very " * 40])
    assert (vectors.shape, cut) == ((3, 32), 1)
    assert cosines(vectors[:1], vectors[1:2])[0] < 0.9999


@pytest.fixture
def clip_folder(tmp_path):
    clip = load_scorer("clip", "random:tiny-clip")
    clip.network.save_pretrained(tmp_path)
    clip.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_transformers_gives_what_transformers_gives(clip_folder):
    scorer, preset = load_scorer("clip", f"file:{clip_folder}"), load_scorer(
        "clip", "random:tiny-clip"
    )  # fmt: skip
    np.testing.assert_allclose(scorer.pictures(PICTURES), preset.pictures(PICTURES), atol=1e-6)
    words = ["a woman", "nobody"]
    np.testing.assert_allclose(scorer.prompts(words)[0], preset.prompts(words)[0], atol=1e-6)
    told = CLIPModel.from_pretrained(clip_folder)
    ids = scorer.tokenizer(words, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = told.get_text_features(**ids).pooler_output.numpy()
    np.testing.assert_allclose(scorer.prompts(words)[0], expected, atol=1e-5)
    assert len(scorer.weights) == 64


def test_dino_reads_a_folder_without_a_pooler(tmp_path):
    preset = load_scorer("dino", "random:tiny-dino")
    preset.network.save_pretrained(tmp_path)
    held = load_scorer("dino", f"file:{tmp_path}")
    np.testing.assert_allclose(held.pictures(PICTURES), preset.pictures(PICTURES), atol=1e-6)


def test_the_folder_says_how_its_pictures_are_normalised(tmp_path):
    preset = load_scorer("dino", "random:tiny-dino")
    preset.network.save_pretrained(tmp_path)
    said = '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    (tmp_path / "preprocessor_config.json").write_text(said)
    assert load_scorer("dino", f"file:{tmp_path}").mean == (0.5, 0.5, 0.5)


def test_another_kind_of_model_is_refused(clip_folder):
    with pytest.raises(BadWeights, match=r"of type 'clip', not vit or dinov2"):
        load_scorer("dino", f"file:{clip_folder}")


def test_a_pickle_is_refused(clip_folder):
    (clip_folder / "model.safetensors").rename(clip_folder / "pytorch_model.bin")
    with pytest.raises(BadWeights, match="is a pickle"):
        load_scorer("clip", f"file:{clip_folder}")


def test_a_clip_without_tokenizer_is_refused(clip_folder):
    for path in [*clip_folder.glob("tokenizer*"), *clip_folder.glob("*.txt")]:
        path.unlink()
    (clip_folder / "vocab.json").unlink(missing_ok=True)
    with pytest.raises(BadWeights, match="has no tokenizer beside it"):
        load_scorer("clip", f"file:{clip_folder}")


@pytest.mark.parametrize("reference", ["random:tiny-klip", "openai/clip", "hub:openai/clip"])
def test_an_unknown_reference_is_refused(reference):
    with pytest.raises(BadValue):
        load_scorer("clip", reference)


def test_frechet_is_that_of_the_square_root_of_a_matrix():
    a, b = RNG.normal(size=(60, 6)), RNG.normal(size=(50, 6)) @ RNG.normal(size=(6, 6)) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_square():
    a = RNG.normal(size=(40, 3))
    assert frechet(a, a + np.array([2.0, 0.0, 0.0])) == pytest.approx(4.0)
