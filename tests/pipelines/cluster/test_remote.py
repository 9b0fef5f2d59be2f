"""A cluster over HTTP: doors that are shut, streams that break; small servers stand for them."""

import json
import pickle
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.errors import BadValue
from pipelines.cli import main
from pipelines.cluster import log as module
from pipelines.cluster.log import Log, LostSight
from pipelines.cluster.remote import Remote, Resources, UnreachableCluster
from pipelines.runs import Seen
from pipelines.submit import NeverScheduled, _result, refuse_impossible


class Door(BaseHTTPRequestHandler):
    """Answers as Ray's dashboard does."""

    def do_GET(self):
        if pieces := self.server.streams.get(self.path):
            self.send_response(200)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(0.1)
            return
        status, body = self.server.answers.get(self.path, (404, "nothing here"))
        if self.path == "/api/version" and self.server.refusal:
            status, body = self.server.refusal, "no"
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def door():
    import ray

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.answers = {"/api/version": (200, {"version": "4", "ray_version": ray.__version__})}
    server.refusal, server.streams = 0, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def job(name, status, **more):
    return {"submission_id": name, "status": status, "entrypoint": "x", "start_time": 1000,
            "end_time": 61_000, "message": "said\nmore", "type": "SUBMISSION",
            "driver_node_id": "n",
            "metadata": {"visage.verb": "train", "visage.recipe": "tiny"}} | more  # fmt: skip


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "ray://h:10001", "http://", "auto"])
def test_what_is_no_dashboards_address_is_refused(address):
    with pytest.raises(BadValue, match=r"such as http://127\.0\.0\.1:8265"):
        Remote(address)


def test_an_address_where_nobody_answers_is_told():
    with pytest.raises(UnreachableCluster, match=r"nobody answers there\. Is it running\?"):
        Remote("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "it wants a token, and none was sent. Set RAY_AUTH_MODE=token"),
     (403, "it does not accept the token; it may have expired. Get the present one")],
)  # fmt: skip
def test_a_missing_and_an_expired_token_have_their_cures(door, status, told):
    door.refusal = status
    with pytest.raises(UnreachableCluster, match=told) as error:
        Remote(door.address)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_cluster_of_another_ray_is_refused(door):
    door.answers["/api/version"] = (200, {"version": "4", "ray_version": "2.40.0"})
    with pytest.raises(UnreachableCluster, match=r"it runs Ray 2\.40\.0, and this is Ray"):
        Remote(door.address)


def test_the_address_that_is_given_counts_not_that_of_the_environment(door, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert Remote(door.address).address == door.address


def test_runs_of_ours_are_listed_the_newest_first(door, capsys):
    jobs = [job("a", "SUCCEEDED"), job("b", "FAILED", end_time=70_000, driver_exit_code=2),
            job("other", "RUNNING", metadata={})]  # fmt: skip
    door.answers["/api/jobs/"] = (200, jobs)
    assert main(["runs", "--address", door.address, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(run["name"], run["state"], run["result"]) for run in listed] == [
        ("b", "failed", "exit code 2"), ("a", "done", ""),
    ]  # fmt: skip
    assert [run["detail"] for run in listed] == [
        {"seconds": 69.0, "error": "said\nmore", "node": "n"},
        {"seconds": 60.0, "error": "", "node": "n"},
    ]  # fmt: skip


def test_one_run_is_shown_and_an_unknown_one_is_named(door, capsys):
    door.answers |= {"/api/jobs/a": (200, job("a", "RUNNING", end_time=None)),
                     "/api/jobs/": (200, [job("a", "RUNNING")])}  # fmt: skip
    assert main(["runs", "a", "--address", door.address]) == 0
    told = capsys.readouterr().out
    assert "running   ran " in told
    assert f"Next: visage runs a --address {door.address} --follow" in told
    assert main(["runs", "b", "--address", door.address]) == 2
    assert "knows no such run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "curate", "photos", "--source.path", "x"], "name the cluster"),
        (["submit", "curate", "photos", "--address", "http://127.0.0.1:1"], "nobody answers"),
        (["submit", "curat", "--address", "http://127.0.0.1:1"], "Did you mean 'curate'?"),
        (["runs", "--address", "http://127.0.0.1:1"], "nobody answers"),
        (["runs", "--stop"], "name the run"),
        (["runs", "x", "--stop"], "--address"),
    ],
)
def test_bad_input_ends_with_one_clear_message_and_code_2(capsys, arguments, words):
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


