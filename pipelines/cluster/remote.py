"""A Ray cluster that is reached over HTTP: what it has, what runs on it, and what that says.

Ray's Jobs API, with its errors turned into sentences. A run that was submitted is Ray's job of the
same id, marked as ours by its metadata.
"""

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from infra.errors import BadInput, BadValue, VisageError
from pipelines.cluster.log import Log
from pipelines.runs import Kind, Seen, State

ANSWER_S = 15.0
"""How long the cluster may take for one answer."""
VERB_TAG, RECIPE_TAG = "visage.verb", "visage.recipe"
_PYTHON = f'"$(command -v {shlex.quote(sys.executable)} || echo python)"'
"""Ours, where the node has it (this machine, a shared disk, the same image); else the cluster's."""
_STATES: dict[str, State] = {
    "PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "done", "FAILED": "failed",
    "STOPPED": "stopped",
}  # fmt: skip


class UnreachableCluster(BadInput):
    """A cluster does not answer, or not to us."""

    def __init__(self, address: str, why: str, cure: str) -> None:
        self.address, self.why, self.cure = address, why, cure
        super().__init__(address, why, cure)

    def __str__(self) -> str:
        return f"The cluster at {self.address} cannot be used: {self.why}. {self.cure}"


@dataclass(frozen=True)
class Resources:
    """What the nodes of a cluster have, busy or not."""

    nodes: int
    cpus: float
    gpus: float
    node_cpus: float
    """Of the node that has most."""
    node_gpus: float

    def __str__(self) -> str:
        return f"nodes: {self.nodes}, CPUs: {self.cpus:g}, GPUs: {self.gpus:g}"


