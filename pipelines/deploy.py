"""A released model behind a door: resolved, checked, served, followed."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from infra.cluster import cluster
from infra.errors import BadValue, BadWeights
from infra.registry import Registry, UnreachableRegistry
from infra.released import ModelVersion
from infra.storage import without_secrets
from pipelines.endpoints import deployed
from serving.recipes import ServeRecipe
from serving.weights import Shelf

START_S = 600.0
"""How long replicas may take to load, download and compile."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What is deployed, and where."""

    url: str
    model: str
    """The reference that was asked for; empty: faces only."""
    version: str
    """What that means now: ``NAME/3``; of a folder the same as ``model``."""
    ready_s: float
    """From the command to the first request that would be answered."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A deployment that was checked, before anything is started."""

    asked: ServeRecipe
    version: ModelVersion | None
    """What ``asked.model`` means now; None: a folder, or faces only."""

    @property
    def reference(self) -> str:
        """What is served, exactly."""
        return self.version.reference if self.version else self.asked.model


def plan(asked: ServeRecipe) -> Plan:
    """Resolve the model and its adapters, fetch them, check every file against its SHA-256.

    Raises:
        BadInput: MLflow cannot be reached, knows no such model, or a file is not what was released.
        BadValue: The model was trained on faces that this deployment does not measure.
    """
    asked = _elsewhere(asked)
    if not asked.model:
        return Plan(asked=asked, version=None)
    shelf = Shelf(asked)
    try:
        version = lookup(asked)
        model = shelf.put(version) if version else shelf.resolve("")
        for adapter in asked.adapters:
            shelf.resolve(adapter)
    finally:
        shelf.close()
    backend = model.features.backend
    if model.takes_identity and backend != asked.faces.backend:
        raise BadValue(
            "faces.backend",
            asked.faces.backend,
            f"{model.name} understands faces as {backend} measures them; give "
            f"--faces.backend {backend}.",
        )
    return Plan(asked=asked, version=version)


def lookup(asked: ServeRecipe) -> ModelVersion | None:
    """Ask the registry what the model means now; None: it is a folder.

    Raises:
        BadInput: MLflow cannot be reached, or knows no such model.
    """
    if not asked.model or asked.model.startswith("file:"):
        return None
    return Registry(asked.registry or asked.store).resolve(asked.model)


def up(made: Plan, timeout_s: float = START_S) -> str:
    """Start or update the deployment on the cluster that this process has joined.

    Returns:
        Its address.

    Raises:
        NotDeployed: It did not become ready; what ran before goes on.
    """
    deployed.start(made.asked)
    deployed.apply(deployed.configuration(made.asked, made.version), timeout_s)
    return deployed.url()


@contextmanager
def joined(address: str, local: ServeRecipe | None = None) -> Iterator[None]:
    """Join the cluster at ``address`` or RAY_ADDRESS; ``local``: start a Ray of its own for it.

    Raises:
        BadValue: None is named, or it does not answer.
    """
    if local:
        # Read by Serve when it is imported, in every one of its processes.
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = str(int(local.http.proxy == "haproxy"))
    address = "" if local else address or os.environ.get("RAY_ADDRESS", "")
    if not address and not local:
        raise BadValue(
            "--address", "", "name a Ray cluster, or serve on this machine with --local."
        )
    if address and Path("~/.ray/auth_token").expanduser().exists():
        # A Ray that starts itself wants this token, and who does not send it waits in vain.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    entered = cluster(address)
    try:
        entered.__enter__()
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        cure = f"no Ray cluster answers there ({why}); start it, or name the right one."
        raise BadValue("--address", address, cure) from None
    try:
        yield
    finally:
        entered.__exit__(None, None, None)


