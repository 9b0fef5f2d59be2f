import threading
import time

import pytest

from serving.database import open_database
from serving.provenance import fingerprints
from serving.provenance.credentials import UNTRUSTED, Credential, Made
from serving.provenance.fingerprints import Fingerprints
from serving.provenance.verdicts import SENTENCES, judge


@pytest.fixture
def engine(tmp_path):
    engine = open_database(str(tmp_path / "records.db"))
    yield engine
    engine.dispose()


def test_a_fingerprint_leads_back_to_key_and_request(engine):
    held = Fingerprints(engine)
    began = time.time()
    payload = held.issue("k1", "request-1")
    found = Fingerprints(engine).find(payload)
    assert (found.key_id, found.request_id) == ("k1", "request-1")
    assert began <= found.issued <= time.time()
    assert held.find((payload + 1) % 2**32) is None


def test_no_two_requests_share_one(engine, monkeypatch):
    held = Fingerprints(engine)
    drawn = iter([5, 5, 5, 6])
    monkeypatch.setattr(fingerprints.secrets, "randbits", lambda _: next(drawn))
    assert [held.issue("k", "a"), held.issue("k", "b")] == [5, 6]
    assert held.find(5).request_id == "a"


def test_many_at_once_each_get_their_own(engine):
    found, held = [], Fingerprints(engine)

    def issue(who):
        found.extend((held.issue(who, f"{who}-{i}"), f"{who}-{i}") for i in range(5))

    threads = [threading.Thread(target=issue, args=(f"k{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({payload for payload, _ in found}) == 20
    assert all(held.find(payload).request_id == request for payload, request in found)


OURS = Made(model="a/1", watermark="0000000a")
UNMARKED = Made(model="a/1")


@pytest.mark.parametrize(
    ("state", "made", "problems", "mark", "markable", "verdict"),
    [
        ("trusted", OURS, (), "0000000a", True, "made_here"),
        ("trusted", UNMARKED, (), "", True, "made_here"),
        ("trusted", None, (), "", True, "made_here"),
        ("trusted", OURS, (), "", False, "made_here"),  # too small now, or marked by others
        ("absent", None, (), "0000000a", True, "mark_only"),
        ("absent", None, (), "", True, "nothing_found"),
        ("altered", OURS, (), "0000000a", True, "altered"),
        ("altered", UNMARKED, (), "", True, "altered"),
        ("altered", OURS, (), "", True, "watermark_scrubbed"),
        ("altered", OURS, (), "0000000b", True, "watermark_scrubbed"),
        ("trusted", OURS, (), "", True, "watermark_scrubbed"),
        ("forged", OURS, (), "0000000a", True, "credential_forged"),
        ("forged", None, (), "", True, "credential_forged"),
        ("unknown_signer", OURS, (UNTRUSTED,), "", True, "other_signer"),
        ("altered", OURS, (UNTRUSTED,), "", True, "credential_forged"),
    ],
)
def test_what_was_found_has_one_verdict_and_a_sentence(
    state, made, problems, mark, markable, verdict
):
    credential = Credential(state=state, made=made, problems=problems)
    assert judge(credential, mark, markable=markable) == verdict
    assert SENTENCES[verdict]
