"""Which people and pictures a synthetic corpus is to have, in shares.

A plan is a YAML file. `people` names values of columns that the corpus of real people has; shares
are of the people. `pictures` names ranges of what our stages measure; shares are of the pictures,
within each kind of people, so that the two are not mixed up:

    people:
      - {share: 0.5, gender: female}
      - {share: 0.5, gender: male}
    pictures:
      - {share: 0.6, yaw_deg: [-10, 10]}
      - {share: 0.4, yaw_deg: [15, 40], exposure: [0.2, 0.4]}

References:
    Nzalasse et al., "SIG: A Synthetic Identity Generation Pipeline for Generating Evaluation
    Datasets for Face Recognition", arXiv:2409.08345. SIG asks for attributes in the words of a
    prompt and by drawings of a pose; here they are asked of the identity vector, as far as it has
    them, and what came of it is measured and reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.errors import BadValue, UnknownKey

MEASURES = {
    "yaw_deg": "face_yaws_deg",
    "pitch_deg": "face_pitches_deg",
    "roll_deg": "face_rolls_deg",
    "exposure": "face_exposures",
    "sharpness": "face_sharpness",
}
"""What pictures can be asked for, and the column that it is measured in."""


@dataclass(frozen=True)
class Cell:
    """A share of the people, or of the pictures, and what it is to be like."""

    share: float = 1.0
    labels: dict[str, str] = field(default_factory=dict)
    """People: value by column of the corpus."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Pictures: lowest and highest value by measure."""

    def __str__(self) -> str:
        said = [f"{name} {value}" for name, value in self.labels.items()]
        said += [f"{name} {low:g} to {high:g}" for name, (low, high) in self.ranges.items()]
        return ", ".join(said) or "any"


@dataclass(frozen=True)
class Plan:
    """Cells whose shares sum to 1."""

    people: tuple[Cell, ...] = (Cell(),)
    pictures: tuple[Cell, ...] = (Cell(),)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the corpus that people are chosen by."""
        return tuple(sorted({name for cell in self.people for name in cell.labels}))


def read_plan(path: str) -> Plan:
    """Read a plan; an empty path asks for nothing in particular.

    Raises:
        BadValue: The file is no plan, or its shares do not sum to 1.
        UnknownKey: It has a part or a measure that is not known.
    """
    if not path:
        return Plan()
    try:
        held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadValue("plan", path, f"it cannot be read as YAML: {error}") from None
    if not isinstance(held, dict) or not held:
        raise BadValue("plan", path, "it must hold `people`, `pictures`, or both.")
    for part in held:
        if part not in ("people", "pictures"):
            raise UnknownKey(str(part), ("people", "pictures"), path)
    return Plan(*(_cells(held.get(part), part, path) for part in ("people", "pictures")))


def _cells(held: Any, part: str, path: str) -> tuple[Cell, ...]:  # noqa: ANN401 - what YAML holds
    if held is None:
        return (Cell(),)
    if not isinstance(held, list) or not all(isinstance(each, dict) for each in held) or not held:
        raise BadValue("plan", path, f"`{part}` must be a list of cells such as {{share: 0.5}}.")
    cells = tuple(_cell(each, part, path) for each in held)
    if abs(sum(cell.share for cell in cells) - 1) > 1e-6:
        shares = [cell.share for cell in cells]
        raise BadValue("plan", path, f"the shares of `{part}` are {shares}; they must sum to 1.")
    if len({tuple(sorted(cell.labels)) for cell in cells}) > 1:
        raise BadValue("plan", path, "all cells of `people` must name the same columns.")
    return cells


def _cell(held: dict[str, Any], part: str, path: str) -> Cell:
    share = held.get("share")
    if not isinstance(share, (int, float)) or isinstance(share, bool) or share <= 0:
        raise BadValue("plan", path, f"each cell of `{part}` needs a share above 0, not {share!r}.")
    rest = {str(name): value for name, value in held.items() if name != "share"}
    if part == "people":
        return Cell(float(share), labels={name: str(value) for name, value in rest.items()})
    ranges: dict[str, tuple[float, float]] = {}
    for name, value in rest.items():
        if name not in MEASURES:
            raise UnknownKey(name, MEASURES, f"{path}: pictures")
        numbers = value if isinstance(value, list) else []
        if len(numbers) != 2 or not all(isinstance(v, (int, float)) for v in numbers):
            raise BadValue("plan", path, f"{name} is {value!r}; give [lowest, highest].")
        if numbers[0] > numbers[1]:
            raise BadValue("plan", path, f"{name} is {value!r}; the lowest comes first.")
        ranges[name] = (float(numbers[0]), float(numbers[1]))
    return Cell(float(share), ranges=ranges)


def dealt(shares: Sequence[float], count: int) -> list[int]:
    """Deal cells by their shares: of the first n, each has its share of n to within one or so.

    Always the cell that is furthest behind comes next, so that a crash, or fewer than were planned,
    leaves a balanced beginning.
    """
    given = [0] * len(shares)
    order: list[int] = []
    for number in range(1, count + 1):
        behind = [share * number - had for share, had in zip(shares, given, strict=True)]
        cell = behind.index(max(behind))
        given[cell] += 1
        order.append(cell)
    return order


def assigned(plan: Plan, people: int, pictures: int) -> tuple[list[int], list[list[int]]]:
    """Give every person a cell, and every picture of each one.

    Pictures are dealt within each kind of people: otherwise halves of both would always meet.
    """
    of_people = dealt([cell.share for cell in plan.people], people)
    shares = [cell.share for cell in plan.pictures]
    decks = [iter(dealt(shares, of_people.count(cell) * pictures))
             for cell in range(len(plan.people))]  # fmt: skip
    return of_people, [[next(decks[cell]) for _ in range(pictures)] for cell in of_people]
