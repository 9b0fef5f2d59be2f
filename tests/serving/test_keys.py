import multiprocessing
import sqlite3
import time

import pytest

from infra.errors import BadValue
from serving.errors import Refusal
from serving.keys import Keys
from tests.serving.doors import door, refused, visitor


@pytest.fixture
def keys(tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True, cache_s=0.0)
    yield keys
    keys.close()


def code_of(call, *arguments):
    with pytest.raises(Refusal) as refusal:
        call(*arguments)
    return refusal.value.code


def asking(keys, token=None):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return visitor(door(keys=keys)[0], **headers)


DRAW = {"prompt": "x", "seed": 1}


def test_a_key_lets_in_and_says_whose_it_is(keys):
    token = keys.add("lab", ["images"])
    assert keys.check(token, "images").name == "lab"
    answer = asking(keys, token).post("/v1/images/generations", json=DRAW)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "token",
    ["nonsense", "vsg_", "vsg_00000000_x", "vsg_{id}_wrong", "vsg_{id}", "{token}x", "sk-{token}",
     "vsg_{id}_{other}", "VSG_{secret}"],
)  # fmt: skip
def test_another_string_is_a_wrong_key(keys, token):
    mine, other = keys.add("lab", ["images"]), keys.add("other", ["images"])
    _, identity, secret = mine.split("_", 2)
    sent = token.format(id=identity, token=mine, other=other.split("_", 2)[2], secret=secret)
    refused(asking(keys, sent).post("/v1/images/generations", json=DRAW), "wrong_key")


def test_without_a_key_only_health_and_the_document_are_open(keys):
    me = asking(keys)
    open_to_all = ("/v1/health/live", "/v1/health/ready", "/openapi.json")
    assert [me.get(path).status_code for path in open_to_all] == [200] * 3
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/faces/detect",
                 "/v1/faces/embed", "/v1/faces/verify"):  # fmt: skip
        answer = me.post(path, json={})
        refused(answer, "missing_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v1/models", "/v1/models/someone@champion", "/metrics"):
        refused(me.get(path), "missing_key")


def test_another_scheme_is_no_key(keys):
    token = keys.add("lab", ["models"])
    me = visitor(door(keys=keys)[0], authorization=f"Basic {token}")
    refused(me.get("/v1/models"), "missing_key")


def test_a_revoked_key_ends_within_seconds(keys, tmp_path):
    token = keys.add("lab", ["models"])
    serving = Keys(tmp_path / "keys.db", cache_s=0.2)
    me = asking(serving, token)
    assert me.get("/v1/models").status_code == 200
    keys.revoke(token.split("_")[1])
    time.sleep(0.25)
    refused(me.get("/v1/models"), "revoked_key")
    with pytest.raises(BadValue, match="no key in use has it"):
        keys.revoke(token.split("_")[1])
    serving.close()


def test_a_key_expires(keys):
    token = keys.add("lab", ["models"], expires=time.time() - 1)
    assert "expired" in refused(asking(keys, token).get("/v1/models"), "revoked_key")["message"]


def test_a_key_is_for_its_scopes_only(keys):
    token = keys.add("lab", ["faces"])
    error = refused(asking(keys, token).get("/v1/models"), "out_of_scope")
    assert error["details"] == {"needed": "models", "scopes": ["faces"]}
    refused(asking(keys, token).get("/metrics"), "out_of_scope")
    refused(asking(keys, token).post("/v1/images/edits", json={}), "out_of_scope")


def test_a_rate_is_kept_and_says_when_to_come_back(keys):
    token = keys.add("lab", ["models"], rate_per_min=2)
    other = keys.add("other", ["models"], rate_per_min=2)
    me = asking(keys, token)
    assert [me.get("/v1/models").status_code for _ in range(2)] == [200, 200]
    answer = me.get("/v1/models")
    refused(answer, "rate_exceeded")
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert asking(keys, other).get("/v1/models").status_code == 200


def test_a_quota_counts_pictures_that_were_drawn_and_no_others(keys):
    token = keys.add("lab", ["images"], quota_per_day=3)
    me = asking(keys, token)
    assert me.post("/v1/images/generations", json={**DRAW, "n": 2}).status_code == 200
    error = refused(me.post("/v1/images/generations", json={**DRAW, "n": 2}), "quota_exceeded")
    assert 0 < error["details"]["resets_s"] <= 86400
    stream = {**DRAW, "n": 2, "stream": True}
    refused(me.post("/v1/images/generations", json=stream), "quota_exceeded")
    refused(me.post("/v1/images/generations", json={**DRAW, "size": "7x7"}), "invalid_value")
    assert me.post("/v1/images/generations", json=DRAW).status_code == 200
    refused(me.post("/v1/images/generations", json=DRAW), "quota_exceeded")


def test_what_fails_is_given_back(keys):
    token = keys.add("lab", ["images"], quota_per_day=1)
    app, images = door(keys=keys)
    me = visitor(app, authorization=f"Bearer {token}")
    images.error = Refusal("overloaded", "Come back.", retry_after_s=3)
    for stream in (False, True):
        answer = me.post("/v1/images/generations", json={**DRAW, "stream": stream})
        refused(answer, "overloaded")
    images.error = None
    assert me.post("/v1/images/generations", json=DRAW).status_code == 200


def test_a_refund_after_midnight_is_no_present(keys):
    key = keys.check(keys.add("lab", ["images"], quota_per_day=2), "images")
    keys.charge(key, -5)
    assert code_of(keys.charge, key, 3) == "quota_exceeded"


def _take(path, token, out):
    keys, taken = Keys(path), 0
    key = keys.check(token, "images")
    for _ in range(20):
        try:
            keys.charge(key, 1)
            taken += 1
        except Refusal:
            pass
    out.put(taken)


def test_processes_share_a_quota_to_the_last_picture(keys, tmp_path):
    token = keys.add("lab", ["images"], quota_per_day=25)
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    takers = [
        context.Process(target=_take, args=(tmp_path / "keys.db", token, out)) for _ in range(3)
    ]
    for taker in takers:
        taker.start()
    assert sum(out.get(timeout=30) for _ in takers) == 25
    for taker in takers:
        taker.join(30)


def test_the_file_is_private_and_holds_no_secret(keys, tmp_path):
    token = keys.add("lab", ["images"])
    secret = token.split("_", 2)[2].encode()
    files = list(tmp_path.iterdir())
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    assert all(secret not in path.read_bytes() for path in files)
    rows = sqlite3.connect(tmp_path / "keys.db").execute("SELECT salt, digest FROM keys").fetchall()
    assert len(rows[0][0]) == 16
    assert len(rows[0][1]) == 32


def test_keys_are_never_in_the_log(keys, caplog):
    caplog.set_level("DEBUG")
    token = keys.add("lab", ["faces"])
    for sent in (token, token + "x"):
        asking(keys, sent).get("/v1/models")
    assert "/v1/models" in caplog.text
    assert token.split("_", 2)[2] not in caplog.text


def test_a_file_that_is_not_there_or_not_of_keys_is_named(tmp_path):
    with pytest.raises(BadValue, match="no such file"):
        Keys(tmp_path / "keys.db")
    (tmp_path / "keys.db").write_text("hello, I am no database, and quite long at that\n" * 30)
    with pytest.raises(BadValue, match="not a file of keys"):
        Keys(tmp_path / "keys.db")
