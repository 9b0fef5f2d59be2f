import subprocess
import sys

import pytest

from infra.errors import BadValue
from pipelines.commands.keys import main
from serving.errors import Refusal
from serving.keys import Keys


def test_a_key_is_made_shown_once_listed_and_ended(tmp_path, capsys):
    file = str(tmp_path / "keys.db")
    limits = ["--scopes", "faces", "--rate", "60", "--quota", "9", "--days", "3", "--file", file]
    assert main(["add", "the lab", *limits]) == 0
    token = capsys.readouterr().out.strip()
    keys = Keys(file, cache_s=0.0)
    assert keys.check(token, "faces").quota_per_day == 9

    assert main(["list", "--file", file]) == 0
    told = capsys.readouterr().out
    identity, secret = token.split("_", 2)[1:]
    assert identity in told
    assert "the lab" in told
    assert secret not in told

    assert main(["revoke", identity, "--file", file]) == 0
    with pytest.raises(Refusal, match="revoked"):
        keys.check(token, "faces")
    keys.close()
    assert main(["list", "--file", file]) == 0
    assert "revoked 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "x", "--scopes", "imagse"], "Did you mean 'images'?"),
        (["add", "x", "--rate", "-1"], "0 means no bound"),
        (["revoke", "nobody"], "visage keys list"),
    ],
)
def test_what_cannot_work_is_said(tmp_path, arguments, words):
    file = str(tmp_path / "keys.db")
    Keys(file, make=True).close()
    with pytest.raises(BadValue, match=words.replace("?", r"\?")):
        main([*arguments, "--file", file])


def test_only_add_makes_a_file(tmp_path):
    with pytest.raises(BadValue, match="no such file"):
        main(["list", "--file", str(tmp_path / "none.db")])
    assert not (tmp_path / "none.db").exists()


def test_help_says_what_there_is(capsys):
    assert main(["--help"]) == 0
    assert main([]) == 2
    assert "visage keys revoke ID" in capsys.readouterr().out


def test_it_loads_nothing_heavy():
    code = (
        "import sys, pipelines.commands.keys; "
        "print([m for m in ('torch', 'ray', 'fastapi', 'numpy', 'mlflow') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
