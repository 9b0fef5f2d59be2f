"""``visage doctor``: what is well, and what to do about what is not."""

import json
import socket

import pytest

from pipelines import doctor
from pipelines.cli import main
from pipelines.doctor import examine


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """A home without tokens, and no address of anything."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH",
                 "MLFLOW_TRACKING_URI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(what):
    return next(finding for finding in examine() if finding.what == what)


def test_this_machine_has_what_the_tests_need(capsys):
    assert main(["doctor", "--json"]) == 0
    states = {line["what"]: line["state"] for line in json.loads(capsys.readouterr().out)}
    needed = ("python", "data", "train", "serve", "track", "faces", "store", "mlflow", "token")
    assert {what: states[what] for what in needed} == dict.fromkeys(needed, "good")


def test_every_line_that_is_not_good_has_a_cure():
    assert [line for line in examine() if line.state != "good" and not line.cure] == []


def test_a_missing_library_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(doctor.LIBRARIES, "serve", ("fastapi", "no_such_library"))
    assert main(["doctor"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "not installed: no_such_library" in told
    assert "1 to mend." in told


def test_a_token_that_others_can_read_is_a_note(environment):
    token = environment / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    line = found("token")
    assert (line.state, line.cure) == ("note", f"chmod 600 {token}")
    assert "secret" not in str(line)
    token.chmod(0o600)
    assert found("token").state == "good"


def test_a_token_that_is_needed_and_not_there_is_bad(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert found("token").state == "bad"


def test_servers_that_do_not_answer_are_bad(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert found("mlflow").state == found("cluster").state == "bad"


def test_a_variable_that_cannot_be_used_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://somewhere")
    line = found("settings")
    assert (line.state, "MLFLOW_TRACKING_URI" in line.cure) == ("bad", True)


def test_a_file_where_the_store_should_be_is_bad(environment):
    (environment / "taken").write_text("")
    (line,) = [line for line in examine("taken/store") if line.what == "store"]
    assert line.state == "bad"


def test_a_port_that_is_taken_is_a_note(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        monkeypatch.setitem(doctor.PORTS, port, "tests")
        assert found(f"port {port}").state == "note"
    assert found(f"port {port}").state == "good"


def test_one_broken_thing_hides_no_other(monkeypatch):
    def broken():
        raise ImportError("libsomething.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor, "_gpu", broken)
    line = found("gpu")
    assert line.state == "bad"
    assert line.said == "ImportError: libsomething.so.1: cannot open shared object file"
    assert found("store").state == "good"
