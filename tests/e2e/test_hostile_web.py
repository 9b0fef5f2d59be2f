"""A whole run through a hostile web: one row for every trap, by its right name, in bounded time."""

import gzip
import ssl
import struct
import time
import zlib
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path

import pyarrow.dataset as pads
import pytest
import trustme
from PIL import Image
from rich.console import Console

from pipelines import ingest as ingesting
from pipelines.curate import curate
from pipelines.recipes import FetchSettings, Source, Workers, photos
from stages.columns import ERRORS, REJECTIONS
from stages.web.fetch import Fetch
from tests.stages.web.hostile_web import JPEG, RESET, Names, Web, answer, in_chunks, serving, to

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

CAP = 256 * 1024
DEADLINE_S = 1.5


def png_bomb(side_px=20_000):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + side_px // 8) * side_px), 9)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def gif_bomb():
    screen = struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
    return b"GIF89a" + screen + frame + b"\x02\x02\x4c\x01\x00;"


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HTML = b"<!DOCTYPE html><html><body>This photo has moved.</body></html>"
POLYGLOT = b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)//<script>alert(1)</script>"
AS_JPEG = {"Content_Type": "image/jpeg"}


def pages(face):
    """Every path of the server, with what it answers and how its row must end."""
    twice = [answer(status=429, Retry_After="1"), answer(face)]
    return {
        "/face": (answer(face), ""),
        "/to-face": (to("/face"), "exact_duplicate"),
        "/gzip": (answer(gzip.compress(face), Content_Encoding="gzip"), "exact_duplicate"),
        "/once-429": (twice, "exact_duplicate"),
        "/once-503": ([answer(status=503), answer(face)], "exact_duplicate"),
        "/once-reset": ([RESET, answer(face)], "exact_duplicate"),
        "/always-503": (answer(status=503), "http_5xx"),
        "/reset": (RESET, "truncated"),
        "/hang-up": (b"", "connect"),
        "/drip-header": (None, "timeout"),
        "/drip": (None, "timeout"),
        "/silent": (None, "timeout"),
        "/huge": (None, "too_large"),
        "/announced": (answer(face, Content_Length=10**12), "too_large"),
        "/gzip-bomb": (
            answer(gzip.compress(JPEG + bytes(400 * CAP)), Content_Encoding="gzip"), "too_large",
        ),
        "/gzip-garbage": (answer(face, Content_Encoding="gzip"), "bad_http"),
        "/bomb.png": (answer(png_bomb()), "too_many_pixels"),
        "/bomb.gif": (answer(gif_bomb()), "too_many_pixels"),
        "/truncated.jpg": (answer(face[: len(face) // 2]), "broken_image"),
        "/html.jpg": (answer(HTML, **AS_JPEG), "wrong_type"),
        "/script.svg": (answer(SVG, Content_Type="image/svg+xml"), "wrong_type"),
        "/polyglot.gif": (answer(POLYGLOT), "broken_image"),
        "/too-short": (answer(face, Content_Length=len(face) + 1), "truncated"),
        "/too-long": (answer(face, Content_Length=len(face) // 2), "bad_http"),
        "/chunk-garbage": (in_chunks(face)[:-5] + b"no length\r\n", "bad_http"),
        "/chunk-garbage-later": (None, "bad_http"),
        "/http-0.9": (face, "bad_http"),
        "/ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", "bad_http"),
        "/headers": (
            b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n", "too_many_headers",
        ),
        "/long-header": (answer(face, X="x" * 100_000), "too_many_headers"),
        "/loop-a": (to("/loop-b"), "too_many_redirects"),
        "/loop-b": (to("/loop-a"), "too_many_redirects"),
        "/to-metadata": (to("http://169.254.169.254/latest/meta-data/"), "forbidden_address"),
        "/to-decimal": (to("http://2852039166/"), "forbidden_address"),  # 169.254.169.254
        "/to-octal": (to("http://0251.0376.0251.0376/"), "forbidden_address"),
        "/to-mapped": (to("http://[::ffff:a9fe:a9fe]/"), "forbidden_address"),
        "/to-loopback-6": (to("http://[::1]/"), "forbidden_address"),
        "/to-file": (to("file:///etc/passwd"), "forbidden_scheme"),
        "/to-gopher": (to("gopher://127.0.0.1/", 301), "forbidden_scheme"),
        "/to-ftp": (to("ftp://127.0.0.1/"), "forbidden_scheme"),
        "/to-password": (to("http://joe:secret@outside.test/"), "bad_url"),
        "/to-inside": (to("http://inside.test/"), "forbidden_address"),
        "/to-nowhere": (answer(status=302), "http_other"),
        "/noai": (answer(face, X_Robots_Tag="noai"), "opted_out"),
        "/tdm": (answer(face, tdm_reservation="1"), "opted_out"),
        "/empty": (answer(), "empty"),
        "/gone": (answer(status=410), "http_4xx"),
        "/teapot": (answer(status=206), "http_other"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def face(astronaut):
    out = BytesIO()
    with Image.open(astronaut) as image:
        image.convert("RGB").crop((60, 0, 400, 340)).save(out, "JPEG", quality=92)
    return out.getvalue()


def certified(authority, name, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **more).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def asked(face, local_ray, tmp_path_factory):  # noqa: ARG001 - Ray only has to be there
    """Every URL with how its row must end; how each did; the seconds that the run took."""
    home = tmp_path_factory.mktemp("hostile")
    known = pages(face)
    web = Web(more={path: body for path, (body, _) in known.items() if body is not None})
    authority, long_ago = trustme.CA(), datetime.now(UTC) - timedelta(days=9)
    with ExitStack() as servers:
        enter = servers.enter_context
        site = enter(serving(web))
        port = site.rpartition(":")[2]
        more = {"/face": answer(face)}
        hosts = {
            "robots_disallowed": enter(serving(Web(b"User-agent: *\nDisallow: /", more))),
            "robots_unavailable": enter(serving(Web(None, more))),
            "robots_unavailable 5xx": enter(serving(Web(503, more))),
            "tls wrong name": enter(serving(web, certified(authority, "other.test"))),
            "tls expired": enter(
                serving(web, certified(authority, "127.0.0.1", not_after=long_ago))
            ),
            "http_4xx and longer": enter(
                serving(Web(more={"/face": answer(status=429, Retry_After="9999")}))
            ),
        }
        expected = {f"{site}{path}": end for path, (_, end) in known.items()}
        expected |= {f"{url}/face": name.split()[0] for name, url in hosts.items()}
        expected |= {
            f"http://both.test:{port}/face": "forbidden_address",
            f"http://changes.test:{port}/to-changed": "forbidden_address",
            f"http://nowhere.test:{port}/face": "dns",
            "http://\u0430pple.test/face": "dns",  # begins with a Cyrillic letter
            "http://\uff11\uff16\uff19.254.169.254/": "forbidden_address",  # in full-width digits
            "http://metadata.test@169.254.169.254/": "bad_url",
            "http://joe:secret@127.0.0.1/face": "bad_url",
            "http://10.0.0.1/face": "forbidden_address",
            "http://0x7f.1:1/face": "connect",
            "file:///etc/passwd": "forbidden_scheme",
            "data:image/png;base64,AAAA": "forbidden_scheme",
        }
        web.pages["/to-changed"] = to(f"http://changes.test:{port[:-1]}{9 - int(port[-1])}/face")
        (home / "urls.txt").write_text("\n".join(expected), encoding="utf-8")
        fetch = FetchSettings(
            contact="tests@lab.example", allow_private=("127.0.0.1/32",), attempts=2,
            deadline_s=DEADLINE_S, budget_s=10.0, max_bytes=CAP,
        )  # fmt: skip
        recipe = replace(
            photos(),
            source=Source(path=str(home / "urls.txt")),
            fetch=fetch,
            faces=replace(photos().faces, detect_px=640),
            workers=Workers(lookers=1),
        )
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            # The same stage, with a resolver that knows the names of this test.
            named = partial(Fetch, fetch, make_resolver=Names)
            patch.setattr(ingesting, "fetching", lambda *_: named)
            result = curate(recipe, str(home / "store"), Console(file=StringIO()))
        seconds = time.monotonic() - began
    rows = pads.dataset(Path(result.path, "ingest/data")).to_table().to_pylist()
    decided = pads.dataset(Path(result.path, "decisions")).to_table().to_pylist()
    return expected, rows, decided, seconds


def test_there_are_enough_traps(asked):
    expected, *_ = asked
    assert len(expected) > 60
    assert len(set(expected.values())) >= 20


def test_every_trap_is_one_row_with_its_right_reason(asked):
    expected, _, decided, _ = asked
    assert len(decided) == len(expected)
    in_order = sorted(decided, key=lambda row: row["source_row"])
    found = {
        url: row["error"] or row["rejected_by"]
        for url, row in zip(expected, in_order, strict=True)
    }  # fmt: skip
    # One of the equal pictures is kept, whichever it is.
    copies = [url for url, end in expected.items() if end in ("", "exact_duplicate")]
    assert sorted(found.pop(url) for url in copies) == [""] + ["exact_duplicate"] * (
        len(copies) - 1
    )
    assert found == {url: end for url, end in expected.items() if url not in copies}
    assert {row["error"] for row in decided} <= {"", *ERRORS}
    assert {row["rejected_by"] for row in decided} <= {"", *REJECTIONS}


def test_every_row_tells_what_was_done_for_it(asked):
    _, rows, _, _ = asked
    by_path = {row["url"].rpartition("/")[2]: row for row in rows if "127.0.0.1" in row["url"]}
    assert by_path["once-503"]["attempts"] == by_path["always-503"]["attempts"] == 2
    assert by_path["gone"]["attempts"] == 1
    assert by_path["noai"]["opt_out"] == "x-robots-tag: noai"
    assert by_path["to-face"]["final_url"].endswith("/face")
    assert (by_path["gone"]["http_status"], by_path["always-503"]["http_status"]) == (410, 503)
    for row in rows:
        assert (row["error"] == "") == (row["error_detail"] == "")
        assert row["blob"] is None or row["error"] in ("", "broken_image", "too_many_pixels")
        assert (row["fetch_s"] or 0) < 2 * DEADLINE_S + 1
        assert "secret" not in row["error_detail"]


def test_the_time_is_bounded(asked):
    *_, seconds = asked
    assert seconds < 90
