"""``visage runs``: what runs there are, how they are, and what to type next."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from infra.errors import BadValue
from pipelines.runs import DEFAULT_STORES, Seen, changed, find, named, reports

HELP = """\
usage: visage runs [RUN] [--store STORE ...] [--follow] [--sync] [--json]
       visage runs [RUN] --address http://HOST:8265 [--follow] [--stop] [--json]

List the runs in some stores (default: store, features, trained) and how they are: done, running,
stopped (the same command goes on) or failed. With RUN, a name or a path, show that one: settings
that are not the recipe's, reports, checkpoints, scores, and the next command.

--follow shows what a running RUN reports until it ends.
--sync sends MLflow what waits in the stores because it could not be reached.
--address looks at what `visage submit` sent to a cluster; --stop ends such a RUN.

exit codes: 0 done; 1 a followed run ended before its end, or records still wait; 2 bad input;
5 lost sight of a run on a cluster, 130 Ctrl-C: it goes on.
"""
POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """List runs, or show one."""

    store: tuple[str, ...] = ()
    """Folders that hold runs."""
    follow: bool = False
    """Show what a running run reports until it ends."""
    sync: bool = False
    """Send MLflow what waits in the stores."""
    address: str = ""
    """Of a cluster's dashboard: look at what was submitted to it."""
    stop: bool = False
    """End a run on a cluster."""
    json: bool = False
    """Write JSON, and nothing else, to standard output."""


def main(arguments: list[str]) -> int:
    """Parse, look, tell."""
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    run = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    asked = tyro.cli(Arguments, args=arguments[1:] if run else arguments, prog="visage runs")
    console = Console(stderr=asked.json, highlight=False)
    stores = asked.store or tuple(name for name in DEFAULT_STORES if Path(name).is_dir())
    if asked.sync:
        return sync(stores, console)
    for flag in ("follow", "stop"):
        if getattr(asked, flag) and not run:
            raise BadValue(f"--{flag}", True, f"name the run, as in `visage runs NAME --{flag}`.")
    if asked.address:
        from pipelines.commands.cluster_runs import look

        return look(run, asked, console)
    if asked.stop:
        cure = "name its cluster with --address; here, Ctrl-C where it runs ends it."
        raise BadValue("--stop", True, cure)
    if run:
        seen = named(run, stores)
        if asked.follow:
            return follow(seen, console)
        show(seen, console)
        if asked.json:
            sys.stdout.write(json.dumps(asdict(seen)) + "\n")
        return 0
    every = find(stores)
    if asked.json:
        sys.stdout.write(json.dumps([asdict(seen) for seen in every]) + "\n")
    else:
        console.print(table(every) if every else _nothing(stores))
    return 0


def show(seen: Seen, console: Console) -> None:
    """Show one run."""
    folder, detail = Path(seen.path), seen.detail
    lines = [f"{seen.kind:<10}{seen.path}", f"{seen.state:<10}{seen.progress}, {_age(seen.age_s)}"]
    if seen.result:
        lines.append(f"result    {seen.result}")
    if detail.get("error"):
        lines.append(f"error     {detail['error']}")
    if (folder / "recipe.yaml").exists():
        other = changed(folder)
        lines.append(f"recipe    {seen.recipe}{', but with' if other else ''}")
        lines += [f"          {k}: {v!r} (usually {u!r})" for k, (v, u) in other.items()]
    lines += [f"          {_line(report)}" for report in detail.get("reports", [])]
    if marks := detail.get("checkpoints"):
        best = detail["best"].get("checkpoint", "")
        told = [f"{name} (best by {detail['best']['metric']})" if name == best else name
                for name in marks]  # fmt: skip
        lines.append(f"weights   {', '.join(told)}")
    for name, score in detail.get("scores", {}).items():
        interval = f"{score['low']:.4g} to {score['high']:.4g}, n = {score['n']}"
        lines.append(f"score     {name} {score['value']:.4g} ({interval})")
    for name in ("reject", "error") if seen.kind == "curate" else ():
        lines += [f"{name:<10}{reason}: {n:,}" for reason, n in (detail.get(name) or {}).items()]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.print(f"\nNext: {seen.next}", markup=False, soft_wrap=True)


def follow(seen: Seen, console: Console) -> int:
    """Show what a run reports until it ends; return 0 if it came to its end."""
    folder, told, said = Path(seen.path), 0, ""
    while True:
        seen = named(seen.path, ())
        if seen.kind == "train":
            lines = reports(folder)
            # A run that resumed takes the steps after its checkpoint again.
            for report in lines[told:]:
                console.print(_line(report), markup=False)
            told = len(lines)
        elif seen.progress != said:
            said = seen.progress
            console.print(said, markup=False)
        if seen.state != "running":
            console.print(f"{seen.name} is {seen.state}: {seen.progress}\n\nNext: {seen.next}",
                          markup=False, soft_wrap=True)  # fmt: skip
            return 0 if seen.state == "done" else 1
        time.sleep(POLL_S)


def sync(stores: Sequence[str], console: Console) -> int:
    """Send MLflow what waits; return 0 when nothing is left."""
    from infra.storage import open_folder
    from infra.tracking import send_waiting

    find(stores)  # refuses folders that are not there
    every = [sent for store in stores for sent in send_waiting(open_folder(store))]
    for sent in every:
        told = sent.problem or "sent"
        console.print(f"{sent.experiment} {sent.run}: {sent.records} records, {told}",
                      markup=False, soft_wrap=True)  # fmt: skip
    if not every:
        console.print("Nothing waits for MLflow.")
    return 1 if any(sent.problem for sent in every) else 0


def table(every: Sequence[Seen]) -> Table:
    """Lay runs out, one in a row."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "run", "state", "progress", "result", "changed"):
        rows.add_column(name, no_wrap=name not in ("progress", "result"), overflow="fold")
    for seen in every:
        name = f"{seen.recipe}\n  {seen.name}" if seen.kind == "evaluate" else seen.name
        rows.add_row(seen.kind, name, seen.state, seen.progress, seen.result, _age(seen.age_s))
    return rows


def _nothing(stores: Sequence[str]) -> str:
    where = ", ".join(stores) or " or ".join(DEFAULT_STORES)
    return f"There are no runs in {where}. Name other folders with --store."


def _line(report: dict[str, object]) -> str:
    """Say one report in a line."""
    losses = report.get("losses")
    told = losses if isinstance(losses, dict) else {}
    words = [f"{name} {value:.4f}" for name, value in told.items()]
    saved = ", checkpoint" if report.get("checkpoint") else ""
    return (
        f"step {report['step']}: {', '.join(words)}, {report['images_per_s']:,.1f} images/s{saved}"
    )


def _age(seconds: float) -> str:
    """Say an age in its largest unit."""
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
