"""``visage runs --address``: what was submitted to a cluster."""

import json
import sys
from dataclasses import asdict

from rich.console import Console

from infra.errors import UnreadableSource, nearest
from pipelines.cluster.remote import Remote
from pipelines.commands.runs import Arguments, show, table
from pipelines.submit import follow


def look(run: str, asked: Arguments, console: Console) -> int:
    """List a cluster's runs, or show, follow or stop one; return the exit code.

    Raises:
        UnreadableSource: The cluster knows no such run.
        UnreachableCluster: The cluster does not answer, or not to us.
        LostSight: The log of a followed run broke off.
    """
    remote = Remote(asked.address)
    if not run:
        every = remote.runs()
        if asked.json:
            sys.stdout.write(json.dumps([asdict(seen) for seen in every]) + "\n")
        else:
            console.print(table(every) if every else f"Nothing was submitted to {remote.address}.")
        return 0
    seen = remote.run(run)
    if seen is None:
        known = [other.name for other in remote.runs()]
        cure = nearest(run, known) if known else "Nothing was submitted there."
        raise UnreadableSource(run, f"{remote.address} knows no such run", cure)
    if asked.stop:
        stopped = remote.stop(run)
        said = "is told to end" if stopped else f"had ended before ({seen.state})"
        if stopped and seen.state == "waiting":  # Ray tells nobody who is not there yet
            said += "; Ray ends it when it gets what it waits for, or has waited 15 minutes"
        console.print(f"{run} {said}.", markup=False, soft_wrap=True)
        return 0
    if asked.follow:
        ended = follow(remote, run, console)
        console.print(f"{run} is {ended.state}.", markup=False, soft_wrap=True)
        seen = remote.run(run) or seen
    else:
        show(seen, console)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(seen)) + "\n")
    return 0 if not asked.follow or seen.state == "done" else 1
