"""``visage quickstart``: from sample photographs to a served picture, before your eyes."""

import json
import shlex
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import tyro
from rich.console import Console

from infra.storage import open_store
from pipelines.commands.curate import Arguments, carry_out
from pipelines.loops.recipes import LoopRecipe, quickstart
from pipelines.recipes import Source

if TYPE_CHECKING:
    from pipelines.quickstart.shown import Lines, Shown

USUAL_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Curate a film and photographs, learn them, serve what was learnt, draw and verify a person.

    It takes some minutes on two cores; the same command again does nothing twice.
    """

    folder: str = "quickstart"
    """Where everything is written."""
    only: Literal["curate"] | None = None
    """Stop after this step: a minute."""
    serve: bool = False
    """Go on serving until Ctrl-C."""
    json: bool = False
    """End with one JSON object on the last line."""


def main(arguments: list[str]) -> int:
    """Serve the small web, carry out the steps on it, and say what to try next."""
    from pipelines.quickstart.web import SampleWeb

    asked = tyro.cli(Quickstart, args=arguments, prog="visage quickstart")
    began = time.monotonic()
    console = Console(stderr=asked.json, highlight=False)
    home = Path(open_store(asked.folder).path)
    table = home / "urls.csv"
    with SampleWeb(_port_of(table), USUAL_PORT) as web:
        rows = web.write_table(table)
        console.print(
            f"A small web, made of photographs that installed packages carry, is at {web.url}\n"
            f"{table} names {rows} pictures on it; some are traps.\n",
            soft_wrap=True,
        )
        film = _film(home, console)
        base = quickstart()
        recipe = replace(base, curate=replace(base.curate, source=Source(path=str(table))))
        if asked.only:
            return _curate(recipe, home, asked)
        return _loop(recipe, home, asked, console, film, began)


def _film(home: Path, console: Console) -> dict[str, Any]:
    """Make a film of the same photographs, curate it, and hold what is found against the truth."""
    from pipelines.quickstart.film import FILM, compare, write_video
    from pipelines.video.curate import curate_videos
    from pipelines.video.recipes import faceid_video

    write_video(home / FILM)
    recipe = replace(faceid_video(), source=Source(path=str(home / FILM)))
    result = curate_videos(recipe, str(home / "store"), console)
    found = compare(open_store(result.path) / "export")
    console.print(
        f"film      {found.sentence}\nreport    {result.report}\n", markup=False, soft_wrap=True
    )
    return asdict(found) | {"path": result.path, "report": result.report}


def _curate(recipe: LoopRecipe, home: Path, asked: Quickstart) -> int:
    store = str(home / "store")
    code = carry_out(Arguments(recipe=recipe.curate, store=store, json=asked.json))
    if code == 0 and not asked.json:
        sys.stdout.write(f"""
The corpus is in the run's export folder: Parquet, WebDataset and InstantID's layout.
Three things to try next:

  visage quickstart{_folder(asked)}
  visage curate photos --source.path ~/Pictures --store {store}
  mlflow ui --backend-store-uri sqlite:///{Path(store).resolve()}/mlflow.db
""")
    return code


def _loop(
    recipe: LoopRecipe,
    home: Path,
    asked: Quickstart,
    console: Console,
    film: dict[str, Any],
    began: float,
) -> int:
    from pipelines.commands.loop import stay, tell
    from pipelines.loop import loop
    from pipelines.quickstart.shown import lines, photos, show
    from pipelines.quickstart.web import free_port

    served = recipe.deploy.recipe
    port = free_port(served.http.port)
    served = replace(served, http=replace(served.http, port=port))
    recipe = replace(recipe, deploy=replace(recipe.deploy, recipe=served))
    again = f"visage quickstart{_folder(asked)}"
    with loop(recipe, str(home / "store"), console, again=again) as done:
        console.rule("over HTTP: draw one person, compare faces", style="dim", align="left")
        faces = photos(done.steps["curate"].result["path"], home)
        shown = show(done.url, faces, home)
        tried = lines(done.deploy, done.url, faces)
        tell(done, console)
        _tell(shown, console)
        about = asdict(done) | asdict(shown) | {"film": film, "try": asdict(tried)}
        if asked.serve:
            _end(about, tried, asked, console, began)
            stay(done, console)
    if not asked.serve:
        _end(about, tried, asked, console, began)
    return 0


def _tell(shown: "Shown", console: Console) -> None:
    """Say what the endpoint answered."""
    same, another = (
        f"{'yes' if answer['same_person'] else 'no'} (distance {answer['distance']:.2f})"
        for answer in (shown.same, shown.another)
    )
    console.print(
        f"\ndrawn     {shown.drawn}, by {shown.model}: a person it was trained on\n"
        f"signed    {shown.signed['sentence']}\n"
        f"the same person?  two cuts of one photograph: {same}; somebody else: {another}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


def _end(
    about: dict[str, Any], tried: "Lines", asked: Quickstart, console: Console, began: float
) -> None:
    """Print what to type next, in a form that can be pasted."""
    seconds = round(time.monotonic() - began, 1)
    curl = "\n".join(tried.curl)
    start = "" if asked.serve else f"Serve it:\n\n{tried.deploy}\n\n"
    console.print(
        f"\ndone in {seconds:,.0f} s\n\n{start}Ask it from another terminal, in this folder:\n\n"
        f"{curl}\n\nor in Python:\n\n{tried.python}",
        markup=False, soft_wrap=True, end="",
    )  # fmt: skip
    if asked.json:
        sys.stdout.write(json.dumps(about | {"seconds": seconds}) + "\n")
        sys.stdout.flush()


def _port_of(table: Path) -> int:
    """Return the port that a table of an earlier call names; 0: there is none."""
    first = table.read_text().splitlines()[1:2] if table.exists() else []
    return urlsplit(first[0].partition(",")[0]).port or 0 if first else 0


def _folder(asked: Quickstart) -> str:
    usual = Quickstart().folder
    return "" if asked.folder == usual else f" --folder {shlex.quote(asked.folder)}"
