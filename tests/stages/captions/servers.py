"""A caption server on loopback, real and as bad as it is told to be."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MERGED = "A woman with brown hair smiles at the camera in front of a grey wall."
PICTURE = {
    "attributes": "A woman with brown hair, smiling.",
    "action": "She stands in front of a grey wall in soft light.",
    "merged": MERGED,
}
GOOD = json.dumps(PICTURE)
PARTS = json.dumps({name: f"an ordinary {name}" for name in
                    ("face", "ears", "eyes", "nose", "mouth")})  # fmt: skip


def completion(text, **more):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    return json.dumps({"model": "tiny-vlm", "choices": [choice], "usage": usage} | more).encode()


class Says:
    """What the server does to one request: everything about it can be wrong."""

    def __init__(self, body=b"", status=200, after_s=0.0, headers=None, claims=None, hang_up=False):
        self.body, self.status, self.after_s = body, status, after_s
        self.headers, self.claims, self.hang_up = headers or {}, claims, hang_up


def well(text=GOOD):
    return Says(completion(text))


def by_prompt(body):
    """Answer whatever is asked as it wants to be."""
    keys = body["response_format"]["json_schema"]["schema"]["required"]
    known = PICTURE | json.loads(PARTS)
    return well(json.dumps({key: known[key] for key in keys}))


class CaptionServer(ThreadingHTTPServer):
    """Hands every question to ``behave(body)``; remembers what was asked."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.asked, self.keys, self.lock = behave, [], [], threading.Lock()
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """Say nothing of clients that have gone: some are meant to."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send(Says(b"{}"))

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.keys.append(self.headers.get("Authorization"))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        try:
            says = server.behave(body)
            time.sleep(says.after_s)
        finally:
            with server.lock:
                server.busy -= 1
        self.send(says)

    def send(self, says):
        if says.hang_up:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(says.status)
        for name, value in says.headers.items():
            self.send_header(name, value)
        size = len(says.body) if says.claims is None else says.claims
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(says.body)
        if size != len(says.body):
            self.close_connection = True

    def log_message(self, *args):
        """Keep quiet."""


def in_turn(said):
    """Say one after the other, and the last of it for ever."""
    left = list(said)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def serving(behave):
    """Serve until the block ends; ``behave`` is a function, or a list of what is said in turn."""
    server = CaptionServer(in_turn(behave) if isinstance(behave, list) else behave)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
