"""Ray Serve around the plain classes: an ingress that measures faces, replicas that draw.

    client --HTTP--> Gateway --handle--> ImageGenerator
                        |
                      records <--lease-- VideoWorker

Faces are measured in the gateway, for a hop costs more than a face. Videos are jobs in the records,
which workers claim: nobody calls them, and when one dies another takes its jobs over. ``app`` is
what Serve's configurations name: ``import_path: serving.deploy:app``, ``args: {recipe: gpu, model:
...}``.

Which version is served is ``user_config`` of ``ImageGenerator``, and which share of the requests
tries another one is ``user_config`` of ``Gateway``: a change of either restarts nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from infra.cluster import usable_cpus
from infra.configuration import overlay, to_dict
from infra.errors import VisageError
from infra.released import ModelVersion
from serving.app import make_app
from serving.faces import Faces
from serving.images import LocalImages
from serving.jobs.worker import make_runner
from serving.keys import Keys
from serving.outcomes import outcomes
from serving.ray_metrics import RayMetrics
from serving.recipes import ServeRecipe, recipe
from serving.remote import RayImages, Trial
from serving.types import Draw, Drawn, ModelInfo, Preview

logger = logging.getLogger(__name__)

SPARE = 16
"""Requests beside those that wait to be drawn: questions what is served, and how it is."""


class ImageGenerator:
    """One device that draws; its methods are those of ``Images``."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Load nothing before ``reconfigure``, which Serve calls before the first request.

        Args:
            settings: A ``ServeRecipe`` as plain data.
        """
        self._recipe = _read(settings)
        self._images: LocalImages | None = None
        self._model = ""
        self._refused: dict[str, str] = {}

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve a version from now on, without a break; if it cannot be, go on with the old one.

        Args:
            user_config: ``model``: the reference; ``version``: what the registry said of it, as
                plain data; ``candidate``: the same of a version to be tried beside it.

        Raises:
            BadInput: There is no old one to go on with.
        """
        model = user_config.get("model") or self._recipe.model
        version, candidate = (_version(user_config.get(key)) for key in ("version", "candidate"))
        if self._images is None:
            settings = _threaded(replace(self._recipe, model=model))
            self._images = await asyncio.to_thread(LocalImages, settings, None, version)
            self._model = model
        elif model != self._model and await self._tried(model, self._images.serve(model, version)):
            self._model = model
        if candidate is not None:
            name = candidate.reference
            await self._tried(name, self._images.load(name, candidate))

    async def served(self) -> tuple[str, dict[str, str]]:
        """Return the reference that is served, and of those that were refused, why."""
        return self._model, self._refused

    async def info(self, adapter: str = "") -> ModelInfo:
        """Say what is served; see ``Images``."""
        return await self._ready().info(adapter)

    async def draw(self, ask: Draw) -> Drawn:
        """Draw; see ``Images``."""
        return await self._ready().draw(ask)

    async def stream(self, ask: Draw) -> AsyncIterator[Preview | Drawn]:
        """Draw with previews; see ``Images``."""
        async for step in self._ready().stream(ask):
            yield step

    async def healthy(self) -> bool:
        """Say whether the device computes."""
        return await self._ready().healthy()

    async def check_health(self) -> None:
        """Let Serve replace this replica when its device is dead."""
        if not await self.healthy():
            raise RuntimeError(f"{self._recipe.images.device} does not compute as it should")

    def _ready(self) -> LocalImages:
        assert self._images is not None, "Serve reconfigures a replica before it asks it anything"
        return self._images

    async def _tried(self, model: str, work: Coroutine[Any, Any, None]) -> bool:
        self._refused.pop(model, None)
        try:
            await work
        except VisageError as error:
            logger.error("%s stays: %s is refused: %s", self._model, model, error)  # noqa: TRY400
            self._refused[model] = str(error)
        return model not in self._refused


class Gateway:
    """The door: HTTP, keys, bounds, faces. Rates per key are counted by each replica for itself."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        generators: "DeploymentHandle[Any] | None" = None,
        workers: "DeploymentHandle[Any] | None" = None,  # noqa: ARG002 - so that they are started
    ) -> None:
        """Load what measures faces.

        Args:
            settings: A ``ServeRecipe`` as plain data.
            generators: What draws; None: faces only.
            workers: What draws videos; they find their jobs in the records.
        """
        asked = _read(settings)
        self._images = RayImages(generators) if generators else None
        self._app = make_app(
            asked,
            self._images,
            Faces(asked.faces, asked.http.max_pixels),
            Keys(asked.keys) if asked.keys else None,
            RayMetrics(),
            numbered=True,
        )

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Send a share of the requests to another version, or end that: see ``Trial``."""
        if self._images is not None:
            if user_config:
                board = outcomes()
                self._images.report = board.add.remote
            self._images.trial = Trial(**user_config) if user_config else None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


