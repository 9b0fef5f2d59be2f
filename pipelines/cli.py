"""The ``visage`` command: what people type.

Only the verb that is asked for is imported, so that help is instant.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

HELP = """\
usage: visage <command> ...

Curate face-identity corpora, every row accounted for; train identity adapters on them; serve them.

commands:
  quickstart   from sample photographs to a served picture in minutes, to see the whole work
  curate       carry out a recipe on a URL table, a folder or a tar, of pictures or of videos
  pairs        bring photos of one person together for training
  forget       take a person out of every run, and keep them out
  prepare      turn a curated corpus into training features
  train        train a recipe on prepared features
  evaluate     score a training run on people it never saw
  release      register a trained model; the best one becomes champion
  deploy       serve a released model, on this machine or on a cluster
  keys         make, list and revoke the API keys of what is served
  synthesize   draw a corpus of people who do not exist, with a trained model
  protect      keep a list of people whom nobody may draw
  audit        check or copy the log of what was done about people
  loop         all of these in turn, as one run that goes on where it stopped
  submit       carry one of these out on a cluster, and follow it from here
  runs         list runs and how they are, here and on a cluster; follow one, stop one
  doctor       look at all that runs depend on, and say how to mend it

`visage <command> --help` says more. Recipes and settings: `visage curate --help`.
"""

_NAMES = (
    "quickstart", "curate", "pairs", "forget", "prepare", "train", "evaluate", "release", "deploy",
    "keys", "synthesize", "protect", "audit", "loop", "submit", "runs", "doctor",
)  # fmt: skip
VERBS = {verb: f"pipelines.commands.{verb}" for verb in _NAMES}
PACKAGES = ("pipelines", "serving", "training", "stages", "infra")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 2 bad input, 1 failure, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if shadow := shadowed():
        return _complain(shadow, 2)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        sys.stdout.write(f"visage {version('visage')}\n")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        from infra.errors import nearest

        return _complain(f"There is no command {verb!r}. {nearest(verb, VERBS)}", 2)
    return _guarded(importlib.import_module(VERBS[verb]).main, rest)


def _guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Turn what a person can mend into one clear message; let bugs show themselves."""
    from infra.errors import VisageError

    try:
        return command(arguments)
    except VisageError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain(
            "Interrupted. What is written is safe; the same command goes on from there.", 130
        )


def _complain(words: str, code: int) -> int:
    sys.stderr.write(f"visage: {words}\n")
    return code


def shadowed() -> str:
    """Say whether another installed package hides one of ours, whose names are common words."""
    ours = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != ours / name / "__init__.py":
            return (
                f"The package {name!r} is not ours: Python finds {found}. Remove what installed "
                f"it, or install visage into an environment of its own."
            )
    return ""


if __name__ == "__main__":
    sys.exit(main())
