"""Look at everything that runs depend on, and say of each whether it is well or how to mend it."""

import importlib.util
import os
import shutil
import socket
import stat
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from infra.errors import VisageError
from infra.settings import Settings, read_settings
from infra.storage import open_store, without_secrets

State = Literal["good", "note", "bad"]
LIBRARIES = {
    "data": ("ray", "aiohttp", "cv2", "dlib", "pdqhash", "faiss", "filelock", "jinja2"),
    "train": ("torch", "deepspeed", "diffusers", "peft", "safetensors", "transformers"),
    "serve": ("fastapi", "uvicorn", "prometheus_client", "httpx2"),
    "track": ("mlflow",),
}
"""What to import, by the extra of ours that brings it."""
PORTS = {8000: "endpoints", 8265: "Ray's dashboard and jobs", 8765: "the quickstart's small web"}
LITTLE_BYTES = 5 * 2**30
ANSWER_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it."""

    what: str
    state: State
    """good; note: fine for some work only; bad: mend it first."""
    said: str
    cure: str = ""


def examine(store: str = "store") -> list[Finding]:
    """Look at this machine and at what the environment names.

    Args:
        store: Folder or ``s3://`` prefix that is to be written to.
    """
    found = [_python(), *map(_libraries, LIBRARIES)]
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("gpu", _gpu), ("deepspeed", _deepspeed), ("faces", _faces),
        ("face packs", _packs), ("store", lambda: _store(store)),
    ]  # fmt: skip
    try:
        settings = read_settings()
    except VisageError as error:
        found.append(Finding("settings", "bad", "a variable cannot be used", str(error)))
    else:
        checks += [
            ("mlflow", lambda: _mlflow(settings)),
            ("token", lambda: _token(settings)),
            ("cluster", lambda: _cluster(settings)),
        ]
    found += [_careful(what, check) for what, check in checks]
    return found + [_port(port, use) for port, use in PORTS.items()]


def _careful(what: str, check: Callable[[], Finding]) -> Finding:
    """Let one broken thing not hide the others."""
    try:
        return check()
    except Exception as error:  # whatever a broken library raises is what we are here to tell
        first = (str(error).splitlines() or [""])[0]
        said = f"{type(error).__name__}: {first}" if not isinstance(error, VisageError) else first
        return Finding(what, "bad", said, "Mend that; `make` installs every library anew.")


def _python() -> Finding:
    # An older one does not get this far: pip refuses to install us there.
    return Finding("python", "good", f"{sys.version.split()[0]}, {sys.executable}")


def _libraries(extra: str) -> Finding:
    missing = [name for name in LIBRARIES[extra] if importlib.util.find_spec(name) is None]
    if missing:
        cure = f"pip install --constraint constraints.txt --editable '.[{extra}]'"
        return Finding(extra, "bad", f"not installed: {', '.join(missing)}", cure)
    leading = LIBRARIES[extra][0]
    try:
        said = f"{leading} {version(leading)}"
    except PackageNotFoundError:  # a module without a distribution of its own name
        said = leading
    return Finding(extra, "good", f"{said}, libraries: {len(LIBRARIES[extra])}")


def _gpu() -> Finding:
    import torch

    count = torch.cuda.device_count()
    if count:
        free, total = torch.cuda.mem_get_info(0)
        said = f"{count} x {torch.cuda.get_device_name(0)}, {free / 2**30:.0f} of "
        return Finding("gpu", "good", f"{said}{total / 2**30:.0f} GiB free on the first")
    if Path("/proc/driver/nvidia/version").exists():
        cure = "Install the build of torch that your driver supports: pytorch.org/get-started"
        return Finding("gpu", "bad", f"torch {torch.__version__} sees none of the GPUs", cure)
    cure = "Recipes that ask for one (scale.use_gpu) run on a cluster: visage submit"
    return Finding("gpu", "note", "none; work is done on CPUs", cure)


def _deepspeed() -> Finding:
    ninja = shutil.which("ninja") or importlib.util.find_spec("ninja")
    compiler = shutil.which("c++") or shutil.which("g++")
    said = f"deepspeed {version('deepspeed')}"
    if ninja and compiler:
        return Finding("deepspeed", "good", f"{said}, its parts compile with {compiler}")
    missing = " and ".join(
        name for name, there in (("ninja", ninja), ("a C++ compiler", compiler)) if not there
    )
    cure = "apt install g++ ninja-build; only scale.offload needs them"
    return Finding("deepspeed", "note", f"{said}, without {missing}", cure)


def _faces() -> Finding:
    from stages.models.backend import cards

    models = cards("dlib", "")
    said = ", ".join(f"{card.name} {card.sha256[:8]}" for card in models)
    return Finding("faces", "good", f"dlib: {said}")


def _packs() -> Finding:
    home = Path.home() / ".insightface/models"
    packs = sorted(path.name for path in home.glob("*") if path.is_dir())
    if packs:
        return Finding("face packs", "good", f"{', '.join(packs)} in {home}")
    cure = "For faces.backend insightface name a pack's folder: --faces.pack FOLDER"
    return Finding("face packs", "note", f"none in {home}; dlib needs none", cure)


def _store(store: str) -> Finding:
    if "://" in store:
        open_store(store)
        return Finding("store", "good", f"{without_secrets(store)} can be written")
    path = Path(store).expanduser().resolve()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        cure = "Name another folder with --store, or mend its permissions."
        return Finding("store", "bad", f"{there} cannot be written", cure)
    free = shutil.disk_usage(there).free
    said = f"{path}, {free / 2**30:.0f} GiB free"
    if free < LITTLE_BYTES:
        return Finding("store", "note", said, "Make room: corpora and checkpoints are large.")
    return Finding("store", "good", said)


def _mlflow(settings: Settings) -> Finding:
    uri = settings.mlflow_tracking_uri.get_secret_value()
    if not uri:
        return Finding("mlflow", "good", "an SQLite file in each store (no MLFLOW_TRACKING_URI)")
    shown = without_secrets(uri)
    if not uri.startswith("http"):
        return Finding("mlflow", "good", f"{shown}, not asked")
    try:
        with urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=ANSWER_S):
            return Finding("mlflow", "good", f"{shown} answers")
    except OSError as error:
        cure = "Start that server, or unset or mend MLFLOW_TRACKING_URI; runs wait for it on disk."
        return Finding("mlflow", "bad", f"{shown} does not answer: {error}", cure)


def _token(settings: Settings) -> Finding:
    path = settings.ray_token_file or Path.home() / ".ray/auth_token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Finding("token", "good", "in RAY_AUTH_TOKEN")
    if not path.exists():
        if settings.ray_auth_mode == "token":
            cure = "Write the cluster's token there with mode 600, or name RAY_AUTH_TOKEN_PATH."
            return Finding("token", "bad", f"RAY_AUTH_MODE is token, and there is no {path}", cure)
        return Finding("token", "good", "none; a Ray of this machine makes its own")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        cure = f"chmod 600 {path}"
        return Finding("token", "note", f"{path} has mode {mode:o}: others can read it", cure)
    return Finding("token", "good", f"{path}, mode {mode:o}")


def _cluster(settings: Settings) -> Finding:
    address = settings.ray_address
    if not address.startswith("http"):
        said = f"RAY_ADDRESS is {address}" if address else "this machine (no RAY_ADDRESS)"
        return Finding("cluster", "good", said)
    from pipelines.cluster.remote import Remote

    remote = Remote(address)
    return Finding("cluster", "good", f"{address} answers: {remote.resources()}")


def _port(port: int, use: str) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            cure = f"Stop what listens there, or give another port for {use}."
            return Finding(f"port {port}", "note", f"is taken ({error.strerror})", cure)
    return Finding(f"port {port}", "good", f"free, for {use}")
