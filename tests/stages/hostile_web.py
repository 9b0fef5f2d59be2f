"""A hostile web on loopback: what a server can do to whoever asks it."""

import asyncio
import gzip
import threading
from contextlib import contextmanager

PICTURE = bytes(range(256)) * 40
CAP = 64 * 1024


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


STILL = {
    "/picture": answer(PICTURE, Content_Type="image/jpeg"),
    "/empty": answer(),
    "/cookie": answer(PICTURE, Set_Cookie="who=you; Path=/"),
    "/huge-announced": answer(b"x", Content_Length=CAP + 1),
    "/just-fits": in_chunks(b"x" * CAP),
    "/just-too-large": in_chunks(b"x" * (CAP + 1)),
    "/gzip": answer(gzip.compress(PICTURE), Content_Encoding="gzip"),
    "/gzip-bomb": answer(gzip.compress(bytes(50 * CAP)), Content_Encoding="gzip"),
    "/cut-short": answer(b"x" * 10, Content_Length=1000),
    "/no-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/endless-header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
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
    """Answer on a free port of 127.0.0.1, and remember what was asked."""

    def __init__(self):
        self.asked, self.busy, self.most_busy = [], 0, 0

    async def serve(self, reader, writer):
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            self.asked.append((path, head))
            if path.startswith("/status/"):
                writer.write(answer(status=int(path[8:])))
            elif path.startswith("/slow"):
                await asyncio.sleep(0.05)
                writer.write(answer(path.encode()))
            elif path == "/drip":
                writer.write(answer(b"", Content_Length=1000))
                await self.forever(writer, b"x", 0.02)
            elif path == "/drip-header":
                writer.write(b"HTTP/1.1 200 OK\r\nX: ")
                await self.forever(writer, b"x", 0.02)
            elif path == "/silent":
                await self.forever(writer, b"", 0.02)
            elif path == "/huge":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await self.forever(writer, b"1000\r\n" + b"x" * 4096 + b"\r\n", 0)
            else:
                writer.write(STILL.get(path) or b"")
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
