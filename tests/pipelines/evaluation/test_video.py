"""``visage evaluate`` of a method that draws videos: it knows a video of everybody by heart."""

import io
from dataclasses import replace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from infra.errors import BadValue
from pipelines.evaluate import evaluate
from pipelines.evaluation.compare import compare
from pipelines.evaluation.settings import EvaluateSettings
from pipelines.evaluation.tables import VIDEO_WORDS
from pipelines.evaluation.video import evaluate_videos, load_measures
from stages.models.backend import load_detector, load_embedder
from stages.models.dlib_faces import embedder_card
from tests.pipelines.test_evaluate import recipe as picture_recipe
from tests.stages.models.photos import group
from tests.training.measured import measured_features, untrained_run
from tests.training.videos import recipe as video_recipe
from tests.training.videos import write_videos
from training.evaluation.drawing import Plan, held_out
from training.evaluation.recognise import Recogniser
from training.features import Features, Prepared, write_index
from training.method import AS_USUAL, Method
from training.recipes import tiny
from training.settings import DataSettings, MethodSettings, Scale

FRAMES, FPS, PEOPLE = 6, 8.0, 3
STEP_PX, HEIGHT_PX, WIDTH_PX = 2, 160, 160
EVERYBODY = DataSettings(heldout_share=0.999999)
RECIPE = replace(tiny(), data=EVERYBODY)


class AsPictures:
    """A codec whose latents are pictures."""

    def encode(self, pictures):
        return pictures

    def decode(self, latents):
        return latents


