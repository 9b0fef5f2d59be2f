"""Candidates of photographs: who is in them is known, and so is how they move."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue, UnreadableSource
from stages.models.backend import load_detector, load_embedder
from stages.models.dlib_faces import embedder_card
from tests.stages.models.photos import group
from tests.training.many import train
from tests.training.methods.adapters import moved
from tests.training.videos import COGVIDEOX, recipe, write_videos
from training.crops import aligned
from training.evaluation.metrics import cosines
from training.evaluation.recognise import Recogniser
from training.evaluation.scorers import load_scorer
from training.features import Features, Prepared
from training.loss_settings import LossSettings
from training.method import Condition, Sampling
from training.methods.magic_id import MagicID
from training.preferences import prefer, read_preferences, write_candidates
from training.settings import MethodSettings
from training.video.candidates import Judge, Prompt, draw_candidates, score
from training.video.mining import Rules, at_rest
from training.video.motion import DisFlow
from training.video.scores import Measures

pytestmark = pytest.mark.slow  # the detector looks at a large photograph
FRAMES = 5
MEASURES = Measures(fps=8.0, flow=DisFlow())


@pytest.fixture(scope="module")
def two():
    """A photograph each of two people, and all people's vectors and crops."""
    (faces,) = load_detector("dlib", "", 1280, 0.0, "cpu").detect([group()])
    embedder = load_embedder("dlib", "", "cpu")
    chips = embedder.align(group(), faces.landmarks_px)
    photos = []
    for left, top, right, bottom in faces.boxes_px[:2].astype(int):
        middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
        photos.append(group()[middle_y - 96 : middle_y + 96, middle_x - 80 : middle_x + 80])
    return photos, embedder.embed(chips), chips


def panned(photo):
    """The same photograph, 4 px further to the left in each frame."""
    return np.stack([np.roll(photo, -4 * frame, axis=1) for frame in range(FRAMES)])


@pytest.fixture(scope="module")
def recogniser(two):
    vectors = two[1]
    features = Features(
        corpus="x", image_px=64, codec="", latent_shape=(1, 2, 2), text_shape=(0, 0),
        identity_dim=128, embedder=embedder_card().tag, backend="dlib",
        identity_mean=tuple(vectors.mean(0).tolist()), identity_std=(1.0,) * 128,
    )  # fmt: skip
    return Recogniser(features, aligned=False)


@pytest.fixture(scope="module")
def scored(two, recogniser):
    (ann, bob), vectors, _ = two
    judge = Judge(identity=vectors[0], recogniser=recogniser, measures=MEASURES)
    videos = {
        "0000": (at_rest(ann, FRAMES), "", "static"),
        "0001": (panned(ann), "a pan", "tuned"),
        "0002": (panned(bob), "a pan", "base"),
        "0003": (at_rest(np.zeros_like(ann), FRAMES), "a pan", "base"),
    }
    return {
        id_: score(video, id_, prompt=prompt, source=source, judge=judge)
        for id_, (video, prompt, source) in videos.items()
    }  # fmt: skip


def test_the_person_scores_above_others_and_a_blank_scores_nothing(scored):
    assert scored["0000"].identity == pytest.approx(1.0, abs=0.05)
    assert scored["0001"].identity > scored["0002"].identity + 0.3
    assert scored["0003"].identity == 0.0


def test_a_photograph_rests_and_a_pan_moves_as_fast_as_it_does(scored):
    assert scored["0000"].dynamics == pytest.approx(0.0, abs=1e-3)
    per_s = 4 * 8.0 / np.hypot(192, 160)
    assert scored["0001"].dynamics == pytest.approx(per_s, rel=0.3)


def test_clip_compares_frames_with_the_prompt_where_both_are_there(two, recogniser):
    (ann, _), vectors, _ = two
    clip = load_scorer("clip", "random:tiny-clip")
    measures = Measures(fps=8.0, flow=DisFlow(), clip=clip)
    judge = Judge(identity=vectors[0], recogniser=recogniser, measures=measures)
    video = panned(ann)
    asked = score(video, "a", prompt="a pan", source="tuned", judge=judge)
    words, views = clip.prompts(["a pan"])[0], clip.pictures(video)
    by_hand = np.mean([cosines(view[None], words)[0] for view in views])
    assert asked.follows == pytest.approx(by_hand, abs=1e-6)
    assert score(video, "b", prompt="", source="tuned", judge=judge).follows == 0.0


