"""A real deployment on loopback, and clients that ask it things all the time."""

import secrets
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2

from infra.registry import Registry
from pipelines.deploy import plan, up
from pipelines.endpoints import deployed
from serving.keys import Keys
from serving.recipes import FaceSettings, HttpSettings, ImageSettings, TraceSettings, local
from serving.weights import CACHE
from tests.serving.conftest import _features, _write
from tests.serving.doors import INFO
from training.settings import MethodSettings, TrainRecipe


@dataclass
class Served:
    """What runs, and what it was made of."""

    home: Path
    name: str
    registry: Registry
    slowdown: float = 0.0
    url: str = ""
    keys: dict = field(default_factory=dict)

    @property
    def recipe(self):
        return replace(
            local(),
            model=f"{self.name}@champion",
            store=str(self.home / "store"),
            keys=str(self.home / "keys.db"),
            faces=FaceSettings(at_once=2),
            images=ImageSettings(
                threads=1, max_steps=1000, queue=8, batch=4, slowdown=self.slowdown
            ),
            http=HttpSettings(port=self.port, drain_s=20),
            traces=TraceSettings(share=1.0),
        )

    def release(self, seed, *, text=True, champion=True):
        """Release one more version."""
        folder = export(self.home / f"export-{seed}-{text}", seed=seed, text=text)
        version = self.registry.register(self.name, folder, {"visage.corpus": "c0ffee"})
        if champion:
            self.registry.move(self.name, "champion", version.version)
        return version

    def client(self, key="all"):
        header = {"authorization": f"Bearer {self.keys[key]}"} if key else {}
        return httpx2.Client(base_url=self.url, headers=header, timeout=90)

    def draw(self, client=None, **fields):
        with client or self.client() as asking:
            return asking.post("/v1/images/generations", json=wanted(**fields))

    def update(self):
        """Deploy what the alias points to now; return what is served then."""
        up(plan(self.recipe), timeout_s=120)
        return deployed.state().served["model"]

    def wait_ready(self, within_s=90):
        until = time.monotonic() + within_s
        with self.client() as client:
            while client.get("/v1/health/ready").status_code != 200:
                assert time.monotonic() < until, "it does not become ready again"
                time.sleep(0.2)


def wanted(**fields):
    return {"prompt": "a face", "size": "32x32", "steps": 3, "seed": 1, **fields}


@contextmanager
def serving(home, slowdown=0.0):
    """Deploy a tiny model on the Ray that this process has joined; yield what is ``Served``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ray's workers know only the usual place of downloads: a name of its own, and tidied up.
    name = f"e2e-{secrets.token_hex(4)}"
    served = Served(home, name, Registry(str(home / "store")), slowdown)
    served.port = port
    served.release(0)
    keys = Keys(home / "keys.db", make=True)
    for who, scopes, more in (
        ("all", ("images", "faces", "models"), {}),
        ("faces", ("faces",), {}),
        ("few", ("images",), {"quota_per_day": 1}),
    ):
        served.keys[who] = keys.add(who, scopes, **more)
    keys.close()
    try:
        served.url = up(plan(served.recipe), timeout_s=240)
        yield served
    finally:
        deployed.shutdown()
        shutil.rmtree(CACHE.expanduser() / name, ignore_errors=True)


class Crowd:
    """Clients that each ask for one picture after another, in threads, until they are told."""

    def __init__(self, served, clients, **fields):
        self.statuses, self.models, self.seconds, self.errors = [], [], [], []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(served, number, fields), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads), "a client is stuck"

    def wait(self, answers, within_s=60):
        until = time.monotonic() + within_s
        while len(self.statuses) < answers and time.monotonic() < until:
            time.sleep(0.02)

    def _ask(self, served, number, fields):
        with served.client() as client:
            while not self._end.is_set():
                began = time.monotonic()
                body = wanted(**{"seed": number, **fields})
                try:
                    answer = client.post("/v1/images/generations", json=body)
                except httpx2.HTTPError as error:
                    self.errors.append(repr(error))
                    continue
                self.statuses.append(answer.status_code)
                if answer.status_code == 200:
                    self.seconds.append(time.monotonic() - began)
                    self.models.append(answer.json()["visage"]["model"])
                else:
                    self.errors.append(answer.json()["error"]["code"])


def export(folder, *, seed, text=True):
    """Write a tiny adapter that understands dlib's faces."""
    features = _features(
        codec="random:tiny-sd",
        latent_shape=(4, 8, 8),
        text_shape=(77, 32) if text else (0, 0),
        text_encoder="random:tiny-sd" if text else "",
    )
    features = replace(
        features, embedder=INFO.embedder, identity_dim=128,
        identity_mean=(0.0,) * 128, identity_std=(1.0,) * 128,
    )  # fmt: skip
    recipe = TrainRecipe(name="tiny", method=MethodSettings(lora_rank=4), seed=seed)
    return _write(folder, recipe, features)
