"""A process that takes a step when it is asked to, so that several can take theirs by turns.

It tells a line of JSON after each step, ``{"step_s": ...}``, takes the next one when a line comes
in, and at the end of these tells one line more.
"""

import json
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class Failed(Exception):
    """A process ended, or was too slow."""


class Side:
    """One such process."""

    def __init__(self, command: list[str], environment: Mapping[str, str], limit_s: float) -> None:
        """Start it.

        Args:
            command: Its words.
            environment: Its variables.
            limit_s: How long its start, or any step, may take.
        """
        self.limit_s, self.each_s = limit_s, list[float]()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment,
        )  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether there is no process any more."""
        return self._process.poll() is not None

    def begin(self) -> None:
        """Wait for its first step, which does not count.

        Raises:
            Failed: There is none.
        """
        self._answer()

    def step(self) -> float:
        """Take a step; return its seconds.

        Raises:
            Failed: It was not taken.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.each_s.append(float(self._answer()["step_s"]))
        return self.each_s[-1]

    def end(self) -> dict[str, Any]:
        """Ask for no more steps; return what it tells at its end.

        Raises:
            Failed: It tells nothing.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()

    def close(self) -> None:
        """Leave nothing behind."""
        self._process.kill()
        with self._process, self._errors:
            pass

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        watch = threading.Timer(self.limit_s, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if (code := self._process.wait()) == -signal.SIGKILL:
            raise Failed(f"it took longer than {self.limit_s:g} s, or was killed")
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines() or [f"it ended with {code}"]
        raise Failed(lines[-1][:160])