def here() -> str:
    """Return the address by which another command finds the Ray that this process has joined."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def attend(made: Plan, console: Console, *, follow: bool, poll_s: float) -> None:
    """Stay until the deployment is stopped or the user has enough; follow the alias if told to.

    A registry that is down changes nothing: it is told once, and asked again.
    """
    version, silent, refused = made.version, False, ""
    asked_at = time.monotonic()
    while deployed.state().status:
        time.sleep(min(1.0, poll_s))
        if not follow or version is None or time.monotonic() - asked_at < poll_s:
            continue
        asked_at = time.monotonic()
        try:
            newest = lookup(made.asked)
        except UnreachableRegistry as error:
            if not silent:
                console.print(f"[yellow]{version.reference} stays: {error}[/]")
            silent = True
            continue
        silent = False
        if newest is None or newest.reference in (version.reference, refused):
            continue
        try:
            up(plan(made.asked))
        except (BadWeights, deployed.NotDeployed) as error:
            console.print(f"[red]{version.reference} stays: {error}[/]")
            refused = newest.reference
        else:
            console.print(f"{newest.reference} is served now, was {version.reference}")
            version = newest


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM, which is how services are stopped, do what Ctrl-C does.

    To be entered when Ray has started, for Ray takes that signal for itself.
    """

    def interrupt(_: int, __: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tell(made: Plan, console: Console) -> None:
    """Print what will be deployed."""
    asked = made.asked
    rows = {
        "model": _described(made),
        "adapters": ", ".join(asked.adapters),
        "faces": f"{asked.faces.backend}, in the gateway",
        "images": f"{asked.images.device}, {asked.images.precision}, batches of "
        f"{asked.images.batch}",
        "videos": f"{asked.videos.model}, {asked.videos.workers} workers"
        if asked.videos.model
        else "",
        "replicas": f"{asked.replicas.gateway_min} gateway, {asked.replicas.images_min} drawing",
        "keys": asked.keys or "none are asked for: loopback only",
        "door": f"http://{asked.http.host}:{asked.http.port}, {asked.http.proxy} proxy",
    }
    if not asked.model:
        del rows["images"]
    for name, value in rows.items():
        if value:
            console.print(f"{name:<10}{value}", soft_wrap=True, markup=False)


def examples(done: Deployment, made: Plan) -> str:
    """Return commands that work against a deployment."""
    keys = bool(made.asked.keys)
    header = ' --header "Authorization: Bearer $VISAGE_KEY"' if keys else ""
    key = ', key=os.environ["VISAGE_KEY"]' if keys else ""
    draws, python = "", ["visage.verify('a.jpg', 'b.jpg')"]
    if made.asked.model:
        path = f"{done.url}/v1/images/generations"
        draws = f"\n  curl{header} {path} --form identity=@me.jpg --form seed=7"
        python.insert(0, "visage.generate(identity=['me.jpg'], seed=7).pictures[0]")
    lines = "\n".join(f"      {line}" for line in python)
    return (
        f"  curl {done.url}/v1/health/ready{draws}\n"
        f"  curl{header} {done.url}/v1/faces/embed --form image=@me.jpg\n\n"
        f"  {'import os; ' if keys else ''}from serving.client import Visage\n"
        f'  with Visage("{done.url}"{key}) as visage:\n{lines}'
    )


def _described(made: Plan) -> str:
    if made.version is None:
        return made.asked.model or "none: faces only"
    named = made.asked.model if made.asked.model != made.reference else ""
    return f"{made.reference}{f' ({named})' if named else ''}, files {made.version.manifest}"


def _elsewhere(asked: ServeRecipe) -> ServeRecipe:
    """Say every path in full: replicas run in other folders."""

    def full(path: str) -> str:
        return str(Path(path).expanduser().resolve()) if path and "://" not in path else path

    def reference(name: str) -> str:
        folder = name.removeprefix("file:")
        return name if folder == name else f"file:{full(folder)}"

    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    # An address with a password must not stand in Serve's configuration; replicas need it in
    # their own environment.
    if without_secrets(tracking) != tracking or not tracking.startswith("http"):
        tracking = ""
    return replace(
        asked,
        model=reference(asked.model),
        adapters=tuple(reference(adapter) for adapter in asked.adapters),
        registry=asked.registry or tracking,
        store=full(asked.store),
        keys=full(asked.keys),
        records=full(asked.records),
        people=replace(asked.people, liveness=reference(asked.people.liveness)),
        videos=replace(asked.videos, folder=full(asked.videos.folder)),
        provenance=replace(
            asked.provenance,
            chain=full(asked.provenance.chain),
            key=full(asked.provenance.key),
            trust=tuple(full(path) for path in asked.provenance.trust),
            weights=reference(asked.provenance.weights),
            home=full(asked.provenance.home),
        ),
    )
