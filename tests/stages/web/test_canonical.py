import random

import pytest

from stages.web.canonical import canonical_url, row_id

SPELLINGS = [
    ("HTTP://Example.COM", "http://example.com/"),
    ("https://example.com:443/a", "https://example.com/a"),
    ("http://example.com:443/a", "http://example.com:443/a"),
    ("http://example.com:0080/", "http://example.com/"),
    ("http://example.com:/", "http://example.com/"),
    ("http://example.com./a", "http://example.com/a"),
    ("http://example.com/a#face", "http://example.com/a"),
    (" http://example.com/\n a ", "http://example.com/%20a"),
    ("http://example.com/%7ejoe/%c3%a9", "http://example.com/~joe/%C3%A9"),
    ('http://example.com/é b"<>|', "http://example.com/%C3%A9%20b%22%3C%3E%7C"),
    ("http://example.com/100%", "http://example.com/100%25"),
    ("http://example.com/%%34%31", "http://example.com/%2541"),
    ("http://example.com/a/./b/../c/%2E%2e/d", "http://example.com/a/d"),
    ("http://example.com/../../a/..", "http://example.com/"),
    ("http://example.com/.hidden/a..b", "http://example.com/.hidden/a..b"),
    ("http://example.com//a//b", "http://example.com//a//b"),
    ("http://example.com?b=2&a=1&a=0", "http://example.com/?b=2&a=1&a=0"),
    ("http://example.com/?u=http://b/../c", "http://example.com/?u=http://b/../c"),
    ("http://example.com/a%2Fb?c%26d", "http://example.com/a%2Fb?c%26d"),
    ("http://example.com\\a\\b", "http://example.com/a/b"),
    ("http://München.de/Bild", "http://xn--mnchen-3ya.de/Bild"),
    ("http://xn--mnchen-3ya.de/", "http://xn--mnchen-3ya.de/"),
    ("http://%65xample.com/", "http://example.com/"),
    ("http://a_b.example.com/", "http://a_b.example.com/"),
    ("http://2130706433/", "http://127.0.0.1/"),
    ("http://0x7f.1:8080/", "http://127.0.0.1:8080/"),
    ("http://１２７.0.0.1/", "http://127.0.0.1/"),  # noqa: RUF001
    ("http://[0:0::1]:80/", "http://[::1]/"),
    ("FILE:///etc/passwd#x", "file:///etc/passwd"),
    ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
]


@pytest.mark.parametrize(("found", "canonical"), SPELLINGS)
def test_each_spelling_becomes_the_one(found, canonical):
    assert canonical_url(found) == canonical


@pytest.mark.parametrize("canonical", sorted({canonical for _, canonical in SPELLINGS}))
def test_the_canonical_url_stays_as_it_is(canonical):
    assert canonical_url(canonical) == canonical


def test_whatever_comes_out_stays_as_it_is():
    rng = random.Random(0)
    alphabet = "aZ0.%/\\?&=#:@[]~ \t\u00e9\udce9+2eE-"
    accepted = 0
    for _ in range(5000):
        url = "http://h/" + "".join(rng.choices(alphabet, k=rng.randrange(12)))
        once = canonical_url(url)
        assert canonical_url(once) == once, url
        assert once.isascii()
        accepted += 1
    assert accepted == 5000


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no scheme"),
        ("pictures/a.jpg", "no scheme"),
        ("//example.com/a.jpg", "no scheme"),
        ("http:", "no host"),
        ("https:///a.jpg", "no host"),
        ("http:example.com", "no host"),
        ("http://joe:secret@example.com/", "a user name or password"),
        ("http://example.com@127.0.0.1/", "a user name or password"),
        ("http://example.com:http/", "the port 'http'"),
        ("http://example.com:0/", "the port '0'"),
        ("http://example.com:65536/", "the port '65536'"),
        ("http://a b.com/", "the host 'a b.com'"),
        ("http://a..b/", r"the host 'a\.\.b'"),
        ("http://a%2Fb/", "the host 'a/b'"),
        ("http://" + "a" * 64 + ".com/", "which can be no name"),
        ("http://1.2.3.4.5/", "'1.2.3.4.5' is no IPv4 address"),
        ("http://[", "no IPv6 address"),
        ("http://[::1/", "no IPv6 address"),
        ("http://[::1:80/", "no IPv6 address"),
        ("http://[example.com]/", "no IPv6 address"),
        ("http://[fe80::1%25eth0]/", "no IPv6 address"),
        ("http://::1/", "can be no name"),
        ("http://example.com/\ud800", "half a character"),
    ],
)
def test_what_cannot_be_a_url_is_refused_in_words(url, why):
    with pytest.raises(ValueError, match=why):
        canonical_url(url)


def test_the_password_is_not_repeated():
    with pytest.raises(ValueError, match="password") as caught:
        canonical_url("http://joe:secret@example.com/")
    assert "secret" not in str(caught.value)


def test_a_row_id_is_the_same_in_every_run():
    assert row_id("http://example.com/") == "9aba6a18c5a5d94534a3b99c485d4547"
    assert row_id("a", "b") == row_id("a\nb") != row_id("b", "a")


def test_a_file_name_of_any_bytes_has_a_row_id():
    assert len(row_id("folder", b"\xff.jpg".decode("utf-8", "surrogateescape"))) == 32
