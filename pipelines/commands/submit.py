"""``visage submit VERB ...``: the same commands, carried out on a cluster."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from infra.errors import BadValue
from pipelines.cluster.errands import VERBS, errand

if TYPE_CHECKING:
    from pipelines.submit import Submitted

HELP = f"""\
usage: visage submit VERB RECIPE ... --address http://HOST:8265 [--dry-run] [--detach] [--json]

Carry out {", ".join(VERBS)} on a Ray cluster: check the command here, say what is about to happen,
send it with our code, show what it says, and end with its result and the next commands. Folders
are meant as every node sees them. The same command again joins the run that it started before; it
tries again what failed or was stopped, and deploys again what was deployed.

--address  of the cluster's dashboard; default: RAY_ADDRESS
--dry-run  say what would happen, and stop
--detach   do not wait for the run's end
--wait     submit although the cluster has too little now: it grows by itself
--json     end with one JSON object on the last line

Ctrl-C, or a lost connection, leaves the run alone: `visage runs ID --address ... --follow` shows it
again, and --stop ends it. A cluster with a token: RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH=FILE.

exit codes: 0 done, or submitted with --detach; 1 failure here; 2 bad input, nothing was submitted;
3 the run failed on the cluster; 4 it was stopped there; 5 lost sight of it; 130 Ctrl-C, it goes on.
"""
_FLAGS = ("--address", "--dry-run", "--detach", "--wait", "--json")
EXIT_CODES = {"done": 0, "failed": 3, "stopped": 4}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is ours among the words; the others are the verb's."""

    address: str = ""
    dry_run: bool = False
    detach: bool = False
    wait: bool = False
    json: bool = False


def main(arguments: list[str]) -> int:
    """Parse, plan, send, follow, tell."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(HELP)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, words = arguments[0], arguments[1:]
    ours, theirs = divide(words)
    asked = tyro.cli(Arguments, args=ours, prog="visage submit")
    from infra.settings import read_settings

    address = asked.address or read_settings().ray_address
    if not address:
        raise BadValue("--address", "", "name the cluster, such as http://127.0.0.1:8265.")
    wanted = errand(verb, theirs)
    from pipelines.cluster.log import LostSight
    from pipelines.submit import Submitted, follow, plan, send

    console = Console(stderr=asked.json, highlight=False)
    with plan(wanted, address, wait=asked.wait) as planned:
        console.print(planned.told(), markup=False, soft_wrap=True)
        if asked.dry_run:
            return 0
        run, joined = send(planned, console)
    remote = planned.remote
    later = f"visage runs {run} --address {remote.address}"
    if asked.detach:
        seen = remote.run(run)
        ended = Submitted(run=run, state=seen.state if seen else "waiting", joined=joined)
        console.print(f"\nNext: {later} --follow", markup=False, soft_wrap=True)
    else:
        try:
            ended = follow(remote, run, console, joined=joined)
        except KeyboardInterrupt:
            told = f"{run} goes on. Look again: {later} --follow; end it: {later} --stop"
            sys.stderr.write(f"visage: {told}\n")
            return 130
        except LostSight as error:
            sys.stderr.write(f"visage: {error}\n")
            return error.exit_code
        _tell(console, ended, planned.mlflow, later)
    if asked.json:
        sys.stdout.write(json.dumps(asdict(ended)) + "\n")
    return 0 if asked.detach else EXIT_CODES[ended.state]


def divide(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part our flags from the verb's words."""
    ours: list[str] = []
    theirs: list[str] = []
    rest = iter(words)
    for word in rest:
        flag = word.partition("=")[0].replace("_", "-")
        if flag not in _FLAGS:
            theirs.append(word)
            continue
        ours.append(word)
        if flag == "--address" and "=" not in word:
            ours += [value for value in [next(rest, None)] if value is not None]
    return ours, theirs


def _tell(console: Console, ended: "Submitted", mlflow: str, later: str) -> None:
    """Say how it ended, where its record is, and what may come next."""
    minutes, seconds = divmod(int(ended.seconds), 60)
    lines = [f"\n{ended.state:<10}{ended.run}, {minutes}:{seconds:02d}"]
    if path := ended.result.get("path"):
        lines.append(f"{'result':<10}{path}")
    known = f", run {ended.result['mlflow']}" if ended.result.get("mlflow") else ""
    lines += [f"{'mlflow':<10}{mlflow}{known}", f"\nNext: {later}"]
    if ended.state != "done":
        lines.append("      the same command tries again, and goes on from what is written")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
