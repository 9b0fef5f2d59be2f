"""A hostile web on loopback: what a server can do to whoever asks it."""

import asyncio
import gzip
import socket
import struct
import threading
from contextlib import contextmanager

from aiohttp import ThreadedResolver

from stages.web.fetch import Fetch
from stages.web.settings import FetchSettings

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 40
CAP = 64 * 1024
DEADLINE_S = 0.6
JPEG = b"\xff\xd8\xff"


def answer(body=b"", status=200, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Content-Length": len(body), "Connection": "close"} | names
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body


def in_chunks(body):
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body, b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces


def to(url, status=302):
    return answer(b"elsewhere", status, Location=url)


RESET = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + JPEG
"""The beginning of an answer, which ends in a reset connection."""


def reset(writer):
    linger = struct.pack("ii", 1, 0)  # closing drops what is unsent and tells the other side so
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


STILL = {
    "/picture": answer(PICTURE, Content_Type="image/jpeg"),
    "/empty": answer(),
    "/cookie": answer(PICTURE, Set_Cookie="who=you; Path=/"),
    "/huge-announced": answer(b"x", Content_Length=CAP + 1),
    "/just-fits": in_chunks(JPEG.ljust(CAP, b"x")),
    "/just-too-large": in_chunks(JPEG.ljust(CAP + 1, b"x")),
    "/gzip": answer(gzip.compress(PICTURE), Content_Encoding="gzip"),
    "/gzip-bomb": answer(gzip.compress(JPEG + bytes(50 * CAP)), Content_Encoding="gzip"),
    "/cut-short": answer(JPEG + b"x" * 100, Content_Length=1000),
    "/no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/endless-header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "/chunk-garbage": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + (b"%x\r\n" % len(PICTURE))
    + PICTURE
    + b"\r\nnot a length\r\n",
    "/gzip-garbage": answer(JPEG + bytes(500), Content_Encoding="gzip"),
    "/brotli": answer(PICTURE, Content_Encoding="br"),
    "/many-headers": b"HTTP/1.1 200 OK\r\n" + b"X-Line: x\r\n" * 10_000 + b"\r\n" + PICTURE,
    "/long-headers": answer(PICTURE, **{f"X{n}": "x" * 4000 for n in range(20)}),
    "/http-0.9": PICTURE,
    "/noai": answer(PICTURE, X_Robots_Tag="noai"),
    "/tdm": answer(PICTURE, tdm_reservation="1"),
    "/to-noindex": answer(status=302, Location="/picture", X_Robots_Tag="noindex"),
    "/reset": RESET,
    "/hang-up": b"",
    "/to-picture": to("/picture"),
    "/to-latin-1": to("/caf\udce9"),
    "/caf%E9": answer(PICTURE),
    "/to-404": to("/status/404", 308),
    "/to-itself": to("/to-itself"),
    "/to-nowhere": answer(status=302),
    "/to-metadata": to("http://169.254.169.254/latest/meta-data/"),
    "/to-private-decimal": to("http://167772161/"),  # 10.0.0.1
    "/to-private-mapped": to("//[::ffff:192.168.0.1]/"),
    "/to-file": to("file:///etc/passwd"),
    "/to-password": to("http://joe:secret@example.com/"),
    "/to-nonsense": to("http://[::1"),
    "/to-rebound": to("http://inside.test/"),
}


class Web:
    """Answer on a free port of 127.0.0.1, and remember what was asked.

    ``robots`` is what /robots.txt holds: bytes, a status, or None for silence. ``more`` are further
    paths with their answers; a list is given out one by one, and its last for ever.
    """

    def __init__(self, robots=404, more=None):
        self.robots, self.pages = robots, STILL | (more or {})
        self.asked, self.busy, self.most_busy = [], 0, 0

    def page(self, path):
        found = self.pages.get(path) or b""
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found

    def times(self, path):
        return sum(asked == path for asked, _ in self.asked)

    async def serve(self, reader, writer):
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.asked.append((path, head))
            if path == "/robots.txt" and path in self.pages:
                writer.write(self.page(path))
            elif path == "/robots.txt" and self.robots is None:
                await self.forever(writer, b"", 0.02)
            elif path == "/robots.txt":
                told = isinstance(self.robots, bytes)
                writer.write(answer(self.robots) if told else answer(status=self.robots))
            elif path.startswith("/status/"):
                writer.write(answer(status=int(path[8:])))
            elif path.startswith("/slow"):
                await asyncio.sleep(0.05)
                writer.write(answer(JPEG + path.encode()))
            elif path == "/drip":
                writer.write(answer(b"", Content_Length=1000))
                await self.forever(writer, JPEG, 0.02)
            elif path == "/drip-header":
                writer.write(b"HTTP/1.1 200 OK\r\nX: ")
                await self.forever(writer, b"x", 0.02)
            elif path == "/chunk-garbage-later":
                writer.write(in_chunks(PICTURE)[:-5])
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.write(b"not a length\r\n")
            elif path == "/silent":
                await self.forever(writer, b"", 0.02)
            elif path == "/huge":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await self.forever(writer, b"1000\r\n" + JPEG.ljust(4096) + b"\r\n", 0)
            else:
                writer.write(page := self.page(path))
                if page is RESET:
                    reset(writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has gone
        finally:
            self.busy -= 1
            writer.close()

    async def forever(self, writer, piece, pause_s):
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)


class Names(ThreadedResolver):
    """Know a few names; ``changes.test`` leads inside from its second time on."""

    def __init__(self):
        self.known = {
            "outside.test": ["127.0.0.1"],
            "inside.test": ["169.254.169.254"],
            "both.test": ["127.0.0.1", "10.0.0.1"],
            "changes.test": ["127.0.0.1"],
        }

    async def resolve(self, host, port=0, family=socket.AF_INET):
        if host not in self.known:
            raise OSError(None, "nobody knows that name")
        found = self.known[host]
        if host == "changes.test":
            self.known[host] = ["169.254.169.254"]
        return [
            {"hostname": host, "host": ip, "port": port, "family": family, "proto": 0, "flags": 0}
            for ip in found
        ]


@contextmanager
def serving(web, tls=None):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    start = asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls, limit=2**20)
    server = asyncio.run_coroutine_threadsafe(start, loop).result()
    yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def end():
        server.close()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    thread.join()
    loop.close()


@contextmanager
def fetching(**changes):
    """Make a stage with short deadlines; without robots.txt and without another try."""
    settings = {
        "deadline_s": DEADLINE_S, "max_bytes": CAP, "allow_loopback": True, "attempts": 1,
        "robots": "ignore", "contact": "tests@example.com",
    }  # fmt: skip
    others = {name: changes.pop(name) for name in ("shares", "spool", "refresh") if name in changes}
    make_resolver = changes.pop("make_resolver", Names)
    settings = FetchSettings(**settings | changes)
    stage = Fetch(settings, make_resolver=make_resolver, **others)
    yield stage
    stage.close()


def row(stage, url):
    return {name: column[0] for name, column in stage({"url": [url]}).items()}


def outcome(stage, url):
    got = row(stage, url)
    assert (got["blob"] is None and not got["file"]) == (got["error"] != "")
    assert (got["error"] == "") == (got["error_detail"] == "")
    return got["error"], got["error_detail"]
