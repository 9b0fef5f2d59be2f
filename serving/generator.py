"""Drawing on one device: networks that stay, weights that are swapped, requests drawn together.

Models that were trained on one base with one method differ only in what was trained. So a network
is built once, and switching to another model points its parameters at other tensors: nothing is
copied, nothing compiled again.
"""

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from infra.errors import BadValue
from serving.network import Network
from serving.recipes import ImageSettings
from serving.types import RGB, Draw, ModelInfo, Preview, Reference
from serving.weights import Held, Model
from training.method import Sampling

_DEVICES: dict[str, threading.Lock] = {}


@dataclass(frozen=True)
class Loaded:
    """A model that can be drawn with at once."""

    model: Model
    network: Network
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request, what it is drawn with, and who wants to watch."""

    ask: Draw
    loaded: Loaded
    preview: Callable[[Preview], object] | None = None


class Generator:
    """Draws, one batch at a time, whatever models requests name.

    Only ``draw`` must not be called twice at once; everything else may be, from any thread.
    """

    def __init__(self, settings: ImageSettings, model: Model) -> None:
        """Load the model that is drawn with by default, and warm up.

        Raises:
            BadInput: The device is not there, or its export cannot be read.
        """
        if settings.device.startswith("cuda") and not torch.cuda.is_available():
            raise BadValue("images.device", settings.device, "this machine has no GPU; give cpu.")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self._device = _DEVICES.setdefault(settings.device, threading.Lock())
        self._loading, self._probing = threading.Lock(), threading.Lock()
        self._held: Held[Loaded] = Held(settings.adapters_held)
        self._networks: WeakValueDictionary[str, Network] = WeakValueDictionary()
        self.pin(model)

    def pin(self, model: Model) -> None:
        """Load the model that is drawn with by default.

        Its network stays, however many other weights come and go.

        Raises:
            BadWeights: As ``load``.
        """
        self._pinned = self.load(model).network

    def held(self, model: Model) -> Loaded | None:
        """Return a model if it is on the device."""
        return self._held.get(model.key)

    def load(self, model: Model) -> Loaded:
        """Bring a model onto the device, unless it is there; may take as long as a compilation.

        Raises:
            BadWeights: A file was changed since its hash was taken, or is no model.
        """
        with self._loading:
            loaded = self._held.get(model.key)
            if loaded is None:
                model.check()
                loaded = self._fresh(model)
                self._held.put(model.key, loaded)
            return loaded

    def info(self, loaded: Loaded) -> ModelInfo:
        """Say what a model can draw."""
        model, features = loaded.model, loaded.model.features
        return ModelInfo(
            model=model.name,
            kind=model.recipe.method.kind,
            takes_text=model.takes_text,
            looks_at_face=model.recipe.method.takes_image,
            takes_identity=model.takes_identity,
            embedder=features.embedder,
            backend="insightface" if features.backend == "insightface" else "dlib",
            sides_px=loaded.network.sides_px,
            multiple_px=loaded.network.multiple_px,
            fixed_size=model.fixed_size,
            labels=model.labels,
        )

    def alike(self, ask: Draw, loaded: Loaded) -> Hashable:
        """Return what two requests must have in common to be drawn together."""
        edit = ask.edit.strength if ask.edit else None
        return (
            loaded.model.key, ask.width_px, ask.height_px, ask.steps, ask.guidance,
            ask.identity_scale, ask.start_step, ask.reference is None, edit,
        )  # fmt: skip

    def draw(
        self, orders: Sequence[Order], gone: Callable[[], bool] = lambda: False
    ) -> list[tuple[RGB, ...]]:
        """Draw like requests together.

        Args:
            orders: Of one ``alike``.
            gone: Asked after every step; when it says True, nobody wants the pictures any more.

        Returns:
            The pictures of each order. A picture is the same in any company.

        Raises:
            Stopped: ``gone`` said so.
        """
        ask, loaded = orders[0].ask, orders[0].loaded
        asks = [order.ask for order in orders]
        with self._device, torch.inference_mode():
            loaded.network.mount(loaded.model, loaded.weights)
            pictures = loaded.network.draw(
                asks, _sampling(ask), _watch(orders, ask, loaded.network, gone)
            )
        starts = [sum(ask.pictures for ask in asks[:i]) for i in range(len(asks))]
        return [
            tuple(pictures[start : start + ask.pictures])
            for start, ask in zip(starts, asks, strict=True)
        ]

    def answers(self, deadline_s: float) -> bool:
        """Say whether the device gets a small product right in time, also while it draws.

        A thread that a dead device holds is left behind, one at most: it cannot be ended.
        """
        if not self._probing.acquire(timeout=deadline_s):
            return False
        told: list[bool] = []

        def probe() -> None:
            try:
                told.append(_product_is_right(self.settings.device))
            finally:
                self._probing.release()

        thread = threading.Thread(target=probe, name="probe", daemon=True)
        thread.start()
        thread.join(deadline_s)
        return told == [True]

    def _fresh(self, model: Model) -> Loaded:
        """Read a model for the network that fits it, which is built and warmed if need be."""
        network = self._networks.get(model.signature)
        if network is not None:
            return Loaded(model, network, network.read(model))
        network = Network(model, self.settings)
        loaded = Loaded(model, network, network.read(model))
        for first in _first_asks(loaded, self.info(loaded), self.settings):
            self.draw([Order(ask=first, loaded=loaded)])
        self._networks[model.signature] = network
        return loaded


def _sampling(ask: Draw) -> Sampling:
    return Sampling(
        steps=ask.steps,
        guidance=ask.guidance,
        # Without a face to show, an adapter is out of the way and the base draws.
        scale=ask.identity_scale if ask.reference else 0.0,
        start_step=min(ask.start_step, ask.steps),
        strength=ask.edit.strength if ask.edit else 1.0,
        size_px=(ask.height_px, ask.width_px),
    )


def _watch(
    orders: Sequence[Order], ask: Draw, network: Network, gone: Callable[[], bool]
) -> Callable[[int, Tensor], bool]:
    """Make the callback of a batch: it ends it when all have left, and sends previews."""
    drawn = max(1, round(ask.edit.strength * ask.steps)) if ask.edit else ask.steps
    due: dict[int, list[tuple[Order, int, int]]] = {}
    row = 0
    for order in orders:
        if order.preview is not None:
            wanted = min(order.ask.previews, drawn - 1)
            for index in range(wanted):
                step = ask.steps - drawn + (index + 1) * drawn // (wanted + 1) - 1
                due.setdefault(max(step, 0), []).append((order, row, index))
        row += order.ask.pictures

    def after(step: int, clean: Tensor) -> bool:
        if gone():
            return True
        for order, row, index in due.get(step, ()):
            picture = network.decode(clean[row : row + 1])[0]
            if order.preview is not None:
                order.preview(Preview(index=index, picture=picture))
        return False

    return after


def _first_asks(loaded: Loaded, info: ModelInfo, settings: ImageSettings) -> list[Draw]:
    """Make up requests of few steps that use all that a network has.

    Compiled code is made for one size of batch and one scale first, for any at the second, and
    again for an adapter that is off: so no request of a client has to wait for it.
    """
    features, (width, height) = loaded.model.features, info.sides_px
    reference = Reference(
        vector=np.ones(features.identity_dim, dtype=np.float32),
        embedder=features.embedder,
        faces=(np.zeros((112, 112, 3), dtype=np.uint8),),
    )
    plain = Draw(
        request_id="warm-up", width_px=width, height_px=height, seed=0, steps=2, guidance=2.0,
        reference=reference if info.takes_identity else None,
    )  # fmt: skip
    if not settings.compile:
        return [plain]
    return [
        plain,
        replace(plain, pictures=settings.batch),
        replace(plain, identity_scale=0.5),
        replace(plain, reference=None),
    ]


def _product_is_right(device: str) -> bool:
    side = 64
    if not device.startswith("cuda"):
        return float((torch.ones(side, side) @ torch.ones(side, side)).sum()) == side**3
    # A stream of its own: the answer must not wait for the batch that is being drawn.
    make_stream: Any = torch.cuda.Stream
    with torch.cuda.stream(make_stream(device)):
        ones = torch.ones(side, side, device=device)
        return float((ones @ ones).sum()) == side**3
