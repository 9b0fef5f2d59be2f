"""``python -m training.loop``, where torch is all there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import BadValue, UnknownKey
from tests.training.conftest import write_features
from training.alone import settled

ROOT = Path(__file__).resolve().parents[2]
TRACED = """
import runpy, sys
sys.argv = ["training.loop", *{arguments!r}]
try:
    runpy.run_module("training.loop", run_name="__main__")
except SystemExit as end:
    print("code", end.code)
print("heavy", [m for m in ("ray", "deepspeed", "mlflow", "tyro") if m in sys.modules])
"""


def test_the_loop_trains_alone_and_imports_nothing_of_a_cluster(tmp_path):
    features = write_features(tmp_path / "features", codec="random:tiny-sd")
    settings = ["steps=3", "log_every=1", "optimiser.learning_rate=1e-3", "scale.threads=1"]
    arguments = ["tiny", "--data", str(features), "--out", str(tmp_path / "run")]
    arguments += [word for setting in settings for word in ("--set", setting)]
    told = subprocess.run(
        [sys.executable, "-c", TRACED.format(arguments=arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    lines = told.stdout.splitlines()
    assert lines[-2:] == ["code 0", "heavy []"], told.stderr
    line = r"step 3 of 3: loss \d\.\d{4}, [\d,.]+ images/s, 0 s left"
    assert re.fullmatch(line, lines[2])
    assert (tmp_path / "run/step-0000003/done.json").exists()


def test_settings_are_laid_over_a_recipe_by_their_dotted_names():
    made = settled("tiny", "features", ["optimiser.learning_rate=5e-4", "scale.compile=true"])
    assert (made.optimiser.learning_rate, made.scale.compile) == (5e-4, True)
    assert (made.data.path, made.base.weights) == ("features", "random:tiny-sd")


def test_settings_that_are_not_known_or_cannot_work_are_refused():
    with pytest.raises(UnknownKey, match="Did you mean 'learning_rate'"):
        settled("tiny", "features", ["optimiser.learning_rat=1"])
    with pytest.raises(BadValue, match="KEY=VALUE"):
        settled("tiny", "features", ["steps"])
    with pytest.raises(BadValue, match="type int"):
        settled("tiny", "features", ["steps=many"])
