"""Where Ray runs: embedded in this process's machine, or a cluster that is already there."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OBJECT_STORE_BYTES = 768 * 2**20
"""Shared memory of an embedded Ray: rows on their way between workers, a few blocks at a time."""


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
    address = address or os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _hushed():
        if address:
            ray.init(address=address, runtime_env=runtime_env(), **quiet)
        else:
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
    nothing: its folder holds every other package too, and the cluster's images have it.
    """
    if not (ROOT / "pyproject.toml").exists():
        return {}
    return {"working_dir": str(ROOT), "excludes": ["/tests"]}
