"""``visage quickstart``: a small web on loopback, curated before your eyes."""

import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from infra.storage import open_store
from pipelines.commands.curate import Arguments, carry_out
from pipelines.recipes import Source, quickstart

USUAL_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Serve a small web on loopback and curate it with the recipe ``quickstart``."""

    folder: str = "quickstart"
    """Where the URL table and the run are written."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Serve, curate, and say what to try next."""
    from pipelines.sample_web import SampleWeb

    asked = tyro.cli(Quickstart, args=arguments, prog="visage quickstart")
    console = Console(stderr=asked.json, highlight=False)
    home = Path(open_store(asked.folder).path)
    with SampleWeb(port=free_port()) as web:
        table = home / "urls.csv"
        rows = web.write_table(table)
        console.print(
            f"A small web, made of photographs that installed packages carry, is at {web.url}\n"
            f"{table} names {rows} pictures on it; some are traps.\n",
            soft_wrap=True,
        )
        recipe = replace(quickstart(), source=Source(path=str(table)))
        code = carry_out(Arguments(recipe=recipe, store=str(home / "store"), json=asked.json))
    if code == 0 and not asked.json:
        sys.stdout.write(_next(home))
    return code


def free_port() -> int:
    """Return the usual port if it is free, so that the same command finds the same URLs again."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def _next(home: Path) -> str:
    return f"""
The corpus is in the run's export folder: Parquet, WebDataset and InstantID's layout.
Three things to try next:

  visage curate photos --source.path ~/Pictures --store {home}/store
  visage curate quickstart --help
  mlflow ui --backend-store-uri sqlite:///{(home / "store").resolve()}/mlflow.db
"""
