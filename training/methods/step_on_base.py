"""One training step of an adapter on a base, and all that a loss may see of it.

Shapes: B samples, C channels, H rows, W columns of latents; N pixels of a layer; E width of text.
"""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.method import Batch, Condition, Method
from training.methods.faceid_conditions import FaceIDConditions, Given, dropped
from training.nets.attention_maps import Told, Watched, as_picture, cross_attention, watched
from training.noise import Noised, NoiseSchedule
from training.objective import Objective
from training.objectives.step import Ask, Drop, Gives


class StepOnBase(Method):
    """The forward of an adapter on a frozen base.

    What costs more than the prediction (asking again, looking at attention) is done only if a loss
    of weight above 0 needs it.
    """

    unet: Any  # half of diffusers' methods have no types
    schedule: NoiseSchedule
    conditions: FaceIDConditions
    objective: Objective

    @abstractmethod
    def _predict(
        self,
        z_t: Float[Tensor, "B C H W"],
        t: Int64[Tensor, " B"],
        given: Given,
        size: Float[Tensor, "B 6"] | None,
        control: float = 1.0,
    ) -> Float[Tensor, "B C H W"]:
        """Ask the network; ``control`` is ``Sampling.control`` times the scale."""

    @abstractmethod
    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the adapter while the context lasts; 0: be the base."""

    @abstractmethod
    def _given(self, condition: Condition, height_px: int, width_px: int) -> Given:
        """Bring together what the network is told."""

    @abstractmethod
    def _sides_px(self, z_t: Float[Tensor, "B C H W"]) -> tuple[int, int]:
        """Return height and width of the pictures of some latents."""

    def _gives(self) -> Gives:
        """Say what losses may look at; this is of adapters with decoupled attention.

        A method that answers ``_embed`` or ``_rest`` adds the width of what it returns.
        """
        more = self.features.text_shape[0] > 0
        return Gives(ask=True, base=True, more=more, attention=True, residuals=True)

    def _attended(self, told: Told, given: Given) -> Float[Tensor, "B N objects"]:  # noqa: ARG002 - of use to others
        """Say how much of a layer's attention each object has: here the person, by all tokens."""
        return told.of_identity().sum(dim=-1, keepdim=True)

    def _regions(self, batch: Batch, given: Given) -> Float[Tensor, "B objects H W"] | None:  # noqa: ARG002 - of use to others
        """Say where each object of ``_attended`` is, as ``mask``; None: all are the face."""
        return None

    def _residual(
        self, told: Told
    ) -> tuple[Float[Tensor, "B N width"], Float[Tensor, "B N width"]]:
        """Return what the adapter adds to a layer's stream, and the stream."""
        assert told.stream is not None
        return told.added(), told.stream

    def _embed(self, given: Given) -> Float[Tensor, "B tokens E"]:
        """Make identity tokens, as the network is told them."""
        raise NotImplementedError

    def _rest(self, given: Given) -> Float[Tensor, "B tokens E"]:
        """Make the tokens of what is not the person."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        no_identity, no_text = dropped(batch["drop"], self.recipe.drop)
        given = self.conditions.without(self._told(batch), no_identity, no_text)
        with watched(self.unet, self._layers()) as seen:
            pred = self._predict(noised.z_t, noised.t, given, batch.get("size"))
        shown = {"prompted": ~no_text} | self._shown(batch, noised, given, seen)
        losses: dict[str, Tensor] = self.objective(pred, noised, batch, ~no_identity, **shown)
        return losses

    def _told(self, batch: Batch) -> Given:
        """Bring together what a batch says, for everybody."""
        condition = Condition(
            batch["identity"],
            text=batch.get("text"),
            pooled=batch.get("pooled"),
            image=batch.get("image"),
            landmarks=batch["landmarks"],
        )
        return self._given(condition, *self._sides_px(batch["latents"]))

    def _layers(self) -> list[str]:
        """Name the layers that are to be watched."""
        looked_at = [need for need in ("attention", "residuals") if self.objective.needs(need)]
        if looked_at and self.recipe.scale.compile:
            raise BadValue(
                "scale.compile", True, f"a loss looks at {looked_at[0]} inside; set it to false."
            )
        return cross_attention(self.unet, coarse=looked_at == ["attention"]) if looked_at else []

    def _shown(self, batch: Batch, noised: Noised, given: Given, seen: Watched) -> dict[str, Any]:
        """Return those fields of ``Step`` that a loss of weight above 0 needs."""
        needs, shown = self.objective.needs, dict[str, Any]()
        if needs("ask"):
            shown["ask"] = self._asking(batch, noised)
        if needs("attention"):
            rows, columns = noised.z_t.shape[2:]
            shown["attention"] = {
                name: as_picture(self._attended(seen.told[name], given), rows, columns)
                for name in cross_attention(self.unet, coarse=True)
            }
            shown["regions"] = self._regions(batch, given)
        if needs("residuals"):
            shown["residuals"] = {name: self._residual(told) for name, told in seen.told.items()}
        if needs("embed"):
            shown["embed"] = lambda other: self._embed(self._told(other))
        if self.objective.tools.gives.rest:
            shown["rest"] = self._rest(given)
        return shown

    def _asking(self, batch: Batch, noised: Noised) -> Ask:
        """Return what asks the network again; see ``Ask``."""

        def ask(
            *,
            z_t: Tensor | None = None,
            t: Tensor | None = None,
            drop: Drop = "nothing",
            control: float = 1.0,
            base: bool = False,
            changed: Batch | None = None,
        ) -> Tensor:
            z_t = noised.z_t if z_t is None else z_t
            t = noised.t if t is None else t
            all_of_them = torch.ones(len(z_t), dtype=torch.bool, device=z_t.device)
            no_identity = all_of_them if drop in ("identity", "both") else ~all_of_them
            no_text = all_of_them if drop in ("text", "both", "rest") else ~all_of_them
            given = self.conditions.without(
                self._told({**batch, **(changed or {})}), no_identity, no_text
            )
            size, control = batch.get("size"), 0.0 if drop == "rest" else control
            if not base:
                return self._predict(z_t, t, given, size, control)
            with torch.no_grad(), self.strength(0.0):
                return self._predict(z_t, t, given, size, 0.0)

        return ask
