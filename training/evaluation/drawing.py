"""Drawing people that training never saw: who they are, and their pictures, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from infra.configuration import digest
from infra.errors import BadValue
from stages.types import RGB
from training.features import Prepared
from training.method import Condition, Method, Sampling
from training.nets.codec import Codec, decoded

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and how much there is."""
Pictures = UInt8[np.ndarray, "people height width 3"]
_MOST_AT_ONCE = 50
_PIXELS_AT_ONCE = 2**21


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How held-out people are drawn; part of what makes two evaluations comparable."""

    people: int = 200
    """People, at most."""
    seeds: int = 4
    """Pictures of each person who is shown; scores but diversity are of the first seed's."""
    steps: int = 30
    """Calls of the network per picture."""
    guidance: float = 3.0
    """Weight of the condition."""

    def __post_init__(self) -> None:
        for name in ("people", "seeds", "steps"):
            if getattr(self, name) < 1:
                raise BadValue(name, getattr(self, name), "give 1 or more.")


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """People that training never saw: one reference photograph each, and a second if there is one.

    The reference is a person's first photograph by id, the second one the next. Who has a single
    photograph is only taken where nobody, or one alone, has two.
    """

    names: list[str]
    first: Int64[np.ndarray, " people"]
    second: Int64[np.ndarray, " people"] | None
    training: Int64[np.ndarray, " samples"]
    """What the model was trained on."""
    digest: str
    """Changes with anybody held out, and with anybody or any photograph chosen."""

    @property
    def target(self) -> Int64[np.ndarray, " people"]:
        """The photographs whose captions are the prompts: not the reference, if that can be."""
        return self.first if self.second is None else self.second


def held_out(prepared: Prepared, share: float, people: int) -> HeldOut:
    """Choose whom to draw: the same people for every run on one corpus and share.

    Raises:
        BadValue: Nobody is held out.
    """
    training, samples = prepared.split(share)
    if len(samples) == 0:
        raise BadValue("data.heldout_share", share, "no person is held out: train with more.")
    photos: dict[str, list[int]] = {}
    for sample in samples.tolist():
        photos.setdefault(prepared.people[sample], []).append(sample)
    two = {name: seen for name, seen in photos.items() if len(seen) > 1}
    chosen = sorted((two if len(two) > 1 else photos).items())[:people]
    first = np.array([seen[0] for _, seen in chosen], dtype=np.int64)
    second = np.array([seen[1] for _, seen in chosen], dtype=np.int64) if len(two) > 1 else None
    both = [prepared.ids[i] for i in [*first, *([] if second is None else second)]]
    return HeldOut(
        names=[name for name, _ in chosen],
        first=first,
        second=second,
        training=training,
        digest=digest(sorted(photos), both),
    )


def parts(count: int, image_px: int) -> Iterator[slice]:
    """Divide people into as many as are drawn at once: fewer where pictures are large."""
    size = max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // image_px**2))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def takes_text(method: Method, prepared: Prepared) -> bool:
    """Say whether people are also asked for in words."""
    return "text" in prepared.names and method.recipe.method.takes_text


def condition(
    method: Method,
    prepared: Prepared,
    references: Int64[np.ndarray, " people"],
    targets: Int64[np.ndarray, " people"],
) -> Condition:
    """Ask for the people of some photographs, in the words of others."""
    names = prepared.names if takes_text(method, prepared) else frozenset()
    return Condition(
        identity=prepared.read("identity", references),
        text=prepared.read("text", targets) if "text" in names else None,
        pooled=prepared.read("pooled", targets) if "pooled" in names else None,
        image=prepared.read("image", references) if "image" in prepared.names else None,
        # Of another shape of picture they would say nothing.
        landmarks=None if prepared.features.latent_shapes else prepared.read("landmarks", targets),
    )


def draw(
    method: Method,
    asked: Condition,
    plan: Plan,
    rng: torch.Generator,
    *,
    without_identity: bool = False,
) -> Pictures:
    """Draw what is asked for, or the same noise without anybody's identity."""
    sampling = Sampling(
        steps=plan.steps, guidance=plan.guidance, scale=0.0 if without_identity else 1.0
    )
    return pictures(method.generate(asked, rng, sampling))


class Photographs:
    """The prepared photographs as pictures again: what the codec keeps of them."""

    def __init__(self, prepared: Prepared, codec: Codec, device: str) -> None:
        self.prepared, self.codec, self.device = prepared, codec, device

    @torch.no_grad()
    def __call__(self, samples: Int64[np.ndarray, " people"]) -> list[RGB]:
        """Decode some; one by one, as shapes differ between aspect buckets."""
        seen: list[RGB] = []
        for sample in samples.tolist():
            latents = self.prepared.read("latents", np.array([sample])).to(self.device)
            seen += list(pictures(decoded(self.codec, latents)))
        return seen


def pictures(drawn: Float[torch.Tensor, "people 3 height width"]) -> Pictures:
    """Turn tensors of 0 to 1 into bytes."""
    bytes_ = (drawn.float().clamp(0, 1) * 255).round().byte()
    return np.asarray(bytes_.permute(0, 2, 3, 1).contiguous().cpu().numpy(), dtype=np.uint8)
