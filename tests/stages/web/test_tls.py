"""Certificates: right ones pass, every kind of wrong one is refused before anything is asked."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.stages.web.hostile_web import PICTURE, Web, fetching, row, serving

LONG_AGO = datetime.now(UTC) - timedelta(days=9)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """Make the authority one that this machine trusts."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def tls(authority, *names, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


def asked(context):
    web = Web()
    with serving(web, context) as site, fetching() as stage:
        got = row(stage, f"{site}/picture")
    return got, len(web.asked)


@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_is_vouched_for_passes(authority):
    got, requests = asked(tls(authority, "127.0.0.1"))
    assert (got["error"], got["blob"], requests) == ("", PICTURE, 1)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("name", "more", "words"),
    [("other.test", {}, "mismatch"), ("127.0.0.1", {"not_after": LONG_AGO}, "expired")],
)
def test_a_wrong_or_expired_certificate_is_refused(authority, name, more, words):
    got, requests = asked(tls(authority, name, **more))
    assert (got["error"], got["blob"], requests) == ("tls", None, 0)
    assert words in got["error_detail"]
    assert got["attempts"] == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(authority):
    got, requests = asked(tls(authority, "127.0.0.1"))
    assert (got["error"], requests) == ("tls", 0)
    assert "unable to get local issuer" in got["error_detail"]
