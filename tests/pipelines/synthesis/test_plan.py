"""Plans of synthetic corpora: what is read, what is refused, how cells are dealt."""

import pytest

from infra.errors import BadValue, UnknownKey
from pipelines.synthesis.plan import Cell, Plan, assigned, dealt, read_plan

HALVES = """\
people:
  - {share: 0.5, gender: female}
  - {share: 0.5, gender: male}
pictures:
  - {share: 0.75, yaw_deg: [-10, 10]}
  - {share: 0.25, yaw_deg: [15, 40], exposure: [0.2, 0.4]}
"""


def written(folder, text):
    path = folder / "plan.yaml"
    path.write_text(text)
    return str(path)


def test_a_plan_is_read_as_it_is_written(tmp_path):
    plan = read_plan(written(tmp_path, HALVES))
    assert plan.columns == ("gender",)
    assert [str(cell) for cell in plan.people] == ["gender female", "gender male"]
    assert plan.pictures[1] == Cell(0.25, ranges={"yaw_deg": (15, 40), "exposure": (0.2, 0.4)})
    assert read_plan("") == Plan()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("people: [{share: 0.5, age: 3}]", "they must sum to 1"),
        ("people: [{share: 0.5, a: x}, {share: 0.5, b: x}]", "name the same columns"),
        ("pictures: [{share: 1, yaw_deg: [3]}]", r"give \[lowest, highest\]"),
        ("pictures: [{share: 1, yaw_deg: [3, 1]}]", "lowest comes first"),
        ("pictures: [{yaw_deg: [0, 1]}]", "needs a share above 0, not None"),
        ("pictures: {share: 1}", "must be a list of cells"),
        ("- 3", "must hold `people`"),
        ("a: b: c", "cannot be read as YAML"),
    ],
)
def test_what_is_no_plan_is_refused_with_its_cure(tmp_path, text, why):
    with pytest.raises(BadValue, match=why):
        read_plan(written(tmp_path, text))


def test_an_unknown_measure_or_part_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UnknownKey, match="Did you mean 'yaw_deg'"):
        read_plan(written(tmp_path, "pictures: [{share: 1, yaw: [0, 1]}]"))
    with pytest.raises(UnknownKey, match="Did you mean 'people'"):
        read_plan(written(tmp_path, "peoples: [{share: 1}]"))


def test_every_beginning_of_what_is_dealt_has_its_shares():
    shares = [0.5, 0.3, 0.2]
    order = dealt(shares, 1000)
    for end in range(1, 1001):
        for cell, share in enumerate(shares):
            assert abs(order[:end].count(cell) - share * end) <= 1
    assert dealt(shares, 40) == order[:40]


def test_kinds_of_pictures_do_not_follow_kinds_of_people(tmp_path):
    plan = read_plan(written(tmp_path, HALVES.replace("0.75", "0.5").replace("0.25", "0.5")))
    people, pictures = assigned(plan, 20, 1)
    met = {(person, shown) for person, (shown,) in zip(people, pictures, strict=True)}
    assert met == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert people.count(0) == 10
