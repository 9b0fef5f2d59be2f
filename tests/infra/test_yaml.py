import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.infra.manifests import INFRA

CONFIG = YamlLintConfig((INFRA / ".yamllint.yaml").read_text())
FILES = sorted(path for path in INFRA.rglob("*.y*ml") if "secrets" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(INFRA)))
def test_yamllint_finds_nothing(path):
    assert [str(problem) for problem in linter.run(path.read_text(), CONFIG)] == []


def test_a_key_that_is_given_twice_is_found():
    problems = [str(problem) for problem in linter.run("a: 1\nb: 2\na: 3\n", CONFIG)]
    assert problems == ['3:1: duplication of key "a" in mapping (key-duplicates)']
