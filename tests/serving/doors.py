"""A door with a stand-in for what draws, photographs to send through it, a server on loopback."""

import asyncio
import re
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from serving.app import make_app
from serving.errors import RETRYABLE, STATUS, Refusal
from serving.faces import Faces
from serving.jobs.settings import VideoSettings
from serving.metrics import Metrics
from serving.provenance.settings import ProvenanceSettings
from serving.recipes import FaceSettings, HttpSettings, ImageSettings, local
from serving.types import Drawn, ModelInfo, Preview
from tests.stages.models.photos import astronaut, hanks

INFO = ModelInfo(
    model="someone/3", kind="ip_adapter_faceid", takes_text=True, takes_identity=True,
    embedder="dlib-resnet@55533b28a958", backend="dlib", sides_px=(64, 64), multiple_px=8,
    fixed_size=False, labels={},
)  # fmt: skip
RECORDS = tempfile.TemporaryDirectory(prefix="visage-records-")
"""One place for all doors of this process that name no other."""


class PlainImages:
    """Draws one colour, made of the seed, in ``seconds``; remembers what it was asked."""

    def __init__(self, info=INFO, seconds=0.0, error=None):
        self.known, self.seconds, self.error = info, seconds, error
        self.asks, self.cancelled = [], threading.Event()
        self.well = True

    async def info(self, adapter=""):
        if adapter not in ("", "smile", "smile@best"):
            raise Refusal("unknown_model", f"{adapter!r} is not there.")
        return self.known

    async def draw(self, ask):
        self.asks.append(ask)
        if self.error:
            raise self.error
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        seeds = tuple(range(ask.seed, ask.seed + ask.pictures))
        pictures = tuple(plain(ask, seed) for seed in seeds)
        return Drawn(
            pictures=pictures, seeds=seeds, model=self.known.model, queued_s=0.01,
            drawing_s=self.seconds, batch=ask.pictures,
        )  # fmt: skip

    async def stream(self, ask):
        for index in range(ask.previews):
            yield Preview(index=index, picture=plain(ask, index))
        yield await self.draw(ask)

    async def healthy(self):
        return self.well


def plain(ask, seed):
    """Return a picture whose colour tells its seed."""
    colour = np.array([seed % 256, seed // 256 % 256, 77], dtype=np.uint8)
    return np.broadcast_to(colour, (ask.height_px, ask.width_px, 3)).copy()


@cache
def faces():
    """Return the models, loaded once."""
    return Faces(FaceSettings(at_once=2))


def door(images=None, keys=None, http=None, **changes):
    """Return an application in front of a stand-in, and the stand-in."""
    images = images or PlainImages()
    changes.setdefault("records", f"{RECORDS.name}/serving.db")
    changes.setdefault("provenance", ProvenanceSettings(home=f"{RECORDS.name}/provenance"))
    changes.setdefault("videos", videos(f"{RECORDS.name}/videos"))
    recipe = replace(
        local(), model="someone@champion", adapters=("smile",), http=http or HttpSettings(),
        images=ImageSettings(max_side_px=256), **changes,
    )  # fmt: skip
    return make_app(recipe, images, faces(), keys, Metrics()), images


def videos(folder, **settings):
    """Return how videos are drawn: quickly."""
    settings = {"steps": 3, "lease_s": 5.0, **settings}
    return VideoSettings(model="random:tiny-animatediff", folder=str(folder), **settings)


def visitor(app, **headers):
    return TestClient(app, headers=headers, raise_server_exceptions=True)


def refused(response, code):
    """Assert that an answer is a refusal in every respect, and documented; return its error."""
    assert response.status_code == STATUS[code], response.text
    body = response.json()
    assert set(body) == {"error", "request_id"}, body
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["code"] == code, body
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    sent = response.request
    assert documents(sent.url.path, sent.method.lower(), response.status_code, code), sent
    if code in RETRYABLE:
        assert int(response.headers["retry-after"]) >= 1
    else:
        assert "retry-after" not in response.headers
    return body["error"]


@cache
def document():
    return door()[0].openapi()["paths"]


def documents(path, method, status, code):
    """Say whether a route, or one beside it, documents a refusal; of other paths, whatever."""
    path = re.sub("^/v1/models/.*", "/v1/models/{model}", path)
    path = re.sub("^/v1/people/.*", "/v1/people/{person}", path)
    path = re.sub("^/v1/videos/[^/]*", "/v1/videos/{video}", path)
    routes = document().get(path, {})
    told = [routes[method]] if method in routes else routes.values()
    contents = [one["responses"].get(str(status), {}).get("content", {}) for one in told]
    examples = [content.get("application/json", {}).get("examples", {}) for content in contents]
    return not examples or any(code in names for names in examples)


def data(picture, kind="JPEG", **how):
    """Encode an array or a Pillow image."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    out = BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


@cache
def she():
    return data(astronaut())


@cache
def he():
    return data(hanks())


@contextmanager
def serving(app):
    """Serve an application on loopback; yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="off")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