class VideoWorker:
    """A process that draws video jobs."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Load what draws, and begin.

        Args:
            settings: A ``ServeRecipe`` as plain data.
        """
        asked = _read(settings)
        self._drain_s = asked.http.drain_s
        self._runner = make_runner(asked, Faces(asked.faces, asked.http.max_pixels))
        self._runner.start()

    def check_health(self) -> None:
        """Let Serve replace this replica when it draws no more."""
        if not self._runner.well:
            raise RuntimeError("the thread that draws videos has ended; the log says why")

    def __del__(self) -> None:
        """Give back what was begun: Serve calls this before it stops a replica."""
        if hasattr(self, "_runner"):  # not if it could not be made
            self._runner.stop(self._drain_s)


def app(args: dict[str, Any]) -> Application:
    """Build what a configuration of Serve describes.

    Args:
        args: ``recipe``: a name; beside it any setting of it, such as ``keys`` or ``model``.

    Raises:
        UnknownRecipe, UnknownKey, BadValue: They do not describe a recipe.
    """
    settings = dict(args)
    base = recipe(settings.pop("recipe", "local"))
    return build(overlay(base, settings, "args"))


def build(asked: ServeRecipe) -> Application:
    """Build the deployments of a recipe: a gateway, and what draws if it names a model."""
    settings, replicas = to_dict(asked), asked.replicas
    generators: Application | None = None
    workers: Application | None = None
    if asked.model:
        images = serve.deployment(ImageGenerator).options(
            # All that the generator lets wait, so that it can batch, and say how long it takes.
            max_ongoing_requests=asked.images.queue + 2 * asked.images.batch + SPARE,
            max_queued_requests=asked.images.queue,
            user_config={"model": asked.model},
            graceful_shutdown_timeout_s=max(asked.http.drain_s, 1),
            health_check_period_s=10,
            health_check_timeout_s=60,
            ray_actor_options={
                "num_cpus": replicas.cpus_per_images,
                "num_gpus": replicas.gpus_per_images,
            },
            **_scale(replicas.images_min, replicas.images_max, asked.images.batch),
        )
        generators = images.bind(settings)
    if asked.videos.model:
        drawing = serve.deployment(VideoWorker).options(
            num_replicas=asked.videos.workers,
            graceful_shutdown_timeout_s=max(asked.http.drain_s, 1),
            health_check_period_s=10,
            health_check_timeout_s=60,
            ray_actor_options={
                "num_cpus": asked.videos.cpus_per_worker,
                "num_gpus": asked.videos.gpus_per_worker,
            },
        )
        workers = drawing.bind(settings)
    gateway = serve.deployment(serve.ingress()(Gateway)).options(
        name="Gateway",
        max_ongoing_requests=256,
        max_queued_requests=512,
        backpressure_config={"status_code": 429, "retry_after_s": 5},
        graceful_shutdown_timeout_s=max(asked.http.drain_s, 1),
        health_check_period_s=10,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": replicas.cpus_per_gateway},
        **_scale(replicas.gateway_min, replicas.gateway_max, 64),
    )
    return gateway.bind(settings, generators, workers)


def _scale(least: int, most: int, at_once: int) -> dict[str, Any]:
    """Return a number of replicas, or bounds and the requests that each is to have."""
    if most <= least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": at_once,
            "upscale_delay_s": 5,
            "downscale_delay_s": 300,
        }
    }


def _read(settings: Mapping[str, Any]) -> ServeRecipe:
    return overlay(ServeRecipe(name=settings["name"]), settings, "settings")


def _version(told: Mapping[str, Any] | None) -> ModelVersion | None:
    return ModelVersion(**{**told, "aliases": tuple(told["aliases"])}) if told else None


def _threaded(asked: ServeRecipe) -> ServeRecipe:
    """Let torch have the CPUs that it is meant to have; Ray leaves it as many as it reserved."""
    threads = asked.images.threads or usable_cpus()
    return replace(asked, images=replace(asked.images, threads=threads))
