"""Imports run one way: pipelines -> serving -> training -> stages -> infra."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["pipelines", "serving", "training", "stages", "infra"]
ONLY_IN = {
    "ray": ("pipelines/", "serving/", "infra/", "training/worker.py"),
    "deepspeed": ("training/zero.py",),
    "mlflow": ("infra/mlflow_run.py", "infra/registry.py"),
    "fastapi": ("serving/",),
    "dlib": ("stages/models/",),
    "insightface": ("stages/models/",),
}


def imports(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            yield from ((str(file.relative_to(ROOT)), n.partition(".")[0]) for n in names)


@pytest.mark.parametrize("package", LAYERS)
def test_no_layer_looks_up(package):
    above = LAYERS[: LAYERS.index(package)]
    assert [(file, name) for file, name in imports(package) if name in above] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_where_they_belong(library):
    found = [file for p in LAYERS for file, name in imports(p) if name == library]
    assert [file for file in found if not file.startswith(ONLY_IN[library])] == []


@pytest.mark.parametrize("package", LAYERS)
def test_the_common_names_are_ours(package):
    found = importlib.import_module(package).__file__
    assert found == str(ROOT / package / "__init__.py"), f"`{package}` came from {found}"


def test_python_files_stay_short_enough_to_read_at_once():
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for package in LAYERS
        for file in (ROOT / package).rglob("*.py")
    }
    assert {file: n for file, n in lengths.items() if n > 300} == {}


def test_recipes_and_help_need_no_heavy_library():
    heavy = ("torch", "ray", "mlflow", "matplotlib", "pandas", "cv2")
    code = (
        "import sys, pipelines.cli, pipelines.recipes, pipelines.commands.curate;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_training_as_one_process_needs_no_ray():
    code = (
        "import sys, pipelines.train; print([m for m in ('ray', 'deepspeed') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_every_requirement_is_pinned():
    pinned = {
        re.split(r"[=@ ]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    plain = [name.partition("[")[0].lower().replace("_", "-") for name in wanted]
    assert [name for name in plain if name not in pinned] == []
