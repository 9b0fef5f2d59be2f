"""Whatever a method of videos trains has the same losses on one worker and on two, at any stage."""

from dataclasses import dataclass, field, replace

import pytest

from tests.training.conftest import write_features
from tests.training.many import Workers, apart, train
from tests.training.videos import COGVIDEOX, MOVING, WIDTH, WITH_PICTURE, recipe, write_videos
from training.preferences import write_preferences
from training.settings import (
    DropSettings,
    LossSettings,
    MethodSettings,
    OptimiserSettings,
    Scale,
    VideoSettings,
)
from training.video.mining import Preference

KEPT = DropSettings(identity=0.0, text=0.0, both=0.0)
SOME = DropSettings(identity=0.2, text=0.1, both=0.1)


@dataclass(frozen=True)
class Case:
    """A kind of method, and what it is trained with."""

    base: str
    method: MethodSettings
    losses: LossSettings = field(default_factory=LossSettings)
    video: VideoSettings = field(default_factory=VideoSettings)
    drop: DropSettings = KEPT
    steps: int = 2
    batch: int = 4


CASES = {
    "magic_id": Case(
        COGVIDEOX, MethodSettings(kind="magic_id", lora_rank=4),
        LossSettings(dpo=1.0, ipo=1.0, dpo_beta=100.0),
    ),
    "id_animator": Case(MOVING, MethodSettings(kind="id_animator", tokens=3), drop=SOME),
    "consis_id": Case(
        WITH_PICTURE, MethodSettings(kind="consis_id", identity_norm="raw"),
        LossSettings(mse=0.0, masked=1.0),
        VideoSettings(mask_share=0.5, reference_noise=True, reference_dropout=0.5),
    ),
    "proteus_id": Case(
        COGVIDEOX, MethodSettings(kind="proteus_id"), LossSettings(motion=1.0),
        VideoSettings(trained="added"), SOME,
    ),
    "personal_video": Case(
        MOVING, MethodSettings(kind="personal_video", lora_rank=2),
        LossSettings(mse=0.0, reward=1.0, reward_steps=2, video_identity_frames=1),
        VideoSettings(frames=2), steps=1, batch=2,
    ),
}  # fmt: skip
SELDOM = {
    ("personal_video", 0), ("personal_video", 2), ("consis_id", 0), ("id_animator", 2),
    ("proteus_id", 0),
}  # fmt: skip
"""Only in the longest tests."""
EVERY = [
    pytest.param(kind, stage, marks=[pytest.mark.long] * ((kind, stage) in SELDOM))
    for kind in CASES
    for stage in (0, 2, 3)
]


def write(kind, folder):
    """Write features of one person's clips, with pairs where these are learnt, or photographs."""
    if kind == "personal_video":
        return write_features(
            folder, people=1, photos=4, shape=(4, 16, 16), dim=128, text=(77, WIDTH),
            codec="random:tiny-sd",
        )  # fmt: skip
    alone = kind == "magic_id"
    write_videos(folder, CASES[kind].base, people=1 if alone else 4, clips=8 if alone else 2)
    if alone:
        write_preferences(
            folder, [Preference(f"000{n}", f"000{n + 4}", f"000{n}", 1 + n % 2) for n in range(4)]
        )
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each kind's recipe, and what one worker makes of it."""
    home, held = tmp_path_factory.mktemp("alone"), {}

    def trained(kind):
        if kind not in held:
            case = CASES[kind]
            told = recipe(
                write(kind, home / f"features-{kind}"), case.base, method=case.method,
                losses=case.losses, video=case.video, drop=case.drop,
                optimiser=OptimiserSettings(learning_rate=1e-3), steps=case.steps,
                batch=case.batch, microbatch=case.batch // 2,
            )  # fmt: skip
            held[kind] = told, train(told, home / kind)
        return held[kind]

    return trained


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    workers = Workers(2, tmp_path_factory.mktemp("two"))
    yield workers
    workers.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage"), EVERY)
def test_two_workers_have_the_losses_of_one(alone, pair, tmp_path, kind, stage):
    told, one = alone(kind)
    many = replace(told, scale=Scale(workers=2, zero_stage=stage))
    first, second = pair.train(many, tmp_path / "many")
    assert len(one["losses"]) == told.steps
    assert first["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert apart(first["weights"], one["weights"]) < 1e-5
    assert apart(first["weights"], second["weights"]) == 0
    assert all(norm > 0 for norm in one["norms"])