class Remote:
    """The cluster at an address such as ``http://127.0.0.1:8265``.

    Raises:
        BadValue: The address is none of a dashboard.
        UnreachableCluster: Nobody answers, the token is missing or wrong, or it runs another Ray.
    """

    def __init__(self, address: str) -> None:
        if not re.match(r"https?://[^/]+/?$", address):
            cure = "give the address of its dashboard, such as http://127.0.0.1:8265."
            raise BadValue("--address", address, cure)
        self.address = address.rstrip("/")
        with _named_by_us(), self._told():
            from ray.job_submission import JobSubmissionClient

            for name in ("dashboard_sdk", "job.sdk"):  # they tell of every upload and stream
                logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)

            class Client(JobSubmissionClient):  # type: ignore[misc]
                """Ray's own, which would wait for an answer for ever."""

                def _do_request(self, *what: Any, **how: Any) -> Any:  # noqa: ANN401
                    return super()._do_request(*what, **{"timeout": ANSWER_S} | how)

            self._client = Client(self.address)
            there = self._client._do_request("GET", "/api/version").json()["ray_version"]
        import ray

        if there != ray.__version__:
            here = ray.__version__
            why = f"it runs Ray {there}, and this is Ray {here}"
            cure = f"Start it with Ray {here}, or install the Visage that goes with Ray {there}."
            raise UnreachableCluster(self.address, why, cure)

    def resources(self) -> Resources:
        """Count what the living nodes have."""
        from ray.util.state import list_nodes

        with _named_by_us(), self._told():
            nodes = list_nodes(
                self.address, filters=[("state", "=", "ALIVE")], limit=10_000, detail=True,
                timeout=int(ANSWER_S), raise_on_missing_output=False,
            )  # fmt: skip
        cpus = [node.resources_total.get("CPU", 0.0) for node in nodes]
        gpus = [node.resources_total.get("GPU", 0.0) for node in nodes]
        return Resources(
            len(nodes), sum(cpus), sum(gpus), max(cpus, default=0.0), max(gpus, default=0.0)
        )

    def submit(
        self,
        run: str,
        words: Sequence[str],
        parcel: Path,
        *,
        recipe: str,
        env: Mapping[str, str],
        cpus: float,
        gpus: float,
    ) -> None:
        """Start ``visage <words>`` there, with our code; joins a run that has this id.

        Args:
            run: Its id.
            words: The verb and what follows it.
            parcel: The zip that becomes its working folder.
            recipe: What `visage runs` calls it.
            env: Variables of its environment; everybody on the cluster can read them.
            cpus: What its driver reserves, beside what its tasks will.
            gpus: Likewise.
        """
        try:
            with self._told():
                self._client.submit_job(
                    entrypoint=f"{_PYTHON} -m pipelines {shlex.join(words)}",
                    submission_id=run,
                    runtime_env={"working_dir": str(parcel), "env_vars": dict(env)},
                    metadata={VERB_TAG: words[0], RECIPE_TAG: recipe},
                    entrypoint_num_cpus=cpus or None,
                    entrypoint_num_gpus=gpus or None,
                )
        except UnreachableCluster as error:  # of two that submit at once one is too late
            if "already exists" not in error.why:
                raise

    def run(self, run: str) -> Seen | None:
        """Look at one run; None if the cluster does not know it."""
        with self._told():
            answer = self._client._do_request("GET", f"/api/jobs/{run}")
        return self._seen(answer.json()) if answer.status_code == 200 else None

    def runs(self) -> list[Seen]:
        """List the runs that were submitted, the newest first."""
        with self._told():
            jobs = self._client._do_request("GET", "/api/jobs/").json()
        ours = [job for job in jobs if VERB_TAG in (job.get("metadata") or {})]
        return sorted((self._seen(job) for job in ours), key=lambda seen: seen.age_s)

    def stop(self, run: str) -> bool:
        """Ask a run to end; say whether it was at work."""
        with self._told():
            return bool(self._client.stop_job(run))

    def lines(self, run: str) -> Iterator[str]:
        """Yield what a run says, line by line from its beginning, until it ends.

        Raises:
            LostSight: It broke off, and could not be taken up for a minute.
        """
        return Log(self._client, self.address, run, lambda: self.run(run)).lines()

    def _seen(self, job: Mapping[str, Any]) -> Seen:
        held, run = job.get("metadata") or {}, job["submission_id"]
        began_s, ended_s = ((job.get(key) or 0) / 1000 for key in ("start_time", "end_time"))
        state, now = _STATES[job["status"]], time.time()
        said = (job.get("message") or "").partition(", last available logs")[0]
        if "its node has died" in said:  # Ray says so last, after what nobody asked
            said = "the node that its program was on has died"
        seconds = round((ended_s or now) - (began_s or now), 1)
        look = f"visage runs {run} --address {self.address}"
        code = job.get("driver_exit_code")
        return Seen(
            kind=cast("Kind", held.get(VERB_TAG, "curate")),
            name=run,
            path=f"{self.address}/#/jobs/{run}",
            recipe=held.get(RECIPE_TAG, ""),
            state=state,
            progress=f"{'waits' if state == 'waiting' else 'ran'} {seconds:,.0f} s",
            result=f"exit code {code}" if code else "",
            age_s=max(0.0, now - (ended_s or began_s or now)),
            next=f"{look} --follow" if state in ("waiting", "running") else look,
            detail={
                "seconds": seconds,
                "error": said if state in ("failed", "waiting") else "",
                "node": job.get("driver_node_id") or "",
            },
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what Ray and its HTTP raise into a sentence with its cure."""
        try:
            yield
        except VisageError:
            raise
        except Exception as error:
            words = str(error)
            why = (words.splitlines() or [type(error).__name__])[-1]
            cure = "Is it running? `ray start --head` says its dashboard's address."
            if "Authentication required" in words or "no token" in words.lower():
                why = "it wants a token, and none was sent"
                cure = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with its token."
            elif "Authentication failed" in words:
                why = "it does not accept the token; it may have expired"
                cure = "Get the present one into the file that RAY_AUTH_TOKEN_PATH names."
            elif isinstance(error, OSError):  # requests' errors are
                why = "nobody answers there"
            raise UnreachableCluster(self.address, without_dot(why), cure) from None


def without_dot(words: str) -> str:
    """Return words without the dots at their end."""
    return words.strip().rstrip(".")


@contextmanager
def _named_by_us() -> Iterator[None]:
    """Hide variables that Ray would prefer to the address that it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
