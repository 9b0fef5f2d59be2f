"""Workers that share the tokens of a sample predict and learn what one worker does."""

import multiprocessing
import os
import traceback
from dataclasses import replace

import pytest
import torch

from infra.errors import BadValue
from tests.training.many import Workers, apart, train
from tests.training.videos import COGVIDEOX, MOVING, WITH_PICTURE, recipe, write_videos
from training.nets.video_base import ask
from training.nets.video_presets import load_video_network
from training.settings import LossSettings, MethodSettings, OptimiserSettings, Scale
from training.video.settings import VideoSettings

WORLD, TIMEOUT_S = 2, 120
KIND = MethodSettings(kind="consis_id", identity_norm="raw")


def asked(network, *, learning):
    """Predict for 15 tokens of text and 27 of video, no multiples of 2; and the gradients."""
    rng = torch.Generator().manual_seed(0)
    z_t, text = torch.randn(2, 4, 3, 6, 6, generator=rng), torch.randn(2, 15, 32, generator=rng)
    if learning:
        network.enable_gradient_checkpointing()
    pred = ask(network, z_t, torch.tensor([600, 3]), text)
    pred.square().mean().backward()
    return pred.detach(), {name: weight.grad for name, weight in network.named_parameters()}


def compare(rank, meeting, pipe):
    """Compare a divided network with a whole one, as one of the workers; say what is wrong."""
    import torch.distributed as dist

    from tests.training.videos import BASES
    from training.nets.sequence import divide

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD))
    try:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=WORLD)
        for learning in (False, True):
            whole, gradients = asked(load_video_network(BASES[COGVIDEOX]), learning=learning)
            network = load_video_network(BASES[COGVIDEOX])
            names = list(network.state_dict())
            divide(network, dist.group.WORLD)
            assert list(network.state_dict()) == names
            shared, own = asked(network, learning=learning)
            torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)
            for name, gradient in own.items():
                dist.all_reduce(gradient)
                mean = gradient / WORLD
                torch.testing.assert_close(mean, gradients[name], atol=1e-6, rtol=1e-3, msg=name)
        with pytest.raises(BadValue, match="CogVideoX and ConsisID alone"):
            divide(load_video_network(BASES[MOVING]), dist.group.WORLD)
        pipe.send("")
    except BaseException:
        pipe.send(traceback.format_exc())


@pytest.mark.slow
def test_shared_tokens_predict_and_teach_what_all_tokens_do_whatever_their_number(tmp_path):
    spawn, answers = multiprocessing.get_context("spawn"), []
    processes, pipes = [], []
    for rank in range(WORLD):
        here, there = spawn.Pipe()
        given = (rank, f"file://{tmp_path}/meeting", there)
        processes.append(spawn.Process(target=compare, args=given, daemon=True))
        processes[-1].start()
        pipes.append(here)
    try:
        for pipe in pipes:
            assert pipe.poll(TIMEOUT_S), "a worker does not answer"
            answers.append(pipe.recv())
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert answers == ["", ""], "\n".join(answers)


@pytest.mark.slow
def test_workers_that_share_tokens_have_the_losses_of_one(tmp_path):
    folder = write_videos(tmp_path / "features", WITH_PICTURE)
    how = recipe(
        folder, WITH_PICTURE, method=KIND, steps=2, microbatch=2,
        losses=LossSettings(mse=0.0, masked=1.0), video=VideoSettings(mask_share=0.5),
        optimiser=OptimiserSettings(learning_rate=1e-3),
    )  # fmt: skip
    one, workers = train(how, tmp_path / "one"), Workers(WORLD, tmp_path)
    try:
        for stage, checkpointed in ((0, True), (3, True)):
            scale = Scale(
                workers=WORLD, sequence=WORLD, zero_stage=stage, gradient_checkpointing=checkpointed
            )
            first, second = workers.train(replace(how, scale=scale), tmp_path / f"stage-{stage}")
            assert first["losses"] == pytest.approx(one["losses"], abs=1e-5)
            assert first["norms"] == pytest.approx(one["norms"], rel=1e-4)
            assert apart(first["weights"], one["weights"]) < 1e-6
            assert apart(first["weights"], second["weights"]) == 0
    finally:
        workers.close()


def test_what_cannot_be_shared_is_refused_by_name(tmp_path):
    with pytest.raises(BadValue, match=r"scale\.sequence .*divisor of scale\.workers \(4\)"):
        Scale(workers=4, sequence=3)
    # Four workers, two by two, have two samples at once.
    how = recipe(tmp_path, WITH_PICTURE, batch=2, microbatch=1)
    replace(how, scale=Scale(workers=4, sequence=2))
    with pytest.raises(BadValue, match=r"scale\.workers by scale\.sequence \(2\)"):
        replace(how, batch=3, scale=Scale(workers=4, sequence=2))
