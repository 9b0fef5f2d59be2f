"""Features as ``visage prepare`` writes them, made of noise, for models that only have to run."""

import pytest
import torch
from safetensors.torch import save_file

from training.features import EMPTY_FILE, Features, write_index
from training.nets.codec import PatchCodec


def write_features(
    folder, *, people=6, photos=4, shape=(4, 8, 8), dim=8, text=(0, 0), codec="",
    pooled=0, image=(0, 0), shapes=(),
):  # fmt: skip
    """Write features of some people, each with an identity and latents that follow from it.

    With ``shapes`` there are as many aspect buckets, and samples go to them by turns.
    """
    rng = torch.Generator().manual_seed(0)
    (folder / "shards").mkdir(parents=True)
    who = torch.randn(people, dim, generator=rng)
    look = torch.randn(people, *shape, generator=rng)
    index, rows = [], people * photos
    for number in range(2):
        picked = list(range(number, rows, 2))
        persons = [row % people for row in picked]
        tensors = {
            "latents": (
                look[persons] + 0.3 * torch.randn(len(picked), *shape, generator=rng)
            ).half(),
            "identity": who[persons] + 0.05 * torch.randn(len(picked), dim, generator=rng),
            "landmarks": torch.rand(len(picked), 5, 2, generator=rng) * 64,
            "mask": torch.ones(len(picked), *shape[1:]).half(),
        }
        if text[0]:
            tensors["text"] = torch.randn(len(picked), *text, generator=rng)
        if pooled:
            tensors["pooled"] = torch.randn(len(picked), pooled, generator=rng)
            tensors["size"] = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * len(picked))
        if image[0]:
            tensors["image"] = torch.randn(len(picked), *image, generator=rng)
        buckets = [row // 2 % max(len(shapes), 1) for row in picked]
        for bucket, one in enumerate(shapes):
            count = buckets.count(bucket)
            tensors[f"latents.{bucket}"] = torch.randn(count, *one, generator=rng).half()
            tensors[f"mask.{bucket}"] = torch.ones(count, *one[1:]).half()
        if shapes:
            del tensors["latents"], tensors["mask"]
        save_file(tensors, folder / f"shards/shard-{number:05d}.safetensors")
        for at, row in enumerate(picked):
            place = {"shard": number, "row": at, "bucket": buckets[at],
                     "place": buckets[:at].count(buckets[at])}  # fmt: skip
            index.append({"id": f"{row:04d}", "person": f"p{row % people}", "caption": ""} | place)
    write_index(folder, index)
    if text[0]:
        empty = {"text": torch.randn(*text, generator=rng)}
        empty |= {"pooled": torch.randn(pooled, generator=rng)} if pooled else {}
        save_file(empty, folder / EMPTY_FILE)
    Features(
        corpus="c0ffee", image_px=64, codec=codec, latent_shape=shapes[0] if shapes else shape,
        text_shape=text, identity_dim=dim, embedder="test@0", backend="dlib",
        identity_mean=(0.0,) * dim, identity_std=(1.0,) * dim, pooled_dim=pooled,
        text_encoder="random:tiny-sd" if text[0] else "", image_shape=image,
        image_encoder="random:tiny-clip" if image[0] else "", latent_shapes=shapes,
    ).write(folder)  # fmt: skip
    return folder


def noise_features(home, **more):
    """Write features of noise with a patch codec, as ``lfw64`` wants them."""
    codec = "file:codec.safetensors"
    folder = write_features(home / "features", shape=(12, 8, 8), codec=codec, **more)
    codec = PatchCodec()
    codec.fit(torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    codec.save(folder / "codec.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    """Let tests share a machine, and leave no number of threads behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def features(tmp_path):
    """A small folder of features."""
    return noise_features(tmp_path)
