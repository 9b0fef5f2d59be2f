"""Courtesy: other tries, rests, robots.txt, opt-outs."""

import time

import pytest

from tests.stages.web.hostile_web import (
    PICTURE,
    RESET,
    Web,
    answer,
    fetching,
    outcome,
    row,
    serving,
    to,
)


@pytest.fixture
def site():
    with serving(Web()) as url:
        yield url


@pytest.fixture
def fetch():
    with fetching() as stage:
        yield stage


def test_what_can_heal_is_tried_again_and_counted():
    pages = {
        "/once-503": [answer(status=503), answer(PICTURE)],
        "/once-reset": [RESET, answer(PICTURE)],
    }
    web = Web(more=pages)
    with serving(web) as site, fetching(attempts=3) as stage:
        got = stage({"url": [f"{site}/once-503", f"{site}/once-reset", f"{site}/picture"]})
        assert got["error"] == ["", "", ""]
        assert got["attempts"] == [2, 2, 1]
        assert (web.times("/once-503"), web.times("/once-reset")) == (2, 2)


@pytest.mark.parametrize(
    ("path", "error", "tries"),
    [("/status/503", "http_5xx", 3), ("/status/429", "http_4xx", 3), ("/status/404", "http_4xx", 1),
     ("/cut-short", "truncated", 3), ("/no-http", "bad_http", 1), ("/empty", "empty", 1)],
)  # fmt: skip
def test_what_stays_ill_is_given_up_and_what_cannot_heal_is_asked_once(path, error, tries):
    web = Web()
    with serving(web) as site, fetching(attempts=3) as stage:
        got = row(stage, site + path)
    assert (got["error"], got["attempts"], web.times(path)) == (error, tries, tries)


def test_retry_after_is_waited_for():
    busy = [answer(status=429, Retry_After="1"), answer(PICTURE)]
    with serving(Web(more={"/busy": busy})) as site, fetching(attempts=2) as stage:
        began = time.perf_counter()
        assert row(stage, f"{site}/busy")["error"] == ""
        assert 1.0 <= time.perf_counter() - began < 2.0


def test_a_host_that_wants_a_long_rest_is_not_asked_again():
    web = Web(more={"/busy": answer(status=503, Retry_After="3600")})
    with serving(web) as site, fetching(attempts=3, budget_s=30.0) as stage:
        assert outcome(stage, f"{site}/busy") == (
            "http_5xx", "answered 503 and wants 3600 s of rest",
        )  # fmt: skip
        got = row(stage, f"{site}/picture")
    assert (got["error"], got["attempts"]) == ("host_paused", 1)
    assert [path for path, _ in web.asked] == ["/busy"]


@pytest.mark.parametrize(
    ("robots", "error"),
    [
        (b"User-agent: *\nDisallow: /", "robots_disallowed"),
        (b"User-agent: visage\nDisallow: /pic", "robots_disallowed"),
        (b"User-agent: other\nDisallow: /", ""),
        (b"", ""),
        (404, ""),
        (503, "robots_unavailable"),
        (None, "robots_unavailable"),
    ],
)
def test_robots_txt_is_asked_first_and_once(robots, error):
    web = Web(robots)
    with serving(web) as site, fetching(robots="obey", deadline_s=0.3) as stage:
        got = stage({"url": [f"{site}/picture?{n}" for n in range(3)] + [f"{site}/to-picture"]})
    paths = [path for path, _ in web.asked]
    assert (paths[0], paths.count("/robots.txt")) == ("/robots.txt", 1)
    if error:
        assert set(got["error"][:3]) == {error}
        assert not any(path.startswith("/picture") for path in paths)


def test_robots_txt_is_tried_again_and_followed_where_it_moved():
    moved = {
        "/robots.txt": [answer(status=503), to("/r.txt")],
        "/r.txt": answer(b"User-agent: *\nDisallow: /"),
    }
    with serving(Web(more=moved)) as site, fetching(robots="obey", attempts=2) as stage:
        assert outcome(stage, f"{site}/picture")[0] == "robots_disallowed"


def test_a_redirect_into_what_robots_txt_forbids_is_not_followed():
    web = Web(b"User-agent: *\nDisallow: /pic")
    with serving(web) as site, fetching(robots="obey") as stage:
        error, detail = outcome(stage, f"{site}/to-picture")
    assert (error, detail) == (
        "robots_disallowed", "robots.txt disallows /picture after 1 redirect",
    )  # fmt: skip
    assert web.times("/picture") == 0


def test_the_hosts_crawl_delay_is_kept_and_longer_with_more_fetchers():
    web = Web(b"User-agent: *\nCrawl-delay: 0.1")
    with serving(web) as site:
        for shares, least_s in ((1, 0.2), (3, 0.6)):
            with fetching(robots="obey", shares=shares) as stage:
                began = time.perf_counter()
                got = stage({"url": [f"{site}/picture"] * 3})
                assert least_s <= time.perf_counter() - began < least_s + 0.5
            assert got["error"] == [""] * 3


@pytest.mark.parametrize(
    ("path", "said"),
    [("/noai", "x-robots-tag: noai"), ("/tdm", "tdm-reservation: 1"),
     ("/to-noindex", "x-robots-tag: noindex")],
)  # fmt: skip
def test_an_opt_out_is_obeyed_and_noted(fetch, site, path, said):
    got = row(fetch, site + path)
    assert (got["error"], got["opt_out"], got["blob"]) == ("opted_out", said, None)
    with fetching(optouts="ignore") as stage:
        got = row(stage, site + path)
    assert (got["error"], got["blob"]) == ("", PICTURE)
    assert got["opt_out"] == said


def test_what_the_server_says_of_the_version_is_noted():
    known = answer(PICTURE, ETag='"v1"', Last_Modified="Thu, 01 Jan 2026 12:00:00 GMT")
    with serving(Web(more={"/known": known})) as site, fetching() as stage:
        got = row(stage, f"{site}/known")
    assert (got["etag"], got["last_modified"]) == ('"v1"', "Thu, 01 Jan 2026 12:00:00 GMT")


def test_a_refresh_asks_for_another_version_only():
    class Versioned(Web):
        def page(self, _):
            told = self.asked[-1][1]
            if 'If-None-Match: "v1"' in told or "If-Modified-Since: Thu" in told:
                return answer(status=304)
            return answer(PICTURE, ETag='"v2"')

    web = Versioned()
    batch = {"etag": ['"v1"', '"v0"', "", None], "last_modified": ["", "", "Thu", None]}
    with serving(web) as site, fetching(refresh=True) as stage:
        assert stage.reads == ("url", "etag", "last_modified")
        got = stage({"url": [f"{site}/{n}" for n in range(4)], **batch})
    assert got["error"] == ["unchanged", "", "unchanged", ""]
    assert got["attempts"] == [1, 1, 1, 1]
    assert [blob is None for blob in got["blob"]] == [True, False, True, False]
    assert got["etag"] == ["", '"v2"', "", '"v2"']