class Breaking(Log):
    """A log whose stream breaks where it is told to; its run ends with the streams."""

    def __init__(self, *streams, last=""):
        super().__init__(None, "http://h:1", "r", self._look)
        self.streams, self.last = list(streams), last

    def tail(self, node):  # noqa: ARG002
        for piece in self.streams.pop(0) or [OSError("gone")]:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def remainder(self, shown):
        return self.last[shown:]

    def _look(self):
        return Seen(kind="train", name="r", path="", recipe="", result="", age_s=0, next="",
                    state="running" if self.streams else "done", progress="",
                    detail={"node": "n"})  # fmt: skip


def test_a_stream_that_breaks_is_taken_up_where_it_broke(monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0)
    there = Breaking(
        ["one\ntw", OSError("reset")], ["one\n", "two\nthr"], ["one\ntwo\nthree\nfo", "u"],
        last="one\ntwo\nthree\nfour",
    )  # fmt: skip
    assert list(there.lines()) == ["one", "two", "three", "four"]


def test_a_run_out_of_sight_is_given_up_with_the_way_back(monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    there, said = Breaking(["one\n", OSError("reset")], *[[] for _ in range(99)]), []
    with pytest.raises(LostSight, match=r"visage runs r --address http://h:1 --follow") as error:
        said.extend(there.lines())
    assert said == ["one"]
    assert error.value.exit_code == 5


def test_a_run_whose_node_is_gone_keeps_what_it_said_and_says_what_is_missing(door):
    died = "The actor died.\n ip: 127.0.0.3\nThe actor died because its node has died. Node Id: 1"
    door.answers["/api/jobs/a"] = (200, job("a", "FAILED", message=died))
    door.answers["/api/jobs/a/logs"] = (500, "no agent there")
    there = Remote(door.address)
    assert there.run("a").detail["error"] == "the node that its program was on has died"
    *_, last = there.lines("a")
    assert last == "The rest of what a said cannot be had: its node is gone."


def test_a_run_that_has_ended_is_told_whole_and_at_once(door):
    door.answers["/api/jobs/a"] = (200, job("a", "SUCCEEDED"))
    door.answers["/api/jobs/a/logs"] = (200, {"logs": "one\n\ntwo\n"})
    assert list(Remote(door.address).lines("a")) == ["one", "", "two"]


def test_a_log_is_shown_while_it_grows(door, monkeypatch):
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    door.answers["/api/jobs/a"] = (200, job("a", "RUNNING", end_time=None))
    door.answers["/api/jobs/a/logs"] = (200, {"logs": "one\né\nthree\n"})
    path = "/api/v0/logs/stream?node_id=n&filename=job-driver-a.log&lines=-1&interval=0.2"
    door.streams[path] = ["one\n\xc3".encode("latin-1"), b"\xa9\n"]
    lines = Remote(door.address).lines("a")
    assert [next(lines), next(lines)] == ["one", "é"]
    door.answers["/api/jobs/a"] = (200, job("a", "SUCCEEDED"))
    assert list(lines) == ["three"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"gpus": 2.0}, "GPUs: 2, and the cluster has nodes: 2, CPUs: 8, GPUs: 0"),
        ({"cpus": 9.0}, "CPUs: 9, GPUs: 0, and the cluster has nodes: 2, CPUs: 8"),
        ({"at_once_cpus": 6.0}, "CPUs: 6, GPUs: 0 on one node"),
    ],
)
def test_what_could_never_run_is_refused(more, told):
    from pipelines.cluster.errands import Wanted

    present = Resources(nodes=2, cpus=8.0, gpus=0.0, node_cpus=4.0, node_gpus=0.0)
    with pytest.raises(NeverScheduled, match=told):
        refuse_impossible(Wanted(**more), present)
    refuse_impossible(Wanted(cpus=8.0, at_once_cpus=4.0), present)


def test_only_an_object_is_a_result():
    assert _result('{"run": "x"}') == {"run": "x"}
    assert _result("[1]") == _result("done") == _result("") == {}
