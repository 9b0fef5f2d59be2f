import asyncio
import gc
import socket
import tracemalloc
from collections import Counter
from io import BytesIO

import psutil
import pytest
from fastapi import Request
from PIL import Image

from serving.recipes import HttpSettings
from tests.serving.doors import PlainImages, data, door, refused, serving, she, visitor

DRAW = "/v1/images/generations"
SMALL = HttpSettings(max_body_bytes=200_000, max_pixels=300_000, timeout_s=2)


@pytest.fixture
def me():
    return visitor(door(http=SMALL)[0])


def raw(url, request, *, wait_s=10.0):
    """Send bytes as they are; return all that comes back before the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait_s) as wire:
        wire.sendall(request.replace(b"\n", b"\r\n"))
        told = b""
        while part := wire.recv(65536):
            told += part
    return told.decode()


def test_paths_and_methods_that_are_not_there_get_the_envelope(me):
    refused(me.get("/v1/nothing"), "not_found")
    refused(me.get("/docs"), "not_found")
    for answer, takes in ((me.get(DRAW), "POST"), (me.delete("/v1/models"), "GET")):
        assert refused(answer, "method_not_allowed")["message"] == f"This path takes {takes}."
        assert answer.headers["allow"] == takes


def test_every_answer_is_numbered_and_told_not_to_be_kept(me):
    for answer in (me.get("/v1/health/live"), me.get("/no"), me.post(DRAW, json={})):
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("sent", "taken"),
    [("abcdef-12_34", True), ("short", False), ("x" * 65, False), ("a b c d e f", False),
     ("<script>alert(1)", False), ("../../../../etc", False)],
)  # fmt: skip
def test_a_request_id_is_taken_if_it_is_well_formed(me, sent, taken):
    told = me.get("/v1/health/live", headers={"x-request-id": sent}).headers["x-request-id"]
    assert (told == sent) is taken


@pytest.mark.parametrize(
    ("headers", "content", "code"),
    [
        ({"content-type": "application/json"}, b"{", "bad_request"),
        ({"content-type": "application/json"}, b"[1]", "bad_request"),
        ({"content-type": "application/json"}, b"null", "bad_request"),
        ({"content-type": "application/json"}, b"", "bad_request"),
        ({"content-type": "application/json"}, b"\xff\xfe{}", "bad_request"),
        ({"content-type": "application/json"}, b'{"a":' * 30_000, "bad_request"),
        ({"content-type": "application/json"}, b"[" * 150_000, "bad_request"),
        ({"content-type": "application/json"}, b'{"guidance": NaN}', "invalid_value"),
        ({"content-type": "application/json"}, b'{"guidance": 1e999}', "invalid_value"),
        ({"content-type": "application/json"}, b'{"prompt": "\\ud800"}', "bad_request"),
        ({"content-type": "application/json"}, b'{"' + b"x" * 9999 + b'": 1}', "unknown_field"),
        ({"content-type": "text/plain"}, b"{}", "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, b"n=1", "unsupported_media_type"),
        ({}, b"{}", "unsupported_media_type"),
        ({"content-type": "multipart/form-data"}, b"--x", "bad_request"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"rubbish", "bad_request"),
        ({"content-type": "multipart/form-data; boundary=x"},
         b"--x\r\n" + b"Content-Disposition: form-data; name=n\r\n\r\n1\r\n--x\r\n" * 99,
         "bad_request"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, b"\x1f\x8b",
         "unsupported_media_type"),
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(me, headers, content, code):
    refused(me.post(DRAW, headers=headers, content=content), code)


def test_a_body_too_large_is_refused_by_its_length_and_while_it_arrives(me):
    error = refused(me.post(DRAW, content=bytes(200_001)), "body_too_large")
    assert error["details"] == {"max_body_bytes": 200_000}

    def parts():
        for _ in range(5):
            yield bytes(50_000)

    chunked = {"content-type": "application/json"}
    refused(me.post(DRAW, content=parts(), headers=chunked), "body_too_large")
    files = {"image": bytes(200_000)}
    refused(me.post("/v1/faces/detect", files=files), "body_too_large")


def test_a_picture_too_large_is_refused_before_it_is_decoded(me):
    big = data(she_at(600))
    assert len(big) < 200_000
    refused(me.post("/v1/images/edits", files={"image": big}), "too_many_pixels")


def she_at(side_px):
    return Image.open(BytesIO(she())).resize((side_px, side_px))


@pytest.mark.parametrize(
    "header",
    ["serve_multiplexed_model_id", "x-request-timeout-seconds", "x-request-disconnect-disabled",
     "x-session-id", "x-forwarded-for", "cookie"],
)  # fmt: skip
def test_headers_that_steer_ray_serve_do_not_come_in(header):
    app, _ = door()
    seen = []

    @app.get("/seen")
    async def look(request: Request):
        seen.extend(request.headers)

    visitor(app).get("/seen", headers={header: "1"})
    assert header not in seen
    assert "x-request-id" not in seen
    assert "host" in seen


def test_what_nobody_foresaw_is_told_without_its_words(caplog):
    app, _ = door(PlainImages(error=RuntimeError("the password is swordfish")))
    answer = visitor(app).post(DRAW, json={})
    refused(answer, "internal")
    assert "swordfish" not in answer.text
    assert "swordfish" in caplog.text
    streamed = visitor(app).post(DRAW, json={"stream": True, "partial_images": 1})
    assert '"code": "internal"' in streamed.text.split("event: error\n")[1]
    assert "swordfish" not in streamed.text


SMUGGLED = {
    "length twice": b"Content-Length: 2\nContent-Length: 5\n",
    "length and chunks": b"Content-Length: 2\nTransfer-Encoding: chunked\n",
    "negative length": b"Content-Length: -1\n",
    "length in words": b"Content-Length: two\n",
    "key twice": b"Content-Length: 2\nAuthorization: Bearer a\nAuthorization: Bearer b\n",
    "type twice": b"Content-Length: 2\nContent-Type: text/plain\n",
    "endless length": b"Content-Length: 99999999999999999999999\n",
}


def test_a_request_that_could_be_read_in_two_ways_is_refused():
    with serving(door(http=SMALL)[0]) as url:
        for name, headers in SMUGGLED.items():
            head = f"POST {DRAW} HTTP/1.1\nHost: x\nConnection: close\n".encode()
            told = raw(url, head + b"Content-Type: application/json\n" + headers + b"\n{}")
            assert told.split(" ")[1] in ("400", "413"), (name, told)


def test_a_body_that_never_comes_is_not_waited_for():
    with serving(door(http=SMALL)[0]) as url:
        head = f"POST {DRAW} HTTP/1.1\nHost: x\nContent-Type: application/json\n".encode()
        told = raw(url, head + b"Content-Length: 100\n\n{")
    assert told.startswith("HTTP/1.1 408")
    assert '"timed_out"' in told
    assert "connection: close" in told.lower()


def open_files():
    return Counter(file.path for file in psutil.Process().open_files())


def test_files_of_a_form_are_removed_and_bodies_let_go():
    me = visitor(door(http=HttpSettings(max_body_bytes=2**24))[0])
    big = data(she_at(200)) + bytes(8 * 2**20)

    def held_after_two():
        for _ in range(2):
            assert me.post("/v1/faces/detect", files={"image": big}).status_code == 200
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    before = open_files()
    tracemalloc.start()
    try:
        first = held_after_two()
        assert held_after_two() - first < len(big) / 2
    finally:
        tracemalloc.stop()
    assert not open_files() - before, "others may close theirs meanwhile"


def test_it_tells_when_it_is_ready():
    app, images = door()
    me = visitor(app)
    assert me.get("/v1/health/ready").json() == {"status": "ready"}
    images.well = False
    refused(me.get("/v1/health/ready"), "model_unavailable")
    assert me.get("/v1/health/live").status_code == 200
    app.state.door.draining = True
    refused(me.get("/v1/health/ready"), "shutting_down")


def test_metrics_count_answers_refusals_pictures_and_faces():
    me = visitor(door()[0])
    me.post(DRAW, json={"n": 3, "steps": 5})
    me.post(DRAW, json={"n": 99})
    me.get("/v1/models/" + "x" * 50)
    me.post("/v1/faces/detect", files={"image": she()})
    lines = me.get("/metrics").text.splitlines()
    for line in (
        'visage_requests_total{route="/v1/images/generations",status="200"} 1.0',
        'visage_requests_total{route="/v1/models/{model:path}",status="404"} 1.0',
        'visage_refusals_total{code="invalid_value"} 1.0',
        'visage_pictures_total{model="someone/3"} 3.0',
        'visage_steps_total{model="someone/3"} 15.0',
        'visage_faces_total{operation="detect"} 1.0',
        "visage_requests_open 1.0",
    ):
        assert line in lines


def test_a_websocket_is_closed():
    app, _ = door()
    sent = []

    async def knock():
        async def send(message):
            sent.append(message["type"])

        await app({"type": "websocket", "path": "/", "headers": []}, None, send)

    asyncio.run(knock())
    assert sent == ["websocket.close"]
