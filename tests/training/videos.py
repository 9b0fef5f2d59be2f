"""Prepared videos that tests make: people of coloured squares that move, each with a vector.

A person is a colour and a texture, a clip a path of the square over a background of its own. So
what is to be drawn follows from the identity, and where the face is from the clip.
"""

from dataclasses import replace

import torch
from safetensors.torch import save_file

from training.features import EMPTY_FILE, Features, write_index
from training.settings import BaseModelSettings, DropSettings, MethodSettings, TrainRecipe

DIM, WIDTH = 16, 32
MOVING, COGVIDEOX, WITH_PICTURE = (
    "random:tiny-animatediff", "random:tiny-cogvideox", "random:tiny-cogvideox-i2v",
)  # fmt: skip
TOKENS = {MOVING: 77, COGVIDEOX: 16, WITH_PICTURE: 16}
PER_LATENT_PX = {MOVING: 4, COGVIDEOX: 8, WITH_PICTURE: 8}
FACE_STATES = (3, 5, 24)
"""Layers, tokens and width of an image encoder's states of the reference face."""
FACE_POOLED, IMAGE = 12, (5, 24)
BASES = {
    MOVING: BaseModelSettings(weights=MOVING, beta_schedule="linear"),
    COGVIDEOX: BaseModelSettings(
        weights=COGVIDEOX, prediction="v_prediction", zero_snr=True, snr_shift=3.0
    ),
    WITH_PICTURE: BaseModelSettings(
        weights=WITH_PICTURE, prediction="v_prediction", zero_snr=True, snr_shift=1.0
    ),
}


def features(base=MOVING, *, frames=None, side=8, text=True, shapes=()):
    """Say what was prepared for a base: ``side`` latents square."""
    frames = frames or (4 if base == MOVING else 3)
    per_px = PER_LATENT_PX[base]
    return Features(
        corpus="c0ffee", image_px=side * per_px, codec=base, latent_shape=(4, side, side),
        text_shape=(TOKENS[base], WIDTH) if text else (0, 0), identity_dim=DIM,
        embedder="test@0", backend="dlib", identity_mean=(0.0,) * DIM, identity_std=(1.0,) * DIM,
        text_encoder=base if text else "", frames=frames, latent_shapes=shapes,
        clip_frames=frames if base == MOVING else 4 * (frames - 1) + 1, fps=8.0,
        image_shape=IMAGE, image_encoder="random:tiny-clip", face_states_shape=FACE_STATES,
        face_pooled_dim=FACE_POOLED, face_encoder="random:tiny-clip",
    )  # fmt: skip


def sample(person, clip, told, *, frames, side, text):
    """Return one sample's tensors, by name; the same for the same numbers."""
    rng = torch.Generator().manual_seed(1000 * person + clip)
    who = torch.Generator().manual_seed(person)
    vector, look = torch.randn(DIM, generator=who), torch.randn(4, 3, 3, generator=who)
    latents = 0.3 * torch.randn(4, 1, 1, 1, generator=rng).expand(4, frames, side, side).clone()
    mask = torch.zeros(frames, side, side)
    landmarks, per_px = torch.zeros(frames, 5, 2), told.image_px // side
    y, x = torch.randint(0, side - 3, (2,), generator=rng).tolist()
    step = 1 if x < (side - 3) // 2 else -1
    for frame in range(frames):
        at = min(max(x + step * frame, 0), side - 3)
        latents[:, frame, y : y + 3, at : at + 3] = look
        mask[frame, y : y + 3, at : at + 3] = 1
        middle = torch.tensor([at + 1.5, y + 1.5]) * per_px
        spread = torch.tensor([[-1.0, -1], [1, -1], [0, 0], [-1, 1], [1, 1]])
        landmarks[frame] = middle + spread * per_px * 0.7
    made = {
        "latents": latents.half(), "mask": mask.half(), "motion": mask.half(),
        "landmarks": landmarks, "seen": torch.ones(frames),
        "identity": vector + 0.02 * torch.randn(DIM, generator=rng),
        "reference_latents": torch.nn.functional.interpolate(look[None], (side, side))[0],
        "face_states": torch.randn(FACE_STATES, generator=who),
        "face_pooled": torch.randn(FACE_POOLED, generator=who),
        "image": torch.randn(IMAGE, generator=who),
    }  # fmt: skip
    if text:
        made["text"] = torch.randn(told.text_shape, generator=rng)
        made["attributes_text"] = torch.randn(told.text_shape, generator=who)
    return made


def write_videos(
    folder, base=MOVING, *, people=4, clips=2, frames=None, side=8, text=True, lacks=(),
    shapes=(),
):  # fmt: skip
    """Write features of some people's clips; the folder.

    Args:
        folder: Where.
        base: What they are prepared for.
        people: How many.
        clips: Of each.
        frames: Of latents.
        side: Of latents.
        text: Whether there is text.
        lacks: Names that were not prepared.
        shapes: With them, one bucket each (frames, side), to which samples go by turns.
    """
    (folder / "shards").mkdir(parents=True)
    buckets = [(4, count, wide, wide) for count, wide in shapes]
    told = features(base, frames=frames, side=side, text=text, shapes=tuple(buckets))
    if buckets:
        told = replace(told, frames=buckets[0][1])
    index, made, shaped = [], {}, {}
    for row in range(people * clips):
        person, clip = row % people, row // people
        bucket = clip % max(len(shapes), 1)
        count, wide = shapes[bucket] if shapes else (told.frames, side)
        one = sample(person, clip, told, frames=count, side=wide, text=text)
        place = len(shaped.get(f"latents.{bucket}", []))
        for name, tensor in one.items():
            if name in lacks:
                continue
            varies = name in ("latents", "mask", "motion", "landmarks", "seen")
            into, key = (shaped, f"{name}.{bucket}") if shapes and varies else (made, name)
            into.setdefault(key, []).append(tensor)
        index.append({"id": f"{row:04d}", "person": f"p{person}", "caption": "", "shard": 0,
                      "row": row, "bucket": bucket, "place": place})  # fmt: skip
    tensors = {name: torch.stack(held) for name, held in (made | shaped).items()}
    save_file(tensors, folder / "shards/shard-00000.safetensors")
    write_index(folder, index)
    rng = torch.Generator().manual_seed(7)
    if text:
        save_file({"text": torch.randn(told.text_shape, generator=rng)}, folder / EMPTY_FILE)
    told.write(folder)
    return folder


def recipe(folder, base=MOVING, **changes):
    """Return a recipe that trains on such features; a kind by ``method=MethodSettings(...)``."""
    how = {
        "method": MethodSettings(), "drop": DropSettings(identity=0.0, text=0.0, both=0.0),
        "steps": 4, "batch": 4, "microbatch": 4, "save_every": 4, "log_every": 1,
    }  # fmt: skip
    made = TrainRecipe(name="videos", base=BASES[base], **(how | changes))
    return replace(made, data=replace(made.data, path=str(folder), heldout_share=0.0))


def batch(base=MOVING, count=2, *, frames=None, side=8, seed=0, text=True):
    """Return a microbatch: of ``count`` people one clip each."""
    told = features(base, frames=frames, side=side, text=text)
    rows = [sample(n, 0, told, frames=told.frames, side=side, text=text) for n in range(count)]
    made = {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}
    rng = torch.Generator().manual_seed(seed)
    made["target_identity"] = made["identity"].clone()
    made["noise"] = torch.randn(made["latents"].shape, generator=rng)
    made["time"] = torch.rand(count, generator=rng)
    made["drop"] = torch.ones(count)
    return made | {"progress": torch.zeros(count)}
