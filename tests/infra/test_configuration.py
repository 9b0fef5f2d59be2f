from dataclasses import dataclass, field, replace
from typing import Literal

import pytest

from infra.configuration import digest, flat, from_yaml, overlay, to_dict, to_yaml
from infra.errors import BadValue, UnknownKey


@dataclass(frozen=True, kw_only=True)
class Inner:
    size_px: int = 3
    share: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "x"
    flag: bool = False
    words: tuple[str, ...] = ("one",)
    inner: Inner = field(default_factory=Inner)


def test_a_recipe_survives_the_way_to_yaml_and_back(tmp_path):
    recipe = Outer(name="é", words=("p", "q"), inner=Inner(kind="b", share=1.0))
    (tmp_path / "r.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert from_yaml(tmp_path / "r.yaml", Outer()) == recipe


def test_what_a_file_leaves_out_stays():
    assert overlay(Outer(), {"inner": {"size_px": 9}}, "r") == Outer(inner=Inner(size_px=9))


def test_a_whole_number_will_do_for_a_float():
    assert overlay(Inner(), {"share": 1}, "r").share == 1.0


def test_an_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownKey, match=r"inner has no setting 'size'\. Did you mean 'size_px'"):
        overlay(Outer(), {"inner": {"size": 1}}, "r.yaml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"inner": {"kind": "c"}}, "choose among"),
        ({"inner": {"size_px": "3"}}, "type int"),
        ({"inner": {"size_px": True}}, "type int"),
        ({"inner": 3}, "settings below"),
        ({"words": "one"}, "give a list"),
        ({"words": [1]}, "type str"),
        ({"flag": "yes"}, "type bool"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(data, words):
    with pytest.raises(BadValue, match=words):
        overlay(Outer(), data, "r")


@pytest.mark.parametrize("content", ["a: [", "- 1", "3"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(BadValue):
        from_yaml(tmp_path / "r.yaml", Outer())


def test_nested_settings_are_named_with_dots():
    named = dict(flat(to_dict(Outer(inner=Inner(size_px=4)))))
    assert named["inner.size_px"] == 4
    assert set(named) == {"name", "flag", "words", "inner.size_px", "inner.share", "inner.kind"}


def test_a_digest_depends_on_every_setting_and_on_nothing_else():
    assert digest(Outer()) == digest(Outer())
    assert digest(Outer()) != digest(replace(Outer(), inner=Inner(size_px=4)))
    assert digest(to_dict(Outer())) == digest(Outer())
