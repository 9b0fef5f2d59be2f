"""Errors a person can act on.

* VisageError: exit code 1
  - BadInput: something the user gave cannot work; exit code 2
    - UnknownRecipe: a recipe was asked for by a name nobody defined
    - UnknownKey: a recipe has no such setting
    - BadValue: a setting has a value that cannot work
    - UnreadableSource: the pictures or the table to start from cannot be read
    - MissingSourceColumn: a table lacks a column that the recipe needs
    - UnwritableStore: the place for results cannot be written
    - RunInUse: another process is working on the same run
    - BadWeights: a file of weights is not what it should be
  - MissingColumns: a stage was given a batch without the columns it reads
  - BrokenPromise: a stage returned other columns or rows than it declared
  - JobFailed: a job wrote another number of rows than it was given
  - UnaccountedRows: rows of a run ended in no way that has a name
  - CheckpointNotWritten: a checkpoint of a training run could not be written

Ray carries exceptions between processes by pickling them. So every argument goes to
``super().__init__`` and the message is made in ``__str__``.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or which names there are."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


class VisageError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code = 1


class BadInput(VisageError):
    """Something the user gave cannot work; the message says what to give instead."""

    exit_code = 2


class UnknownRecipe(BadInput):
    """A recipe was asked for by a name nobody defined."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        return (
            f"There is no recipe {self.name!r}. {nearest(self.name, self.known)} "
            "A path to a recipe's YAML file works too."
        )


class UnknownKey(BadInput):
    """A recipe has no such setting."""

    def __init__(self, key: str, known: Iterable[str], where: str) -> None:
        self.key, self.known, self.where = key, tuple(known), where
        super().__init__(key, self.known, where)

    def __str__(self) -> str:
        return f"{self.where} has no setting {self.key!r}. {nearest(self.key, self.known)}"


class BadValue(BadInput):
    """A setting has a value that cannot work."""

    def __init__(self, key: str, value: object, cure: str) -> None:
        self.key, self.value, self.cure = key, value, cure
        super().__init__(key, value, cure)

    def __str__(self) -> str:
        return f"{self.key} cannot be {self.value!r}: {self.cure}"


class UnreadableSource(BadInput):
    """The pictures or the table to start from cannot be read."""

    def __init__(self, path: str, why: str, cure: str) -> None:
        self.path, self.why, self.cure = path, why, cure
        super().__init__(path, why, cure)

    def __str__(self) -> str:
        return f"The source {self.path!r} cannot be read: {self.why}. {self.cure}"


class MissingSourceColumn(BadInput):
    """A table lacks a column that the recipe needs."""

    def __init__(self, path: str, wanted: Iterable[str], present: Iterable[str], key: str) -> None:
        self.path, self.wanted, self.present = path, tuple(wanted), tuple(present)
        self.key = key
        super().__init__(path, self.wanted, self.present, key)

    def __str__(self) -> str:
        wanted = " or ".join(repr(name) for name in self.wanted)
        return (
            f"The table {self.path!r} has no column {wanted}; it has {list(self.present)}. "
            f"Name the right one with --{self.key}."
        )


class UnwritableStore(BadInput):
    """The place for results cannot be written."""

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(path, why)

    def __str__(self) -> str:
        return (
            f"The store {self.path!r} cannot be written: {self.why}. "
            "Give another one with --store, or mend its permissions or space."
        )


class RunInUse(BadInput):
    """Another process is working on the same run."""

    def __init__(self, run: str, path: str) -> None:
        self.run, self.path = run, path
        super().__init__(run, path)

    def __str__(self) -> str:
        return (
            f"The run {self.run!r} is being worked on by another process (it holds {self.path}). "
            "Wait for it, or stop it; then give the same command again."
        )


class BadWeights(BadInput):
    """A file of weights is not what it should be."""

    def __init__(self, path: str, why: str, cure: str = "Fetch or install it again.") -> None:
        self.path, self.why, self.cure = path, why, cure
        super().__init__(path, why, cure)

    def __str__(self) -> str:
        return f"The weights {self.path!r} cannot be used: the file {self.why}. {self.cure}"


class MissingColumns(VisageError):
    """A stage was given a batch without the columns it reads."""

    def __init__(self, stage: str, missing: Iterable[str], present: Iterable[str]) -> None:
        self.stage, self.missing, self.present = stage, tuple(missing), tuple(present)
        super().__init__(stage, self.missing, self.present)

    def __str__(self) -> str:
        return (
            f"{self.stage} reads {list(self.missing)}, but the batch has {list(self.present)}. "
            f"Put the stage that writes {self.missing[0]!r} before {self.stage}, and in the same "
            "pool if the column lives in memory only."
        )


class BrokenPromise(VisageError):
    """A stage returned other columns or rows than it declared."""

    def __init__(self, stage: str, promised: str, given: str) -> None:
        self.stage, self.promised, self.given = stage, promised, given
        super().__init__(stage, promised, given)

    def __str__(self) -> str:
        return (
            f"{self.stage} promised {self.promised} and returned {self.given}. "
            "Mend the stage: one row in, one row out, and only the columns in its `writes`."
        )


class JobFailed(VisageError):
    """A job wrote another number of rows than it was given."""

    def __init__(self, job: str, expected: int, found: int, path: str) -> None:
        self.job, self.expected, self.found, self.path = job, expected, found, path
        super().__init__(job, expected, found, path)

    def __str__(self) -> str:
        return (
            f"The job {self.job!r} was given {self.expected} rows and wrote {self.found}. "
            f"Its data in {self.path!r} is not to be trusted: delete that folder and run again."
        )


class UnaccountedRows(VisageError):
    """Rows of a run ended in no way that has a name."""

    def __init__(self, endings: Iterable[tuple[str, str, int]], rows: int) -> None:
        self.endings, self.rows = tuple(endings), rows
        super().__init__(self.endings, rows)

    def __str__(self) -> str:
        endings = "; ".join(f"{n} with {status} {reason!r}" for status, reason, n in self.endings)
        return (
            f"Of {self.rows} rows some ended in no known way: {endings}. "
            "Name the reason in REJECTIONS or ERRORS in stages/columns.py, or mend the stage "
            "that wrote it."
        )


class CheckpointNotWritten(VisageError):
    """A checkpoint of a training run could not be written."""

    def __init__(self, path: str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(path, why)

    def __str__(self) -> str:
        return (
            f"The checkpoint {self.path!r} could not be written: {self.why}. The one before it is "
            "whole: make room, then give the same command again; it goes on from there."
        )
