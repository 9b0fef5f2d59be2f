"""Where Ray runs: embedded in this process's machine, or a cluster that is already there."""

import json
import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infra.errors import BadValue

ROOT = Path(__file__).resolve().parents[1]
OBJECT_STORE_BYTES = 768 * 2**20
"""Shared memory of an embedded Ray: rows on their way between workers, a few blocks at a time."""
ANSWER_S = 10.0
"""How long a cluster may take to accept a connection."""
SPARE_CPUS = 2
"""CPUs that no pool of workers may reserve: Ray Data reads and writes in tasks of one whole CPU,
and filters a resumed job's rows in an actor of one. Without room for both a job waits for itself
for ever. An embedded Ray is told of so many more than there are: they mostly wait for disks."""


def usable_cpus() -> int:
    """Count the CPUs this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(address: str = "", cpus: int = 0) -> Iterator[int]:
    """Join the cluster at ``address`` (or RAY_ADDRESS), or start an embedded Ray for a while.

    Args:
        address: Of a cluster; empty for an embedded Ray, unless RAY_ADDRESS names one.
        cpus: What an embedded Ray has to work with; 0: all that this process may use.

    Yields:
        The number of CPUs that pools of workers may reserve together.

    Raises:
        BadValue: No cluster answers at the address, or not to us.
    """
    # One thread per CPU share: pools already have one process per CPU. Ray asks before it
    # reports usage; we answer for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its core tells the terminal, at level error, of things that are none.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield _free_for_pools()
        return
    from infra.settings import read_settings  # here, for many import this and few join

    address = address or read_settings().ray_address
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        _join(address, quiet)
    else:
        with _hushed():
            ray.init(
                address="local",
                num_cpus=(cpus or usable_cpus()) + SPARE_CPUS,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    _calm()
    _guard_token()
    try:
        yield _free_for_pools()
    finally:
        ray.shutdown()


def _join(address: str, quiet: dict[str, Any]) -> None:
    """Join a cluster.

    Raises:
        BadValue: No cluster answers at the address, or not to us.
    """
    import ray

    if address.startswith(("http://", "https://")):
        cure = "that is a dashboard, for `visage submit`; name HOST:6379, or none for an own Ray."
        raise BadValue("the cluster's address", address, cure)
    try:
        if there := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address):
            # Ray itself would wait for two minutes, and then end this process.
            socket.create_connection((there[1], int(there[2])), timeout=ANSWER_S).close()
        with _hushed():
            ray.init(address=address, runtime_env=runtime_env(), **quiet)
    except OSError as error:
        why = str(error).strip().splitlines()[0]
        cure = (
            f"no Ray cluster answers there ({why}); start it, or name the right one. A "
            "cluster with a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE."
        )
        raise BadValue("the cluster's address", address, cure) from None


def _guard_token() -> None:
    """Keep Ray's token from other users of this machine: Ray makes it readable for all."""
    token = Path.home() / ".ray/auth_token"
    if token.exists() and token.stat().st_mode & 0o077:
        # A file of somebody else is theirs to guard.
        with suppress(PermissionError):
            token.chmod(0o600)


def _free_for_pools() -> int:
    import ray

    return max(int(ray.cluster_resources().get("CPU", 1)) - SPARE_CPUS, 1)


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep Ray's core, which writes past Python, from announcing its own log level."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _calm() -> None:
    """Leave the terminal to our own progress bar."""
    import ray.data

    # True of every small or nearly finished job, and of no use to anybody.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if type(handler) is logging.StreamHandler or "Console" in type(handler).__name__:
            handler.setLevel(logging.ERROR)


def runtime_env() -> dict[str, Any]:
    """Ship this working tree to every worker of a cluster.

    The five packages have common names, so the tree must come first on ``sys.path``; that is
    what ``working_dir`` does. Files that git ignores are left behind. An installed wheel ships
    nothing: its folder holds every other package too, and the cluster's images have it. Nor does
    a submitted run: Ray gives its workers the folder that it was submitted with.
    """
    if not (ROOT / "pyproject.toml").exists() or _submitted_with_code():
        return {}
    return {"working_dir": str(ROOT), "excludes": ["/tests"]}


def _submitted_with_code() -> bool:
    """Say whether this is a job of Ray's that was given a working folder."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return "working_dir" in (job.get("runtime_env") or {})