def test_scored_candidates_become_the_pairs_that_a_run_learns(scored, tmp_path):
    home = write_videos(tmp_path / "features", COGVIDEOX, people=1, clips=4)
    with pytest.raises(UnreadableSource, match=r"it has no candidates\.parquet"):
        prefer(home)
    write_candidates(home, list(scored.values()))
    found = prefer(home, Rules(dynamics_tolerance=1.0))
    pairs = read_preferences(Prepared(home), np.arange(4))
    first = pairs.stage == 1
    learnt = set(zip(pairs.winner[first].tolist(), pairs.loser[first].tolist(), strict=True))
    assert learnt >= {(0, 2), (0, 3), (1, 2)}
    assert len(pairs.stage) == len(found.pairs)


# From a tuned model to pairs that train.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tiny tuned model, and what looks at its videos as at aligned faces, face or no face."""
    home = write_videos(tmp_path_factory.mktemp("drawing") / "f", COGVIDEOX, people=1, clips=1)
    told = replace(
        Features.read(home), identity_dim=128, embedder=embedder_card().tag,
        identity_mean=(0.0,) * 128, identity_std=(1.0,) * 128,
    )  # fmt: skip
    method = MagicID(
        recipe(home, COGVIDEOX, method=MethodSettings(kind="magic_id", lora_rank=4)), told, home
    )
    return moved(method).eval(), Recogniser(told, aligned=True)


@pytest.fixture(scope="module")
def photo(two):
    """The first one's face as pictures of 64 px are cut."""
    return aligned(two[2][:1], 64)[0]


@pytest.fixture
def drawn(tuned, photo):
    method, recogniser = tuned
    person = recogniser.look(photo[None]).vectors[0]
    judge = Judge(identity=person, recogniser=recogniser, measures=MEASURES)
    states = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))

    def draw(out, seeds=(0, 1), photos=(photo,)):
        return draw_candidates(
            method, [Prompt("a walk", states)], photos, out, judge, person="p0", seeds=seeds,
            sampling=Sampling(steps=2),
        )  # fmt: skip

    return draw


def test_what_a_tuned_model_and_its_base_draw_becomes_features_that_train(drawn, tmp_path):
    found = drawn(tmp_path / "out")
    assert [each.source for each in found] == ["static", "tuned", "base", "tuned", "base"]
    assert found[0].identity == pytest.approx(1.0, abs=1e-3)
    prepared = Prepared(tmp_path / "out")
    latents = prepared.read("latents", np.arange(5))
    assert latents.shape == (5, 4, 3, 8, 8)
    assert not torch.equal(latents[1], latents[2])
    assert prefer(tmp_path / "out", Rules(identity_margin=1e-3)).pairs[0].winner == "00000"
    told = recipe(
        tmp_path / "out", COGVIDEOX, method=MethodSettings(kind="magic_id", lora_rank=4),
        losses=LossSettings(mse=0.0, dpo=1.0), batch=2, microbatch=2,
    )  # fmt: skip
    assert len(train(told, tmp_path / "run")["losses"]) == 4


def test_the_base_draws_what_it_would_without_the_tuning(tuned, drawn, tmp_path):
    method, _ = tuned
    drawn(tmp_path, seeds=(3,))
    states = Prepared(tmp_path).read("text", np.array([2]))
    rng, how = torch.Generator().manual_seed(3), Sampling(steps=2, scale=0.0)
    video = method.generate(Condition(torch.zeros(1, 128), text=states), rng, how)
    coded = method.codec.encode(video.transpose(1, 2)).half().float()
    torch.testing.assert_close(
        Prepared(tmp_path).read("latents", np.array([2])), coded, atol=0.02, rtol=0.02
    )


def test_after_a_crash_only_what_is_not_there_is_drawn(drawn, tmp_path):
    first = drawn(tmp_path)
    there = sorted((tmp_path / "shards").iterdir())
    times = {path: path.stat().st_mtime_ns for path in there}
    (tmp_path / "features.json").unlink()
    there[3].unlink()
    assert drawn(tmp_path) == first
    assert [path for path in there if path.stat().st_mtime_ns != times[path]] == [there[3]]


def test_photographs_of_another_size_are_refused(drawn, photo, tmp_path):
    with pytest.raises(BadValue, match=r"give pictures of \(64, 64\) px"):
        drawn(tmp_path, photos=(photo[:32],))
