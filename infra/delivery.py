"""Records that waited for MLflow, on their way to it."""

from dataclasses import dataclass
from pathlib import Path

from infra.mlflow_run import MlflowRun
from infra.spool import Spool
from infra.storage import without_secrets

_AT_ONCE = 200
"""Entries per round."""


def deliver(spool: Spool, run: MlflowRun) -> int:
    """Send all that waits, oldest first; return how much that was."""
    run.open()
    sent = 0
    while entries := spool.first(_AT_ONCE):
        run.send(entries)
        spool.delivered(len(entries))
        sent += len(entries)
    return sent


@dataclass(frozen=True)
class Sent:
    """What became of one run's records that had waited."""

    experiment: str
    run: str
    records: int
    problem: str = ""
    """Why they wait on; empty when they were sent."""


def send_folder(folder: Path, uri: str, artifacts_at: str | None) -> list[Sent]:
    """Send what waits in a folder of spools for the MLflow at ``uri``."""
    files = sorted(folder.glob("*.jsonl"))
    return [sent for path in files if (sent := _send_file(path, uri, artifacts_at))]


def _send_file(path: Path, uri: str, artifacts_at: str | None) -> Sent | None:
    """Send one file of a run that is over; None where another process sees to it."""
    try:
        spool = Spool(path)
    except BlockingIOError:
        return None
    with spool:
        about = spool.about
        if not about:  # killed before its first record
            return None
        experiment, name, meant = about["experiment"], about["run"], about["uri"]
        if meant != without_secrets(uri):
            cure = f"they are meant for {meant}: set MLFLOW_TRACKING_URI to it"
            return Sent(experiment, name, len(spool), cure)
        # A file that nobody holds and that has no end: its run was killed.
        if spool.last["kind"] != "end":
            spool.put(spool.last | {"kind": "end", "what": {"status": "KILLED"}})
        waiting = len(spool)
        run = MlflowRun(uri, experiment, name, artifacts_at, revive=False)
        try:
            deliver(spool, run)
        except Exception as error:  # the other files may go
            said = (str(error).splitlines() or [type(error).__name__])[0]
            return Sent(experiment, name, waiting, without_secrets(said))
        return Sent(experiment, name, waiting, run.refused)
