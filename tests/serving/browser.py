"""A headless Chromium, spoken to by its DevTools protocol: https://chromedevtools.github.io/."""

import base64
import json
import shutil
import subprocess
import time
from contextlib import contextmanager

import httpx2
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37,
    "ArrowRight": 39,
}  # fmt: skip


class Page:
    """One page; what goes wrong in it is kept in ``errors``."""

    def __init__(self, wire):
        self._wire, self._number = wire, 0
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self._number += 1
        self._wire.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._wire.recv(timeout=60))
            self._note(told)
            if told.get("id") == self._number:
                assert "error" not in told, (method, told)
                return told["result"]

    def _note(self, told):
        about = told.get("params", {})
        if told.get("method") == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"]["exception"].get("description"))
        elif told.get("method") == "Log.entryAdded" and about["entry"]["source"] == "security":
            self.errors.append(about["entry"]["text"])
        elif told.get("method") == "Network.requestWillBeSent":
            self.requests.append((about["request"]["method"], about["request"]["url"]))

    def sent(self, path):
        """Return the methods of the requests to a path so far."""
        self.js("0")  # what has happened meanwhile is told before the answer
        return [method for method, url in self.requests if url.partition("?")[0].endswith(path)]

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && document.querySelector('#served')")

    def js(self, expression):
        """Return the value of an expression; promises are awaited."""
        told = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in told, (expression, told)
        return told["result"].get("value")

    def wait(self, expression, within_s=60.0):
        """Wait until an expression is true."""
        until = time.monotonic() + within_s
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < until, (expression, self.errors, self.js(_SAID))
            time.sleep(0.05)

    def text(self, selector):
        return self.js(f"document.querySelector({selector!r})?.innerText")

    def wait_text(self, selector, words, within_s=60.0):
        part = json.dumps(words)
        self.wait(f"document.querySelector({selector!r})?.innerText.includes({part})", within_s)

    def click(self, selector):
        self.js(f"document.querySelector({selector!r}).click()")

    def fill(self, selector, value):
        """Set a field as typing or dragging would."""
        self.js(
            f"(() => {{ const field = document.querySelector({selector!r}); "
            f"field.value = {json.dumps(value)}; "
            "for (const name of ['input', 'change']) field.dispatchEvent(new Event(name)); })()"
        )

    def choose(self, selector, *paths):
        """Pick files."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, *keys):
        for key in keys:
            code = {"key": key, "code": "Space" if key == " " else key}
            code["windowsVirtualKeyCode"] = _KEYS[key]
            text = {" ": " ", "Enter": "\r"}.get(key)
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **down, **code)
            self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def focused(self):
        return self.js("document.activeElement.id || document.activeElement.tagName")

    def shape(self, width_px, height_px=900, scheme="light"):
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


_SAID = "[...document.querySelectorAll('.problem')].map(p => p.textContent).filter(Boolean)"


@contextmanager
def browsing(home):
    """Start a browser whose profile lies in a folder; yield its page."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--remote-debugging-port=0", f"--user-data-dir={home}", "--window-size=1280,900",
        "--lang=en-GB", "about:blank",
    ]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    browser = subprocess.Popen(command, **quiet)
    try:
        with connect(_address(home, browser), max_size=None, proxy=None) as wire:
            yield Page(wire)
    finally:
        browser.terminate()
        try:
            browser.wait(10)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()


def _address(home, browser):
    until, told = time.monotonic() + 60, home / "DevToolsActivePort"
    while not (told.exists() and (port := told.read_text().partition("\n")[0])):
        assert browser.poll() is None, "the browser has ended"
        assert time.monotonic() < until, "the browser does not start"
        time.sleep(0.05)
    pages = httpx2.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
    return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
