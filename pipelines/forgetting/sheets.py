"""Pages that show people who are held out of a training, and how they are drawn.

Who is on one is not written down, so all of a corpus go when somebody of it is forgotten.
"""

import json
from collections.abc import Collection
from pathlib import PurePosixPath

from infra.storage import Folder
from training.evaluation.validation import SHEETS

_EXPORT = "export/features.json"


def drop_sheets(home: Folder, corpora: Collection[str], runs: Collection[str]) -> None:
    """Delete the pages that show people of some corpora.

    Args:
        home: The store, or what else the person named.
        corpora: Digests, as evaluations and exports have them.
        runs: Names of the curation runs behind these, as loops have them.
    """
    for path in home.files("/scores.json"):
        folder = Folder(home.fs, path.rpartition("/")[0])
        about = folder.read_json("scores.json") or {}
        if about.get("corpus") in corpora and folder.exists("contact.png"):
            home.fs.delete_file(f"{folder.path}/contact.png")
    for path in home.files(".png") if corpora else ():
        run, _, kind = path.rpartition("/")[0].rpartition("/")
        # Where no corpus is told, as in MLflow, it may be these.
        if kind == SHEETS and (not (told := _corpora(home, run)) or not told.isdisjoint(corpora)):
            home.fs.delete_file(path)
    for path in home.files("/loop.json"):
        folder = Folder(home.fs, path.rpartition("/")[0])
        steps = json.loads(folder.read("loop.json"))["steps"]
        curated = PurePosixPath(steps.get("curate", {}).get("result", {}).get("path", "")).name
        if curated in runs and folder.exists("report.html"):
            home.fs.delete_file(f"{folder.path}/report.html")


def _corpora(home: Folder, run: str) -> set[str]:
    """Return the digests of the corpora that the checkpoints of a training run were made from."""
    told = [each.read_json(_EXPORT) for each in Folder(home.fs, run).folders()]
    return {str(about["corpus"]) for about in told if about}
