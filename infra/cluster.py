"""Where Ray runs: embedded in this process's machine, or a cluster that is already there."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OBJECT_STORE_BYTES = 768 * 2**20
"""Shared memory of an embedded Ray: rows on their way between workers, a few blocks at a time."""


def usable_cpus() -> int:
    """Count the CPUs this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def cluster(address: str = "") -> Iterator[int]:
    """Join the cluster at ``address`` (or RAY_ADDRESS), or start an embedded Ray for a while.

    Yields:
        The number of CPUs to work with.
    """
    # One thread per CPU share: pools already have one process per CPU. Ray asks before it
    # reports usage; we answer for it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its core tells the terminal, at level error, of things that are none.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 1))
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _hushed():
        if address:
            ray.init(address=address, runtime_env=runtime_env(), **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(usable_cpus(), 2),  # one for the pools, one for reading and writing
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    _calm()
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


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
    what ``working_dir`` does. Files that git ignores are left behind.
    """
    return {"working_dir": str(ROOT), "excludes": ["/tests"]}
