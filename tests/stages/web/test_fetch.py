"""What the stage makes of a hostile web."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest
from aiohttp import ThreadedResolver

from infra.errors import BadValue
from stages.columns import ERRORS
from stages.types import Stage
from stages.web.fetch import Fetch
from stages.web.settings import FetchSettings
from tests.stages.web.hostile_web import (
    CAP,
    DEADLINE_S,
    JPEG,
    PICTURE,
    STILL,
    Web,
    fetching,
    outcome,
    row,
    serving,
)


@pytest.fixture
def web():
    return Web()


@pytest.fixture
def site(web):
    with serving(web) as url:
        yield url


@pytest.fixture
def fetch():
    with fetching() as stage:
        yield stage


def test_a_picture_arrives_whole_with_its_facts(fetch, site):
    got = row(fetch, f"{site}/picture#face")
    assert got["blob"] == PICTURE
    assert (got["http_status"], got["final_url"]) == (200, f"{site}/picture")
    assert (got["error"], got["error_detail"]) == ("", "")
    assert 0 < got["fetch_s"] < DEADLINE_S


def test_the_stage_writes_what_it_declares(fetch, site):
    assert isinstance(fetch, Stage)
    assert tuple(fetch({"url": [f"{site}/picture"]})) == Fetch.writes
    assert fetch({"url": []}) == {name: [] for name in Fetch.writes}


def test_a_redirect_is_followed_and_its_end_remembered(fetch, site):
    got = row(fetch, f"{site}/to-picture")
    assert (got["blob"], got["final_url"]) == (PICTURE, f"{site}/picture")


def test_a_redirect_may_hold_bytes_that_are_no_utf_8(fetch, site):
    assert row(fetch, f"{site}/to-latin-1")["blob"] == PICTURE


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, "http_4xx"),
        (429, "http_4xx"),
        (503, "http_5xx"),
        (206, "http_other"),
        (304, "http_other"),
    ],
)
def test_a_refusal_is_named_by_its_status(fetch, site, status, error):
    assert outcome(fetch, f"{site}/status/{status}") == (error, f"answered {status}")
    assert row(fetch, f"{site}/status/{status}")["http_status"] == status


def test_the_detail_counts_redirects(fetch, site):
    assert outcome(fetch, f"{site}/to-404") == ("http_4xx", "answered 404 after 1 redirect")


def test_redirects_end_after_the_last_allowed(fetch, site, web):
    assert outcome(fetch, f"{site}/to-itself")[0] == "too_many_redirects"
    assert len(web.asked) == 1 + 5


def test_a_redirect_without_an_address_is_no_picture(fetch, site):
    assert outcome(fetch, f"{site}/to-nowhere") == ("http_other", "answered 302")


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/to-metadata", "forbidden_address", "169.254.169.254 is not a public address"),
        ("/to-private-decimal", "forbidden_address", "10.0.0.1 is not a public address"),
        ("/to-private-mapped", "forbidden_address", "is not a public address"),
        ("/to-rebound", "forbidden_address", "inside.test is 169.254.169.254"),
        ("/to-file", "forbidden_scheme", "'file'"),
        ("/to-password", "bad_url", "password"),
        ("/to-nonsense", "bad_url", "http://[::1"),
    ],
)
def test_no_redirect_leads_where_a_url_may_not(fetch, site, path, error, words):
    got = outcome(fetch, site + path)
    assert got[0] == error
    assert words in got[1]
    assert got[1].endswith("after 1 redirect")


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0177.1", "0x7f.0.0.1", "[::1]", "0"])
def test_loopback_is_refused_in_every_spelling_before_anything_is_asked(site, web, host):
    with fetching(allow_loopback=False) as stage:
        assert outcome(stage, site.replace("127.0.0.1", host))[0] == "forbidden_address"
    assert web.busy == web.most_busy == 0


def test_a_name_that_leads_inside_is_refused(fetch):
    got = outcome(fetch, "http://inside.test/")
    assert got[0] == "forbidden_address"
    assert "inside.test is 169.254.169.254" in got[1]


def test_the_real_resolver_is_guarded_too(site, web):
    with fetching(allow_loopback=False, make_resolver=ThreadedResolver) as stage:
        error, _ = outcome(stage, site.replace("127.0.0.1", "localhost") + "/picture")
    assert (error, web.most_busy) == ("forbidden_address", 0)


def test_an_unknown_name_is_a_dns_error(fetch):
    error, detail = outcome(fetch, "http://nowhere.test/")
    assert error == "dns"
    assert "nowhere.test" in detail


@pytest.mark.parametrize("path", ["/drip", "/drip-header", "/silent"])
def test_a_slow_answer_ends_with_timeout_within_the_deadline(fetch, site, path):
    start = time.perf_counter()
    assert outcome(fetch, site + path) == ("timeout", f"not complete within {DEADLINE_S} s")
    assert DEADLINE_S <= time.perf_counter() - start < DEADLINE_S + 1


@pytest.mark.parametrize("path", ["/huge", "/just-too-large"])
def test_a_body_beyond_the_cap_is_too_large_and_not_kept(fetch, site, path):
    assert outcome(fetch, site + path) == ("too_large", f"more than the {CAP} bytes allowed")


def test_a_body_announced_too_large_is_not_waited_for(fetch, site):
    error, detail = outcome(fetch, f"{site}/huge-announced")
    assert (error, detail) == ("too_large", f"{CAP + 1} bytes announced, {CAP} allowed")


def test_a_body_of_exactly_the_cap_is_kept(fetch, site):
    assert len(row(fetch, f"{site}/just-fits")["blob"]) == CAP


def test_compressed_bytes_are_counted_as_they_unfold(fetch, site):
    assert row(fetch, f"{site}/gzip")["blob"] == PICTURE
    assert len(STILL["/gzip-bomb"]) < CAP
    assert outcome(fetch, f"{site}/gzip-bomb")[0] == "too_large"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/empty", "empty"),
        ("/cut-short", "truncated"),
        ("/hang-up", "connect"),
        ("/no-http", "bad_http"),
        ("/endless-header", "too_many_headers"),
    ],
)
def test_a_broken_answer_has_its_name(fetch, site, path, error):
    assert outcome(fetch, site + path)[0] == error


def test_nobody_listening_is_a_connect_error(fetch):
    with serving(Web()) as gone:
        pass
    assert outcome(fetch, gone)[0] == "connect"


def test_cookies_are_not_kept(fetch, site, web):
    fetch({"url": [f"{site}/cookie"]})
    fetch({"url": [f"{site}/cookie"]})
    assert [path for path, _ in web.asked] == ["/cookie"] * 2
    assert not any("Cookie:" in head for _, head in web.asked)


def test_a_proxy_in_the_environment_is_not_used(fetch, site, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert row(fetch, f"{site}/picture")["error"] == ""


def test_we_introduce_ourselves_and_ask_for_plain_bytes(site, web):
    with fetching(contact="a@example.com") as stage:
        row(stage, f"{site}/picture")
    said = f"User-Agent: visage/{version('visage')} (curates training data; +a@example.com)\r\n"
    assert said in web.asked[0][1]
    assert "Accept-Encoding: identity\r\n" in web.asked[0][1]


POISON = [
    "", " ", "\0", "http", "http://", "//", "://", "http://[", "http://]", "http://%", "http://%00/",
    "http://\ud800/", "http://h\ud800/", "http://xn--/", "http://xn--a/", "http://..", "http://-/",
    "http://1e9/", "http://0x/", "http://999999999999/", "http://h:99999/", "http://😀/",
    "http:\\\\h", "javascript:alert(1)", "data:image/png;base64,AAAA", "file:///etc/passwd", "ftp://h/",
    "gopher://h", "http://" + "a." * 5000,
    "http://h/" + "a" * 100_000, "http://h/\r\nHost: evil", "None", "nan",
]  # fmt: skip


def test_a_poisoned_url_never_raises_out_of_the_stage(fetch, site):
    got = fetch({"url": [*POISON, f"{site}/picture", None, 7]})
    assert [len(column) for column in got.values()] == [len(POISON) + 3] * len(Fetch.writes)
    assert got["blob"][len(POISON)] == PICTURE
    wrong = got["error"][: len(POISON)] + got["error"][len(POISON) + 1 :]
    assert set(wrong) <= set(ERRORS)
    assert set(wrong) == {"bad_url", "forbidden_scheme", "forbidden_address", "dns"}
    assert max(map(len, got["error_detail"])) <= 300


def test_rows_keep_their_order(fetch, site):
    urls = [f"{site}/slow/{i}" if i % 2 else f"{site}/status/{400 + i}" for i in range(10)]
    got = fetch({"url": urls})
    assert [blob and blob[3:].decode() for blob in got["blob"]] == [
        f"/slow/{i}" if i % 2 else None for i in range(10)
    ]


def test_one_host_is_asked_by_at_most_eight_and_waiting_costs_no_deadline(site, web):
    with fetching(deadline_s=0.5) as stage:  # 96 answers of 0.05 s, 8 at a time, take 0.6 s
        got = stage({"url": [f"{site}/slow/{i}" for i in range(96)]})
    assert set(got["error"]) == {""}
    assert max(got["fetch_s"]) < 0.5
    assert web.most_busy == 8


def test_calls_from_several_threads_share_the_turns(site, web):
    with fetching(concurrency=3) as stage, ThreadPoolExecutor(4) as threads:
        urls = [[f"{site}/slow/{i}/{j}" for j in range(4)] for i in range(4)]
        calls = list(threads.map(lambda batch: stage({"url": batch}), urls))
    assert [call["blob"][3] for call in calls] == [JPEG + f"/slow/{i}/3".encode() for i in range(4)]
    assert web.most_busy == 3


def test_closing_gives_up_what_is_under_way(site):
    with fetching(deadline_s=60.0) as stage, ThreadPoolExecutor(1) as threads:
        call = threads.submit(stage, {"url": [f"{site}/silent"]})
        time.sleep(0.2)
        stage.close()
        with pytest.raises(Exception):  # noqa: B017, PT011
            call.result(timeout=5)


def test_a_forgotten_stage_ends_its_thread(site):
    before = threading.active_count()
    stage = Fetch(FetchSettings(allow_loopback=True, robots="ignore"))
    row(stage, f"{site}/picture")
    assert threading.active_count() > before
    del stage
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_the_stages_own_thread_may_be_the_one_to_close_it(caplog):
    stage = Fetch(FetchSettings())
    thread = next(t for t in threading.enumerate() if t.name == "fetch")
    stage._loop.call_soon_threadsafe(stage.close)
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert caplog.records == []


def test_no_turn_at_all_is_refused():
    with pytest.raises(BadValue, match=r"fetch\.concurrency cannot be 0: give 1 or more"):
        FetchSettings(concurrency=0)
