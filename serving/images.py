"""Pictures drawn in this process: the generator, its queue and its weights behind ``Images``."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

from infra.errors import BadInput, BadValue
from infra.registry import UnknownModel
from infra.released import ModelVersion
from serving.batching import Batcher, Done
from serving.errors import Refusal
from serving.generator import Generator, Loaded, Order
from serving.limits import check
from serving.recipes import ServeRecipe
from serving.types import RGB, Draw, Drawn, Images, ModelInfo, Preview
from serving.weights import Model, Shelf, unknown

logger = logging.getLogger(__name__)

PROBE_S = 10.0
"""How long the device may take for a small product before it counts as dead."""


class LocalImages(Images):
    """Draws what is asked, like requests together, on this process' device.

    Ready when constructed: weights are loaded and checked, networks warm.
    """

    def __init__(
        self,
        recipe: ServeRecipe,
        cache: Path | None = None,
        version: ModelVersion | None = None,
    ) -> None:
        """Load the served model.

        Args:
            recipe: What to serve, on which device, within which bounds.
            cache: Where downloads are kept; default: ``~/.cache/visage/models``.
            version: What ``recipe.model`` means, if that was looked up already.

        Raises:
            BadInput: The model is not there, cannot be read or was altered.
        """
        settings = recipe.images
        self._shelf = Shelf(recipe, cache)
        model = self._shelf.put(version) if version else self._shelf.resolve("")
        self._generator = Generator(settings, model)
        self._batcher: Batcher[Order, tuple[RGB, ...]] = Batcher(
            self._generator.draw,
            batch=settings.batch,
            wait_s=settings.batch_wait_ms / 1000,
            queue=settings.queue,
            slowdown=settings.slowdown,
        )

    @property
    def waiting(self) -> int:
        """Pictures in the queue."""
        return self._batcher.waiting

    @property
    def per_s(self) -> float:
        """Pictures per second of work, lately."""
        return self._batcher.per_s

    async def info(self, adapter: str = "") -> ModelInfo:
        """Say what is served under a registry name, or by default."""
        return self._generator.info(await self._loaded(adapter))

    async def draw(self, ask: Draw) -> Drawn:
        """Draw; see ``Images``.

        Raises:
            Refusal: The model cannot draw that, or not now.
        """
        return await self._draw(ask, None)

    async def stream(self, ask: Draw) -> AsyncIterator[Preview | Drawn]:
        """Draw, yielding unfinished versions of the first picture and at last the answer."""
        loop, seen = asyncio.get_running_loop(), asyncio.Queue[Preview | None]()
        task = asyncio.ensure_future(
            self._draw(ask, lambda preview: loop.call_soon_threadsafe(seen.put_nowait, preview))
        )
        task.add_done_callback(lambda _: seen.put_nowait(None))
        try:
            while (preview := await seen.get()) is not None:
                yield preview
            yield await task
        finally:
            task.cancel()

    async def healthy(self) -> bool:
        """Say whether the device still computes, and rightly."""
        return await asyncio.to_thread(self._generator.answers, PROBE_S)

    async def load(self, reference: str, version: ModelVersion | None = None) -> None:
        """Get another model ready while the served one goes on drawing.

        Raises:
            BadInput: It is not there, cannot be read or was altered.
            Refusal: ``unknown_model``: it is none that this deployment may serve.
        """
        shelf = self._shelf
        model = await asyncio.to_thread(
            lambda: shelf.put(version) if version else shelf.resolve(reference)
        )
        await asyncio.to_thread(self._generator.load, model)

    async def serve(self, reference: str, version: ModelVersion | None = None) -> None:
        """Serve another model from now on; who asked before still gets the old one's pictures.

        Raises:
            BadInput, Refusal: As ``load``; what was served stays.
        """
        await self.load(reference, version)
        self._shelf.serve(reference)
        await asyncio.to_thread(self._generator.pin, self._shelf.resolve(""))

    async def close(self, drain_s: float = 30.0) -> None:
        """Finish what was taken, within ``drain_s``, and end."""
        await self._batcher.close(drain_s)
        self._shelf.close()

    async def _draw(self, ask: Draw, preview: Callable[[Preview], object] | None) -> Drawn:
        loaded = await self._loaded(ask.adapter)
        check(ask, self._generator.info(loaded), self._generator.settings)
        if loaded.network.overlong([ask.prompt, ask.negative_prompt]):
            raise Refusal(
                "invalid_value",
                "prompt or negative_prompt is longer than the model reads; shorten it to about "
                "fifty words.",
                {"field": "prompt"},
            )
        done = await self._submit(ask, loaded, preview)
        return Drawn(
            pictures=tuple(chain.from_iterable(part.result for part in done)),
            seeds=tuple(range(ask.seed, ask.seed + ask.pictures)),
            model=loaded.model.name,
            queued_s=done[0].queued_s,
            drawing_s=sum(part.running_s for part in done),
            batch=max(part.batch for part in done),
        )

    async def _submit(
        self, ask: Draw, loaded: Loaded, preview: Callable[[Preview], object] | None
    ) -> list[Done[tuple[RGB, ...]]]:
        """Queue a request in portions that fit a batch; none is left behind when one fails."""
        portions = _portions(ask, self._generator.settings.batch)
        tasks = [
            asyncio.ensure_future(
                self._batcher.submit(
                    self._generator.alike(part, loaded),
                    Order(ask=part, loaded=loaded, preview=preview if i == 0 else None),
                    part.pictures,
                    part.steps * part.width_px * part.height_px,
                )
            )
            for i, part in enumerate(portions)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _loaded(self, adapter: str) -> Loaded:
        """Return what a name means, ready to draw with; other requests go on meanwhile."""
        try:
            model = self._shelf.known(adapter) or await self._resolved(adapter)
            loaded = self._generator.held(model)
            if loaded is None:
                loaded = await asyncio.to_thread(self._generator.load, model)
        except BadInput as error:
            # Paths and addresses are for the log, not for clients.
            logger.error("%r cannot be drawn with: %s", adapter, error)  # noqa: TRY400
            raise Refusal(
                "model_unavailable",
                f"{adapter or 'The model'} cannot be drawn with now.",
                retry_after_s=10,
            ) from error
        return loaded

    async def _resolved(self, adapter: str) -> Model:
        try:
            return await asyncio.to_thread(self._shelf.resolve, adapter)
        except (UnknownModel, BadValue) as error:
            raise unknown(adapter) from error


def _portions(ask: Draw, batch: int) -> list[Draw]:
    """Cut a request that no batch can hold; a picture depends on its seed alone."""
    return [
        replace(ask, pictures=min(batch, ask.pictures - start), seed=ask.seed + start)
        for start in range(0, ask.pictures, batch)
    ]
