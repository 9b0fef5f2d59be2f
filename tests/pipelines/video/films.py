"""Folders of small films whose people, cuts and faults are known."""

from io import StringIO

from rich.console import Console

from infra.configuration import overlay
from pipelines.video.curate import curate_videos
from pipelines.video.recipes import faceid_video
from tests.stages.video import made

SHE, HE = "astronaut", "hanks"
SIDE = (320, 320)


def film(path, people, frames=60):
    """Write a film of one shot per person, hard cuts between them."""
    return made.write(path, made.shots([frames] * len(people), SIDE, people))


def recipe(source, **changes):
    """Return the recipe for such a folder, with settings changed as the command line does."""
    base = {"source": {"path": str(source), "license": "CC0"}, "workers": {"lookers": 1}}
    return overlay(overlay(faceid_video(), base, "the test"), changes, "the test")


def run(recipe, store):
    """Carry a recipe out; return how it ended, and what was said."""
    out = StringIO()
    return curate_videos(recipe, str(store), Console(file=out, width=200)), out.getvalue()
