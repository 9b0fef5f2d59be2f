"""What an identity adapter's network is told beside the latents, and what stands for nothing.

Shapes: B samples; F reference faces of V values each; D identity; T text tokens of width E, P
numbers of pooled text; drawings of height x width in px.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from infra.errors import BadValue, UnreadableSource
from training.exports import read_empty
from training.features import Features
from training.nets.identity_tokens import normalised
from training.settings import DropSettings, MethodSettings


@dataclass(frozen=True)
class Given:
    """What the network is told beside the latents."""

    faces: Float[Tensor, "B F V"]
    """Normalised identity, and the image's states after it where the variant looks at these."""
    text: Float[Tensor, "B T E"]
    pooled: Float[Tensor, "B P"]
    """P is 0 where the base takes no pooled text."""
    drawing: Float[Tensor, "B 3 height width"] | None = None
    """Of landmarks, where the method is shown them; it is never left out."""


def dropped(
    draw: Float[Tensor, " B"], shares: DropSettings
) -> tuple[Bool[Tensor, " B"], Bool[Tensor, " B"]]:
    """Say which samples go without identity, and which without text.

    Args:
        draw: Uniform in 0 to 1.
        shares: 0 to 1 is divided in their order: identity, text, both; the rest keeps all.
    """
    identity, text = shares.identity, shares.identity + shares.text
    both = (draw >= text) & (draw < text + shares.both)
    return (draw < identity) | both, ((draw >= identity) & (draw < text)) | both


def joined(one: Given, other: Given) -> Given:
    """Put samples after one another."""
    drawings = [given.drawing for given in (one, other) if given.drawing is not None]
    return Given(
        torch.cat([one.faces, other.faces]),
        torch.cat([one.text, other.text]),
        torch.cat([one.pooled, other.pooled]),
        torch.cat(drawings) if drawings else None,
    )


class FaceIDConditions(nn.Module):
    """Bring conditions together, and leave some of them out.

    A dropped identity is a vector of zeros after normalisation; with ``plus`` the image is then
    the encoder's of an empty picture where that was prepared, or zeros. Dropped text is the
    encoder's of the empty prompt; features without text are used as if all text were zeros.
    """

    empty_text: Tensor
    empty_pooled: Tensor
    empty_image: Tensor

    def __init__(
        self,
        method: MethodSettings,
        features: Features,
        folder: Path,
        *,
        text_width: int,
        pooled_dim: int,
    ) -> None:
        """Read what stands for nothing from the folder of the features, or of an export.

        Raises:
            UnreadableSource: There is text, and not the empty prompt's.
        """
        super().__init__()
        self.method, self.features = method, features
        self.looks = method.takes_image
        """Whether the image encoder's states are given beside each vector."""
        tokens, held = features.text_shape[0], read_empty(folder)
        if tokens and not {"text", *(["pooled"] if features.pooled_dim else [])} <= held.keys():
            raise UnreadableSource(
                str(folder), "it has text, and not the empty prompt's", "Prepare the corpus again."
            )
        image = features.image_shape if self.looks else (0, 0)
        zeros = {
            "text": torch.zeros(max(tokens, 1), text_width),
            "pooled": torch.zeros(pooled_dim),
            "image": torch.zeros(image),
        }
        used = {name for name, nothing in zeros.items() if nothing.numel()}
        self.held = {name: tensor for name, tensor in held.items() if name in used}
        """What was prepared of it, and is of use here."""
        for name, nothing in zeros.items():
            self.register_buffer(f"empty_{name}", self.held.get(name, nothing), persistent=False)

    def whole(
        self,
        identity: Float[Tensor, "B *F D"],
        *,
        image: Tensor | None,
        text: Tensor | None,
        pooled: Tensor | None,
    ) -> Given:
        """Bring conditions together; no text is the empty prompt.

        Raises:
            BadValue: There is text for a model without, or no image for one that looks at it.
        """
        count = len(identity)
        faces = normalised(identity, self.method.identity_norm, self.features)
        faces = faces if faces.ndim == 3 else faces[:, None]
        if self.looks:
            if image is None:
                raise BadValue("condition.image", None, "it looks at the reference faces too.")
            states = image.to(faces).reshape(*faces.shape[:2], -1)
            faces = torch.cat([faces, states], dim=2)
        if text is not None and not self.features.text_shape[0]:
            raise BadValue("condition.text", "a prompt", "this model was trained without text.")
        if text is None:
            text = self.empty_text.expand(count, -1, -1)
        if pooled is None or not self.empty_pooled.numel():
            pooled = self.empty_pooled.expand(count, -1)
        return Given(faces, text.to(identity), pooled.to(identity))

    def without(
        self, given: Given, no_identity: Bool[Tensor, " B"], no_text: Bool[Tensor, " B"]
    ) -> Given:
        """Leave identity out of some samples, and text out of some."""
        faces, text, pooled = given.faces, given.text, given.pooled
        image = self.empty_image.flatten().to(faces)
        nobody = torch.cat([faces.new_zeros(self.features.identity_dim), image])
        return replace(
            given,
            faces=torch.where(no_identity[:, None, None], nobody, faces),
            text=torch.where(no_text[:, None, None], self.empty_text.to(text), text),
            pooled=torch.where(no_text[:, None], self.empty_pooled.to(pooled), pooled),
        )
