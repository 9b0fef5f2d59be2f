"""Features whose encoder is a real one, and runs on them, without the training."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from infra.configuration import to_yaml
from stages.models.dlib_faces import embedder_card
from tests.training.conftest import write_features
from training.build import make_method
from training.crops import aligned_landmarks_px
from training.features import Features, Prepared, write_index
from training.nets.codec import PatchCodec


def measured_features(home, *, aligned=True, captions=(), corpus="c0ffee", **shape):
    """Write features of noise that name dlib's encoder; landmarks say whether they are aligned."""
    codec = "file:codec.safetensors" if aligned else "random:tiny-sd"
    latents = (12, 8, 8) if aligned else (4, 16, 16)
    folder = write_features(home, dim=128, shape=latents, codec=codec, **shape)
    if aligned:
        patches = PatchCodec()
        patches.fit(torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        patches.save(folder / "codec.safetensors")
        for path in (folder / "shards").glob("*.safetensors"):
            held = load_file(path)
            where = torch.from_numpy(aligned_landmarks_px(64))
            held["landmarks"] = where.expand(len(held["identity"]), 5, 2).contiguous()
            save_file(held, path)
    if captions:
        rows = pq.read_table(folder / "index.parquet").sort_by("id").to_pylist()
        write_index(folder, [row | {"caption": captions[n % len(captions)]}
                             for n, row in enumerate(rows)])  # fmt: skip
    features = replace(Features.read(folder), embedder=embedder_card().tag, corpus=corpus)
    features.write(folder)
    return folder


def untrained_run(home, recipe, features, *, step=4):
    """Write a run as ``visage train`` leaves it, with the weights that it began with."""
    recipe = replace(recipe, data=replace(recipe.data, path=str(features)))
    checkpoint = home / f"step-{step:07d}"
    (checkpoint / "export").mkdir(parents=True)
    make_method(recipe, Prepared(features)).save(checkpoint / "export")
    (checkpoint / "done.json").write_text(json.dumps({"step": step}))
    (home / "recipe.yaml").write_text(to_yaml(recipe))
    return home
