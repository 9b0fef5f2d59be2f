"""What methods on a base of videos share: conditions, steps, drawing, exports.

Shapes: B samples, C channels, T frames, H rows, W columns of latents; F frames of videos.
"""

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from infra.errors import BadValue
from training.exports import read_matching, read_tensors, save_tensors, write_export
from training.features import Features
from training.method import AS_USUAL, Batch, Callback, Condition, Method, Random, Sampling
from training.methods.faceid_conditions import dropped
from training.methods.video_conditions import Told, VideoConditions, stacked
from training.nets.codec import decoded
from training.nets.published import renamed
from training.nets.references import weights_version
from training.nets.video_base import is_transformer, text_width
from training.nets.video_codec import load_video_codec
from training.nets.video_presets import load_video_network
from training.noise import Noised, NoiseSchedule, check_base
from training.objective import Objective
from training.objectives.step import Ask, Drop, Gives
from training.sampler import Predict, draw, first_noise, latent_px
from training.settings import TrainRecipe
from training.video.latents import check_latents


class OnVideo(Method):
    """A base of videos that is told a person beside its prompt.

    A kind of method puts itself into ``network`` when it is made, tunes it (``nets.tuning``), and
    answers ``trainable``, ``_predict`` and ``strength``. It lists in ``takes`` what it is told
    beside ``identity`` and ``text``; see ``VideoConditions`` for what is dropped.

    Attributes:
        network: The base; see ``training.nets.video_base.ask``.
    """

    network: Any  # half of diffusers' methods have no types
    takes: ClassVar[tuple[str, ...]] = ()
    file: ClassVar[str] = "adapter.safetensors"
    """Of an export: where the weights are."""

    def __init__(self, recipe: TrainRecipe, features: Features, folder: Path) -> None:
        """Load the base and what surrounds it.

        Raises:
            BadInput: The features are of pictures, or not of this base.
        """
        super().__init__()
        if not features.frames:
            cure = f"{recipe.method.kind} learns videos; prepare a corpus of clips."
            raise BadValue("data.path", str(folder), cure)
        self.recipe, self.features = recipe, features
        check_base(recipe.base)
        self.schedule = NoiseSchedule(recipe.base)
        self.network = self._load()
        self._check_features()
        check_latents(features, recipe.base, folder)
        self.codec = load_video_codec(features.codec, folder, tiled=recipe.video.tiled)
        self.conditions = VideoConditions(
            recipe.method,
            features,
            folder,
            text_width=text_width(self.network),
            takes=self.takes,
        )
        self.objective = Objective(
            recipe.losses, self.schedule, self.codec, features, self._gives()
        )
        self._base = ""

    @abstractmethod
    def _predict(
        self, z_t: Float[Tensor, "B C T H W"], t: Int64[Tensor, " B"], told: Told
    ) -> Float[Tensor, "B C T H W"]:
        """Ask the network."""

    @abstractmethod
    def strength(self, scale: float) -> AbstractContextManager[None]:
        """Use this much of the method while the context lasts; 0: be the base, bit for bit."""

    def _load(self) -> Any:  # noqa: ANN401 - half untyped
        """Load the network, frozen or not."""
        return load_video_network(self.recipe.base).requires_grad_(False)

    def _gives(self) -> Gives:
        """Say what losses may look at."""
        return Gives(ask=True, base=True)

    def _names(self) -> dict[str, str]:
        """Return the published name of each trained weight."""
        return {name: name for name in self.trainable()}

    def _published(self, named: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Bring weights, which have their published names, into their published shapes."""
        return named

    def _adopted(self, published: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Undo ``_published``."""
        return published

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; see ``Batch`` for what is read."""
        noised = self.schedule.noised(batch["latents"], batch["noise"], batch["time"])
        no_identity, no_text = dropped(batch["drop"], self.recipe.drop)
        told = self.conditions.without(self.conditions.whole(batch), no_identity, no_text)
        pred = self._main(noised, told)
        shown: dict[str, Any] = {"prompted": ~no_text}
        if self.objective.needs("ask"):
            shown["ask"] = self._asking(batch, noised)
        losses: dict[str, Tensor] = self.objective(pred, noised, batch, ~no_identity, **shown)
        return losses

    def _main(self, noised: Noised, told: Told) -> Float[Tensor, "B C T H W"]:
        """Make the prediction that most losses look at."""
        return self._predict(noised.z_t, noised.t, told)

    def _asking(self, batch: Batch, noised: Noised) -> Ask:
        """Return what asks the network again; see ``Ask``."""

        def ask(
            *,
            z_t: Tensor | None = None,
            t: Tensor | None = None,
            drop: Drop = "nothing",
            control: float = 1.0,  # noqa: ARG001 - videos are shown nothing to control
            base: bool = False,
            changed: Batch | None = None,
        ) -> Tensor:
            z_t = noised.z_t if z_t is None else z_t
            t = noised.t if t is None else t
            all_of_them = torch.ones(len(z_t), dtype=torch.bool, device=z_t.device)
            no_identity = all_of_them if drop in ("identity", "both") else ~all_of_them
            no_text = all_of_them if drop in ("text", "both", "rest") else ~all_of_them
            whole = self.conditions.whole({**batch, **(changed or {})})
            told = self.conditions.without(whole, no_identity, no_text)
            if not base:
                return self._predict(z_t, t, told)
            with torch.no_grad(), self.strength(0.0):
                return self._predict(z_t, t, told)

        return ask

    @torch.no_grad()
    def generate(
        self,
        condition: Condition,
        rng: Random,
        sampling: Sampling = AS_USUAL,
        *,
        callback: Callback | None = None,
    ) -> Float[Tensor, "samples F 3 height width"]:
        """Draw one video per row of ``condition``; see ``Method.generate``.

        ``sampling.scale`` is of the whole method; 0 gives the base's own video.
        """
        if sampling.restore or sampling.rescale or sampling.adain_mean:
            cure = "restore, rescale and adain_mean are of pictures; leave them out."
            raise BadValue("sampling", sampling, cure)
        noise = self.first(condition, rng, sampling)
        with self.strength(sampling.scale):
            predict = self.predicts(condition, sampling)
            z_0 = draw(self.schedule, noise, predict, condition, sampling, callback)
        return self.frames(z_0)

    def first(
        self, condition: Condition, rng: Random, sampling: Sampling
    ) -> Float[Tensor, "B C T H W"]:
        """Return what a drawing begins as, on the network's device."""
        correlation = self.recipe.video.noise_correlation
        noise = first_noise(condition, rng, sampling, self.features, correlation)
        return noise.to(self._device, torch.float32)

    def predicts(self, condition: Condition, sampling: Sampling) -> Predict:  # noqa: ARG002 - of use to others
        """Return what a sampler asks; to be used under ``strength``."""
        of, device = self.conditions, self._device
        given = {name: getattr(condition, name) for name in ("identity", "text", "image")}
        given |= condition.more or {}
        someone = of.whole({n: v.to(device) for n, v in given.items() if v is not None})
        everybody = torch.ones(len(condition.identity), dtype=torch.bool, device=device)
        nobody = of.without(someone, everybody, ~everybody)
        nothing = of.without(someone, everybody, everybody)
        if condition.negative_text is not None:
            nothing["text"] = condition.negative_text.to(nothing["text"])

        def predict(z_t: Tensor, t: Tensor, counts: bool) -> tuple[Tensor, Tensor]:
            told = [nothing, someone if counts else nobody]
            many = torch.cat([z_t, z_t])
            pred = self._predict(many, t.expand(len(many)), reduce(stacked, told))
            without, given = pred.chunk(2)
            return without, given

        return predict

    @torch.no_grad()
    def frames(self, latents: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B F 3 height width"]:
        """Decode latents to frames, RGB in 0 to 1."""
        return decoded(self.codec, latents).transpose(1, 2)

    def save(self, folder: Path) -> None:
        """Write an export, weights by their published names."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.trainable()
        named = {theirs: weights[ours] for ours, theirs in self._names().items()}
        save_tensors(folder / self.file, self._published(named))
        self._save_more(folder)
        write_export(
            folder, self.recipe, self.features, self.codec, self.conditions.held, self.base
        )

    def _save_more(self, folder: Path) -> None:
        """Write what else an export holds."""

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Return the weights of an export; see ``Method.read``."""
        read_matching(folder, self.recipe, self.features, self.base)
        path = folder / self.file
        held = self._adopted(read_tensors(path))
        return renamed(held, self.trainable(), self._names(), path)

    def adapter_off(self) -> AbstractContextManager[None]:
        """Be the base model while the context lasts."""
        return self.strength(0.0)

    @property
    def base(self) -> str:
        """Which weights the base has; read once, for it may be gigabytes."""
        if not self._base:
            settings = self.recipe.base
            parts = ("unet", "transformer", "motion_adapter")
            versions = [weights_version(settings.weights, parts)]
            versions += [weights_version(settings.motion, ())] if settings.motion else []
            self._base = "+".join(versions)
        return self._base

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    def _sides_px(self, z_t: Float[Tensor, "B C T H W"]) -> tuple[int, int]:
        """Return height and width of the frames of some latents."""
        each_px = latent_px(self.features)
        return z_t.shape[3] * each_px, z_t.shape[4] * each_px

    def _check_features(self) -> None:
        config, features, weights = self.network.config, self.features, self.recipe.base.weights
        channels, width = features.latent_shape[0], features.text_shape[1]
        takes = config.out_channels if is_transformer(self.network) else config.in_channels
        if channels != takes or width not in (0, text_width(self.network)):
            raise BadValue(
                "base.weights",
                weights,
                f"it takes {takes} channels and text of width {text_width(self.network)}, and the "
                f"features have {channels} and {width}; prepare them with this base's codec and "
                "text encoder.",
            )
        if not is_transformer(self.network) and features.frames > config.motion_max_seq_length:
            raise BadValue(
                "base.weights",
                weights,
                f"its motion modules know {config.motion_max_seq_length} frames, and the features "
                f"have {features.frames}; prepare shorter clips.",
            )