class VideoCopier(Method):
    """A generator that knows a video for every vector it has seen."""

    def __init__(self, prepared):
        super().__init__()
        self.recipe, self.features, self.codec = RECIPE, prepared.features, AsPictures()
        every = np.arange(len(prepared))
        self.vectors = prepared.read("identity", every)
        self.videos = prepared.read("latents", every).transpose(1, 2)
        self.asked = []

    def trainable(self):
        return {}

    def forward(self, batch):
        away = torch.cdist(batch["identity"], batch["target_identity"]).mean()
        return {"loss": away, "mse": away}

    def generate(self, condition, rng, sampling=AS_USUAL, *, callback=None):  # noqa: ARG002 - it knows them
        self.asked.append(condition)
        return self.videos[torch.cdist(condition.identity, self.vectors).argmin(dim=1)]

    def save(self, folder):
        raise NotImplementedError

    def read(self, folder):
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three people with two clips each, in which the camera pans evenly."""
    (faces,) = load_detector("dlib", "", 1280, 0.0, "cpu").detect([group()])
    embedder = load_embedder("dlib", "", "cpu")
    vectors = embedder.embed(embedder.align(group(), faces.landmarks_px))[:PEOPLE]
    clips = []
    for left, top, right, bottom in faces.boxes_px[:PEOPLE].astype(int):
        high, far = (top + bottom - HEIGHT_PX) // 2, (left + right - WIDTH_PX) // 2
        clips.append(np.stack([
            group()[high : high + HEIGHT_PX, far + step : far + step + WIDTH_PX]
            for step in range(0, FRAMES * STEP_PX, STEP_PX)
        ]))  # fmt: skip
    videos = torch.from_numpy(np.stack(clips + clips)).permute(0, 4, 1, 2, 3).float() / 255
    rows = 2 * PEOPLE
    folder = tmp_path_factory.mktemp("videos")
    (folder / "shards").mkdir()
    save_file({
        "latents": videos.half().contiguous(), "identity": torch.from_numpy(vectors).repeat(2, 1),
        "landmarks": torch.zeros(rows, FRAMES, 5, 2), "seen": torch.zeros(rows, FRAMES),
        "mask": torch.ones(rows, FRAMES, HEIGHT_PX, WIDTH_PX).half(),
        "text": torch.ones(rows, 4, 8), "attributes_text": torch.ones(rows, 4, 8),
        "reference_latents": torch.ones(rows, 3, 8, 8),
    }, folder / "shards/shard-00000.safetensors")  # fmt: skip
    write_index(folder, [
        {"id": f"{row:03d}", "person": f"who/{row % PEOPLE}", "caption": "a man walks",
         "shard": 0, "row": row}
        for row in range(rows)
    ])  # fmt: skip
    Features(corpus="x", image_px=160, codec="", latent_shape=(3, HEIGHT_PX, WIDTH_PX),
             text_shape=(4, 8), identity_dim=128, embedder=embedder_card().tag, backend="dlib",
             identity_mean=tuple(vectors.mean(0).tolist()), identity_std=(1.0,) * 128,
             frames=FRAMES, clip_frames=FRAMES, fps=FPS).write(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scored(folder, tmp_path_factory):
    prepared, place = Prepared(folder), tmp_path_factory.mktemp("evaluation")
    method = VideoCopier(prepared).eval()
    settings = EvaluateSettings(clip="random:tiny-clip", dino="random:tiny-dino")
    found = evaluate_videos(
        method, prepared, held_out(prepared, 0.999999, 200), Plan(steps=1),
        Recogniser(prepared.features, aligned=False),
        load_measures(prepared.features, settings, "cpu"), folder=place,
    )  # fmt: skip
    return found, place, method


def test_a_generator_that_knows_everybody_is_told_so(scored):
    scores = scored[0].scores
    assert scores["facesim"].value > 0.85
    assert scores["facesim"].n == PEOPLE
    assert scores["facesim_ceiling"].value == pytest.approx(1)
    assert scores["clip_i"].value > 0.9
    assert scores["loss_gain"].low > 0


def test_motion_is_that_of_the_camera_and_of_the_real_clips(scored):
    found = scored[0]
    expected = STEP_PX * FPS / np.hypot(HEIGHT_PX, WIDTH_PX)
    assert found.scores["motion"].value == pytest.approx(expected, rel=0.05)
    assert found.scores["motion_real"].value == pytest.approx(found.scores["motion"].value)
    assert found.scores["motion_smoothness"].value > 0.98


def test_every_score_is_there_or_absent_with_a_reason(scored):
    found = scored[0]
    assert set(found.scores) | set(found.absent) == set(VIDEO_WORDS)
    assert set(found.absent) == {"fid_published", "fid_inception", "fvd"}


def test_the_shown_videos_are_kept_as_they_were_drawn(scored, folder):
    _, place, _ = scored
    files = sorted((place / "videos").iterdir())
    assert [path.name for path in files] == [f"{n:02d}-who_{n}.mp4" for n in range(PEOPLE)]
    clips = Prepared(folder).read("latents", np.arange(PEOPLE)).permute(0, 2, 3, 4, 1) * 255
    for path, clip in zip(files, clips.numpy(), strict=True):
        with av.open(str(path)) as video:
            assert video.streams.video[0].average_rate == FPS
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) == FRAMES
        assert np.abs(np.stack(frames) - clip).mean() < 6


def test_who_is_asked_for_goes_with_what_was_prepared_of_reference_and_prompt(scored):
    asked = scored[2].asked[0]
    assert set(asked.more) == {"reference_latents", "attributes_text"}
    assert asked.text.shape[1:] == (4, 8)
    assert asked.landmarks is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ID-Animator as training leaves it, but for the training: it draws noise."""
    home = tmp_path_factory.mktemp("home")
    features = write_videos(home / "features", people=PEOPLE)
    shard = features / "shards/shard-00000.safetensors"
    held = load_file(shard)
    held["identity"] = torch.randn(2 * PEOPLE, 128, generator=torch.Generator().manual_seed(0))
    save_file(held, shard)
    measured = {"identity_dim": 128, "identity_mean": (0.0,) * 128, "identity_std": (1.0,) * 128}
    told = replace(Features.read(features), embedder=embedder_card().tag, **measured)
    told.write(features)
    kind, alone = MethodSettings(kind="id_animator"), Scale(threads=1)
    recipe = video_recipe(features, method=kind, scale=alone)
    return untrained_run(home / "trained/run", replace(recipe, data=EVERYBODY), features)


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.mark.slow
def test_a_run_on_videos_is_scored_shown_and_recorded_with_its_videos(run):
    from mlflow.tracking import MlflowClient

    console, settings = quiet(), EvaluateSettings(steps=1)
    done = evaluate(str(run), console, settings)
    assert set(done.about["scores"]) | set(done.about["absent"]) == set(VIDEO_WORDS)
    assert done.about["scores"]["face_share"]["value"] < 1  # it draws noise
    assert done.about["flow"].startswith("dis-medium@")
    assert (done.about["fps"], done.about["seeds"]) == (FPS, [0])
    assert VIDEO_WORDS["motion_smoothness"] in console.file.getvalue()
    assert "show no face that the detector sees" in console.file.getvalue().replace("\n", " ")
    assert Image.open(run / "contact.png").width > 500
    assert pq.read_table(done.folder / "people.parquet")["motion"].to_numpy().min() > 0
    kept = {f"videos/{n:02d}-p{n}.mp4" for n in range(PEOPLE)}
    assert {f"videos/{path.name}" for path in (done.folder / "videos").iterdir()} == kept
    client = MlflowClient(tracking_uri=f"sqlite:///{run.parent}/mlflow.db")
    (told,) = client.search_runs([client.get_experiment_by_name("evaluate").experiment_id])
    assert {f.path for f in client.list_artifacts(told.info.run_id, "videos")} == kept
    _, said = compare(str(run), str(run), quiet(), settings)  # scored before: found, not drawn
    assert said["differences"]["motion"]["mean"] == 0


def test_pictures_and_videos_are_not_compared(run, tmp_path):
    pictures = untrained_run(tmp_path / "r", picture_recipe(), measured_features(tmp_path / "f"))
    with pytest.raises(BadValue, match="one draws videos, the other pictures"):
        compare(str(run), str(pictures), quiet(), EvaluateSettings())


@pytest.mark.parametrize("flag", ["i3d", "flow"])
def test_what_measures_videos_is_refused_for_pictures(tmp_path, flag):
    run = untrained_run(tmp_path / "r", picture_recipe(), measured_features(tmp_path / "f"))
    settings = EvaluateSettings(**{flag: "file:weights.safetensors"})
    with pytest.raises(BadValue, match="measures videos, and this run draws pictures"):
        evaluate(str(run), quiet(), settings)


def test_videos_of_unknown_speed_are_refused(folder):
    features = replace(Features.read(folder), fps=0.0)
    with pytest.raises(BadValue, match="Prepare the videos again"):
        load_measures(features, EvaluateSettings(), "cpu")
