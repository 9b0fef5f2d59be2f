"""Carry out a verb on a cluster: plan it, refuse what cannot work, send it, follow it.

A run's id is made from its words and our code, so the same command again is the same run: it joins
one that is at work, shows one that is done, and tries again one that failed.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from infra.configuration import digest
from infra.errors import BadInput
from infra.settings import read_settings
from infra.storage import without_secrets
from pipelines.cluster.errands import Errand, Wanted
from pipelines.cluster.log import ENDED, LostSight
from pipelines.cluster.parcel import pack
from pipelines.cluster.remote import Remote, Resources, UnreachableCluster
from pipelines.runs import Seen, State, find

RUN_VARIABLE = "VISAGE_SUBMISSION"
"""Holds the run's id there."""
POLL_S = 0.3
"""How often a run that says nothing yet is looked at."""
WAITS_S = 5.0
"""How long a run may prepare itself before it is said what it waits for."""
_PREPARES, _STARTS = " -- Runtime env is setting up", "Running entrypoint for job "
"""Lines of Ray's own in every log."""


class NeverScheduled(BadInput):
    """A run asks for more than its cluster has."""

    def __init__(self, wanted: str, present: str) -> None:
        self.wanted, self.present = wanted, present
        super().__init__(wanted, present)

    def __str__(self) -> str:
        return (
            f"The run asks for {self.wanted}, and the cluster has {self.present}: it would wait "
            "for ever. Ask for less, or submit with --wait if the cluster grows by itself."
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is known of a run before it is sent."""

    run: str
    errand: Errand
    remote: Remote
    present: Resources
    parcel: Path
    parcel_bytes: int
    env: dict[str, str]
    mlflow: str
    estimate: str
    notes: tuple[str, ...] = ()

    def told(self) -> str:
        """Say it to a person."""
        lines = [
            ("run", self.run),
            ("command", f"visage {' '.join(self.errand.words)}"),
            ("cluster", f"{self.remote.address} ({self.present})"),
            ("asks for", str(self.errand.wanted)),
            ("code", f"{self.parcel_bytes / 2**20:.1f} MiB"),
            *[("data", said) for said in self.errand.data],
            ("takes", self.estimate),
            ("mlflow", self.mlflow),
            *[("note", note) for note in self.notes],
        ]
        return "\n".join(f"{name:<10}{said}" for name, said in lines)


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """How it ended; ``--json`` prints it."""

    run: str
    state: State
    joined: bool
    """Whether it had been submitted before."""
    seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    """What the verb itself prints with ``--json``."""


@contextmanager
def plan(errand: Errand, address: str, *, wait: bool = False) -> Iterator[Plan]:
    """Ask the cluster what it has, pack the code, and say what would be done.

    Args:
        errand: What is to be done.
        address: Of the cluster's dashboard.
        wait: Accept that the cluster has too little now.

    Raises:
        UnreachableCluster: The cluster does not answer, or not to us, or runs another Ray.
        TooLarge: The code is larger than it takes.
        NeverScheduled: It could never run there.
    """
    remote = Remote(address)
    present = remote.resources()
    if not wait:
        refuse_impossible(errand.wanted, present)
    env, mlflow, notes = _environment(address)
    with TemporaryDirectory() as home:
        parcel = Path(home) / "visage.zip"
        code = pack(parcel, errand.files)
        name = re.sub(r"[^\w-]", "_", f"{errand.words[0]}-{errand.recipe}")
        run = f"{name}-{digest(list(errand.words), code)[:8]}"
        yield Plan(
            run=run, errand=errand, remote=remote, present=present, parcel=parcel,
            parcel_bytes=parcel.stat().st_size, env=env, mlflow=mlflow,
            estimate=_estimate(errand), notes=notes,
        )  # fmt: skip


def refuse_impossible(wanted: Wanted, present: Resources) -> None:
    """Refuse what would wait for ever.

    Raises:
        NeverScheduled: The cluster, or its largest node, has less than is asked for.
    """
    if wanted.cpus > present.cpus or wanted.gpus > present.gpus:
        raise NeverScheduled(str(wanted), str(present))
    if wanted.at_once_cpus > present.node_cpus or wanted.at_once_gpus > present.node_gpus:
        one = f"CPUs: {wanted.at_once_cpus:g}, GPUs: {wanted.at_once_gpus:g} on one node"
        node = f"at most CPUs: {present.node_cpus:g}, GPUs: {present.node_gpus:g} on one"
        raise NeverScheduled(one, node)


def send(planned: Plan, console: Console) -> tuple[str, bool]:
    """Start the run, unless it is there; return its id and whether it was.

    One that failed or was stopped is tried again, as ``<run>-2`` and so on: its verb goes on from
    what is written. So is a deployment that was done: its model's alias may mean another version
    now, and somebody may have taken it away.
    """
    run, attempt = planned.run, 1
    again = ENDED if planned.errand.words[0] == "deploy" else ("failed", "stopped")
    while seen := planned.remote.run(run):
        if seen.state not in again:
            console.print(f"{run} is there already ({seen.state}): joining it.", markup=False)
            return run, True
        attempt += 1
        run = f"{planned.run}-{attempt}"
    wanted = planned.errand.wanted
    planned.remote.submit(
        run, planned.errand.words, planned.parcel, recipe=planned.errand.recipe,
        env=planned.env | {RUN_VARIABLE: run}, cpus=wanted.driver_cpus, gpus=wanted.driver_gpus,
    )  # fmt: skip
    return run, False


def follow(remote: Remote, run: str, console: Console, *, joined: bool = True) -> Submitted:
    """Show what a run says until it ends.

    Raises:
        LostSight: Its log broke off and could not be had again.
    """
    seen, said = _look(remote, run), ""
    while seen is not None and seen.state == "waiting":  # it has no log yet
        if seen.age_s > WAITS_S and seen.detail["error"] != said:
            said = seen.detail["error"]
            console.print(said, markup=False, soft_wrap=True)
        time.sleep(POLL_S)
        seen = _look(remote, run)
    held, result = "", {}
    for line in remote.lines(run) if seen is not None else ():
        if held:
            console.print(held, markup=False, soft_wrap=True)
        held = line if line.startswith("{") else ""  # the result, if nothing comes after it
        if line.startswith(_STARTS):
            console.print(f"{run} has started", markup=False, soft_wrap=True)
        elif not held and _PREPARES not in line:
            console.print(line, markup=False, soft_wrap=True)
    if held and not (result := _result(held)):
        console.print(held, markup=False, soft_wrap=True)
    while (seen := _look(remote, run)) is not None and seen.state not in ENDED:
        time.sleep(POLL_S)  # its log ends a little earlier than itself
    if seen is None:  # deleted by somebody
        return Submitted(run=run, state="stopped", joined=joined)
    if seen.state == "failed":
        console.print(f"{run} failed: {seen.detail['error']}", markup=False, soft_wrap=True)
    seconds = float(seen.detail["seconds"])
    return Submitted(run=run, state=seen.state, joined=joined, seconds=seconds, result=result)


def _look(remote: Remote, run: str) -> Seen | None:
    """Look at a run that was sent: no answer means another thing than before."""
    try:
        return remote.run(run)
    except UnreachableCluster as error:
        raise LostSight(run, remote.address, error.why) from None


def _result(line: str) -> dict[str, Any]:
    """Read the JSON object that every verb ends with."""
    try:
        held = json.loads(line)
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


def _environment(address: str) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Say what the run is told of our environment: no secrets, for others can read it there."""
    env: dict[str, str] = {}
    uri = read_settings().mlflow_tracking_uri.get_secret_value()
    shown = without_secrets(uri)
    if not uri:
        return env, "in the store, or what the cluster's MLFLOW_TRACKING_URI names", ()
    if shown != uri:
        note = "MLFLOW_TRACKING_URI holds a password and is not sent; set it on the cluster."
        return env, "what the cluster's MLFLOW_TRACKING_URI names", (note,)
    env["MLFLOW_TRACKING_URI"] = uri
    here = ("127.0.0.1", "localhost")
    if urlsplit(uri).hostname in here and urlsplit(address).hostname not in here:
        return env, shown, (f"{shown} is this machine: the cluster may not reach it.",)
    return env, shown, ()


def _estimate(errand: Errand) -> str:
    """Say how long the same recipe took before, in the same store."""
    if errand.store and Path(errand.store).is_dir():
        for seen in find([errand.store]):
            record = Path(seen.path) / "run.json"
            same = (seen.kind, seen.recipe, seen.state) == (errand.words[0], errand.recipe, "done")
            if same and record.exists():
                seconds = int(json.loads(record.read_text()).get("seconds", 0))
                return f"about {seconds // 60}:{seconds % 60:02d}, as {seen.name} did"
    return "not known: no run of this recipe has ended in its store"
