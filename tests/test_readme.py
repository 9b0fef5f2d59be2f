"""What the README says is true: its tree, its code, its commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LISTED = ("pipelines", "stages", "training", "serving", "infra")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def tree():
    """Yield the paths of the tree in the README."""
    section = README.split("## The house")[1].split("## How to add")[0]
    folder = ""
    for indent, path, caption in re.findall(r"^    ( *)(\S+)\s{2,}(.+)$", section, re.MULTILINE):
        assert caption
        if not indent:
            folder = path if path.endswith("/") else ""
        yield f"{folder}{path}" if indent else path


def test_the_tree_names_every_file_that_is_there_and_no_other():
    named = set(tree())
    assert {path for path in named if not (ROOT / path).exists()} == set()
    folders = tuple(path for path in named if path.endswith("/") and path.count("/") > 1)
    there = {
        str(file.relative_to(ROOT))
        for package in LISTED
        for file in (ROOT / package).rglob("*")
        if file.suffix in (".py", ".j2", ".txt", ".yaml") and file.name != "__init__.py"
    }
    assert {path for path in there - named if not path.startswith(folders)} == set()


@pytest.fixture(scope="module")
def curated(tmp_path_factory, astronaut):
    """A folder in which the README's commands have run."""
    home = tmp_path_factory.mktemp("readme")
    (home / "album").mkdir()
    with Image.open(astronaut) as image:
        image.convert("RGB").crop((60, 0, 400, 340)).save(home / "album/astronaut.jpg")
    (home / "urls.csv").write_text("url,caption\nhttp://127.0.0.1/a.jpg,a man\n")
    (script,) = blocks("bash")
    told = subprocess.run(
        ["bash", "-euc", f"PATH={Path(sys.executable).parent}:$PATH; {script}"],
        cwd=home, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return home


@pytest.mark.ray
def test_its_commands_run_and_its_way_to_read_a_corpus_works(curated, monkeypatch, capsys):
    monkeypatch.chdir(curated)
    run = next(
        path.name for path in (curated / "store").iterdir() if path.name.startswith("photos")
    )
    (reading,) = (code for code in blocks("python") if "read_table" in code)
    exec(reading, {"run": run})  # the README's own code
    assert capsys.readouterr().out.startswith("1 ['id'")


@pytest.mark.parametrize("code", [c for c in blocks("python") if "read_table" not in c])
def test_its_examples_of_adding_things_are_true(code):
    exec(code, {"__name__": "readme"})  # the README's own code; it asserts for itself


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{name}: $(READY)" in makefile for name in ("quickstart", "test", "bench"))
