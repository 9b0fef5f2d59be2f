"""What makes a loop one run: each step done once, found again, written down in ``loop.json``."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from infra.configuration import digest
from infra.errors import VisageError
from infra.storage import Folder
from pipelines.job import code_version, utc_now
from pipelines.loops.recipes import LoopRecipe

RECORD = "loop.json"


class StepFailed(VisageError):
    """A step of a loop ended too early; those before it are done and stay done."""

    def __init__(self, step: str, why: str, command: str, exit_code: int = 1) -> None:
        self.step, self.why, self.command = step, why, command
        self.exit_code = exit_code
        super().__init__(step, why, command, exit_code)

    def __str__(self) -> str:
        return f"The step {self.step!r} ended: {self.why}\nMend that, then go on: {self.command}"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, as ``loop.json`` has it."""

    fingerprint: str
    seconds: float
    finished_at: str
    result: dict[str, Any]
    """What the single command prints with ``--json``, or the part of it that a person reads."""
    reused: bool = False
    """Whether this call found it done."""


@dataclass(kw_only=True)
class Looping:
    """A loop at work: what its steps share, and what came of those that are done."""

    recipe: LoopRecipe
    home: Folder
    """Its store."""
    folder: Folder
    """Its own folder in there."""
    source: str
    """Digest of the pictures or the table to start from."""
    planned: tuple[str, ...]
    """Names of all steps, in their order."""
    command: str
    """What goes on with it."""
    console: Console
    address: str = ""
    """A Ray cluster; empty: RAY_ADDRESS, or embedded ones."""
    stack: ExitStack = field(default_factory=ExitStack)
    """What stays open until whoever asked for the loop has had enough."""
    steps: dict[str, Step] = field(default_factory=dict)

    def of(self, step: str, key: str) -> Any:  # noqa: ANN401 - as the step says
        """Return a part of what came of a step."""
        return self.steps[step].result[key]

    def do(
        self,
        step: str,
        settings: object,
        inputs: Mapping[str, str],
        work: Callable[[], dict[str, Any]],
        *,
        stands: Callable[[], bool] = lambda: True,
    ) -> None:
        """Do a step, or find it done.

        Args:
            step: Its name.
            settings: All of the recipe that decides it.
            inputs: What came out of the steps before.
            work: Does it. The result's ``path``, if any, is looked for when it is found done.
            stands: Whether what it made, if it is found done, is still as it was.

        Raises:
            StepFailed: It ended with an error; it says what goes on.
        """
        fingerprint = digest(step, settings, inputs, version("visage"))
        found = self._before(step)
        if found and found.fingerprint == fingerprint and _exists(found.result) and stands():
            self.console.print(f"{step}: done at {found.finished_at}, not done again", markup=False)
            self.steps[step] = replace(found, reused=True)
            return
        number = self.planned.index(step) + 1
        self.console.rule(f"{number} of {len(self.planned)}: {step}", style="dim", align="left")
        began = time.monotonic()
        with self.noted(step):
            result = work()
        self.steps[step] = Step(
            fingerprint=fingerprint, seconds=round(time.monotonic() - began, 1),
            finished_at=utc_now(), result=result,
        )  # fmt: skip
        self.record("running", step)

    @contextmanager
    def noted(self, step: str) -> Iterator[None]:
        """Write down how work on a step ended, if it ended too early."""
        try:
            yield
        except StepFailed:
            raise
        except VisageError as error:
            self.record("failed", step, str(error))
            raise StepFailed(step, str(error), self.command, error.exit_code) from error
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            self.record("stopped" if stopped else "failed", step, repr(error))
            raise

    def record(self, state: str, step: str, error: str = "") -> None:
        """Write down where the loop is, whole, after every step."""
        about = {
            "run": self.folder.name, "recipe": self.recipe.name, "state": state, "step": step,
            "error": error, "code": code_version(), "at": utc_now(), "next": self.command,
            "planned": list(self.planned), "done": list(self.steps),
            "steps": self._held() | {name: asdict(done) for name, done in self.steps.items()},
        }  # fmt: skip
        self.folder.write_json(RECORD, about)

    def _held(self) -> dict[str, Any]:
        """Return the steps that earlier calls did."""
        return dict((self.folder.read_json(RECORD) or {}).get("steps", {}))

    def _before(self, step: str) -> Step | None:
        held = self._held()
        return Step(**held[step]) if step in held else None


def _exists(result: Mapping[str, Any]) -> bool:
    return Path(result["path"]).exists() if "path" in result else True
