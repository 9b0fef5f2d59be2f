"""Do pictures follow their prompt and look like photographs? CLIP-T, CLIP-I, DINO, Fréchet."""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int64, UInt8

from training.evaluation.drawing import HeldOut, Photographs, parts
from training.evaluation.findings import Evaluation
from training.evaluation.metrics import Score, cosines
from training.evaluation.scorers import FID_SOUND, Scorer, frechet
from training.features import Prepared

Views = dict[str, Float[np.ndarray, "people dim"]]
"""Vectors of whole pictures by the kind of their encoder."""
Eye = Callable[[UInt8[np.ndarray, "pictures height width 3"]], Float[np.ndarray, "pictures dim"]]
"""Turns pictures of one size into vectors, as ``Scorer.pictures`` and ``Inception`` do."""
_FID_RESAMPLES = 50


def fidelity(
    found: Evaluation,
    prepared: Prepared,
    people: HeldOut,
    photographs: Photographs,
    scorers: Mapping[str, Scorer],
    drawn: Views,
    *,
    worded: bool,
    inception: Eye | None = None,
) -> None:
    """Add the scores of whole pictures to what was found.

    CLIP-I and DINO compare a drawn picture with the reference photograph, CLIP-T with the prompt;
    the Fréchet distance is between all drawn pictures and the photographs of the same people. With
    vectors of Inception that is FID, ``fid``, which needs more pictures than their 2,048 numbers.

    Args:
        found: Gets the scores.
        prepared: What the photographs are of.
        people: Who was drawn.
        photographs: Theirs.
        scorers: Encoders by kind.
        drawn: What these, and Inception, see in the drawn pictures.
        worded: Whether people were also asked for in words.
        inception: Inception-v3, if there is one.
    """
    image_px = prepared.features.image_px
    for kind, names in (("clip", ("clip_i", "clip_t", "fid_clip")), ("dino", ("dino", "fid_dino"))):
        if kind not in scorers:
            found.absent |= dict.fromkeys(names, f"no --{kind} was given")
            continue
        real = _views(photographs, people.first, scorers[kind].pictures, image_px)
        alike = cosines(drawn[kind], real)
        found.mean(names[0], alike)
        _frechet(found, f"fid_{kind}", drawn[kind], real)
    if inception is None:
        found.absent["fid"] = "no --inception was given"
    else:
        real = _views(photographs, people.first, inception, image_px)
        _frechet(found, "fid", drawn["inception"], real)
    if "clip" in scorers and not worded:
        found.absent["clip_t"] = "nothing was asked for in words"
    elif "clip" in scorers:
        _follow_prompts(found, prepared, people, scorers["clip"], drawn["clip"])


def _views(
    photographs: Photographs,
    samples: Int64[np.ndarray, " people"],
    eye: Eye,
    image_px: int,
) -> Float[np.ndarray, "people dim"]:
    """Embed photographs, a few at a time; of several aspect buckets one by one."""
    views = []
    for part in parts(len(samples), image_px):
        some = photographs(samples[part])
        alike = len({picture.shape for picture in some}) == 1
        views += [
            eye(each)
            for each in ([np.stack(some)] if alike else [picture[None] for picture in some])
        ]
    return np.concatenate(views)


def _follow_prompts(
    found: Evaluation,
    prepared: Prepared,
    people: HeldOut,
    clip: Scorer,
    drawn: Float[np.ndarray, "people dim"],
) -> None:
    captions = captions_of(prepared, people.target)
    words, cut = clip.prompts(captions)
    said = np.array([caption != "" for caption in captions])
    found.mean("clip_t", np.where(said, cosines(drawn, words), np.nan), "every caption is empty")
    if cut:
        found.notes.append(f"CLIP-T: {cut} of {len(captions)} prompts are longer than CLIP reads.")


def captions_of(prepared: Prepared, samples: Int64[np.ndarray, " people"]) -> list[str]:
    """Return the captions of some samples."""
    index = pq.read_table(prepared.folder / "index.parquet", columns=["id", "caption"])
    every = index.sort_by("id")["caption"].to_pylist()
    return [every[sample] or "" for sample in samples]


def _frechet(
    found: Evaluation,
    name: str,
    drawn: Float[np.ndarray, "people dim"],
    real: Float[np.ndarray, "people dim"],
) -> None:
    """Add a Fréchet distance, with its number of pictures, if there are enough for one.

    Sets that are drawn again repeat pictures, which raises the distance; so only the spread of
    these is used, around the value itself.
    """
    count, dim = drawn.shape
    if count <= dim:
        found.absent[name] = f"{count} pictures cannot fill the {dim} dimensions of the encoder"
        return
    rng, again = np.random.default_rng(0), []
    for _ in range(_FID_RESAMPLES):
        who = rng.integers(count, size=count)
        again.append(frechet(drawn[who], real[who]))
    value, reach = frechet(drawn, real), 1.96 * float(np.std(again, ddof=1))
    found.scores[name] = Score(value, max(value - reach, 0.0), value + reach, count)
    if count < FID_SOUND:
        found.notes.append(
            f"{name}: of {count} pictures; below {FID_SOUND} it is mostly bias. Compare it only "
            "with one of equally many."
        )
