import asyncio

import pytest
from yarl import URL

from stages.web.refusal import Refused
from stages.web.robots import LONGEST_S, MAX_BYTES, UNAVAILABLE_S, Robots, RobotsFile

PICTURE = URL("http://host.test/private/a.jpg")


class Origin:
    """Answer with a robots.txt and count how often it was asked for."""

    def __init__(self, body=b"", status=200, cache_control="", refused=None):
        self.file, self.refused = RobotsFile(status, body, cache_control), refused
        self.asked, self.now_s = [], 0.0

    async def read(self, url):
        self.asked.append(str(url))
        await asyncio.sleep(0)
        if self.refused:
            raise self.refused
        return self.file

    def robots(self, agent="visage", patience_s=60.0):
        return Robots(self.read, agent, patience_s, clock=lambda: self.now_s)


def delay_s(origin, url=PICTURE):
    return asyncio.run(origin.robots().delay_s(url))


def refusal(origin, url=PICTURE):
    with pytest.raises(Refused) as caught:
        delay_s(origin, url)
    return caught.value.error, caught.value.detail


def test_what_is_disallowed_for_all_is_not_asked():
    origin = Origin(b"User-agent: *\nDisallow: /private/\n")
    assert refusal(origin) == ("robots_disallowed", "robots.txt disallows /private/a.jpg")
    assert delay_s(origin, URL("http://host.test/public.jpg")) == 0.0


def test_a_group_of_our_own_goes_before_that_of_all():
    told = (
        b"User-agent: *\nDisallow: /\n\nUser-agent: Visage\nDisallow: /private/b\nCrawl-delay: 2\n"
    )
    assert delay_s(Origin(told)) == 2.0
    assert refusal(Origin(told), URL("http://host.test/private/b.jpg"))[0] == "robots_disallowed"
    named = b"User-agent: visage\nDisallow: /\n\nUser-agent: *\nAllow: /\n"
    assert refusal(Origin(named))[0] == "robots_disallowed"


def test_the_query_counts_and_the_longest_rule_wins():
    told = b"User-agent: *\nDisallow: /*?secret\nDisallow: /private\nAllow: /private/a\n"
    assert delay_s(Origin(told)) == 0.0
    assert refusal(Origin(told), URL("http://host.test/x?secret=1"))[0] == "robots_disallowed"


def test_a_request_rate_is_a_delay_and_one_beyond_patience_a_refusal():
    assert delay_s(Origin(b"User-agent: *\nRequest-rate: 1/5\n")) == 5.0
    error, detail = refusal(Origin(b"User-agent: *\nCrawl-delay: 86400\n"))
    assert (error, detail) == ("robots_disallowed", "robots.txt wants 86400 s between requests")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
def test_where_there_is_no_robots_txt_all_is_allowed(status):
    assert delay_s(Origin(status=status)) == 0.0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_is_asked_for_nothing(status):
    assert refusal(Origin(status=status)) == (
        "robots_unavailable",
        f"robots.txt: answered {status}",
    )


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (Refused("first_byte", "no answer within 1 s", heals=True), "robots_unavailable"),
        (Refused("too_many_redirects", "answered 302 again"), "robots_unavailable"),
        (Refused("dns", "nobody knows it"), "dns"),
        (Refused("connect", "refused", heals=True), "connect"),
        (Refused("forbidden_address", "10.0.0.1 is not a public address"), "forbidden_address"),
        (Refused("host_paused", "the host wants rest"), "host_paused"),
    ],
)
def test_what_keeps_us_from_asking_keeps_us_from_the_rest(refused, error):
    assert refusal(Origin(refused=refused)) == (error, f"robots.txt: {refused.detail}")


def test_rows_of_one_origin_wait_for_one_request():
    async def go(origin):
        robots = origin.robots()
        urls = [URL(f"http://host.test/{n}.jpg") for n in range(20)]
        await asyncio.gather(*map(robots.delay_s, urls))
        await robots.delay_s(URL("https://host.test/x.jpg"))
        await robots.delay_s(URL("http://host.test:8080/x.jpg"))

    origin = Origin()
    asyncio.run(go(origin))
    assert origin.asked == [
        "http://host.test/robots.txt",
        "https://host.test/robots.txt",
        "http://host.test:8080/robots.txt",
    ]


@pytest.mark.parametrize(
    ("origin", "good_for_s"),
    [
        (Origin(), LONGEST_S),
        (Origin(cache_control="public, max-age=3600"), 3600.0),
        (Origin(cache_control="max-age=0"), 300.0),
        (Origin(cache_control="max-age=99999999"), LONGEST_S),
        (Origin(cache_control="s-max-age=400"), LONGEST_S),
        (Origin(status=404), LONGEST_S),
        (Origin(status=503), UNAVAILABLE_S),
    ],
)
def test_an_answer_is_good_for_a_while_and_a_day_at_most(origin, good_for_s):
    async def go():
        robots = origin.robots()
        for origin.now_s in (0.0, good_for_s - 1, good_for_s + 1):
            await asyncio.gather(robots.delay_s(PICTURE), return_exceptions=True)
            yield len(origin.asked)

    async def collect():
        return [number async for number in go()]

    assert asyncio.run(collect()) == [1, 1, 2]


def test_garbage_allows_all_and_what_is_beyond_the_cap_is_not_read():
    assert delay_s(Origin(bytes(range(256)) * 10)) == 0.0
    late = b"#" * MAX_BYTES + b"\nUser-agent: *\nDisallow: /\n"
    assert delay_s(Origin(late)) == 0.0


def test_few_origins_are_remembered(monkeypatch):
    async def go():
        robots = Origin().robots()
        for n in range(20):
            await robots.delay_s(URL(f"http://h{n}.test/"))
        return len(robots._known)

    monkeypatch.setattr("stages.web.robots._KEPT_ORIGINS", 5)
    assert asyncio.run(go()) == 5
