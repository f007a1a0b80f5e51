"""A page in a real Chromium without a window, by its DevTools protocol."""

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
    "--window-size=900,650",
)
PATIENCE = 120.0
"""Seconds; drawing without a GPU is slow where others compute beside it."""


def found():
    """The program; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium")
    return program


class Chromium:
    """A browser with one page; use it in a `with`. Skips the test where there is none.

    Attributes:
        errors: what scripts of the page raised.
    """

    def __init__(self, profile):
        client = pytest.importorskip("websockets.sync.client", reason="needs websockets")
        program = found()
        self.errors, self._number = [], 0
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = self._port(profile / "DevToolsActivePort")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as told:
                pages = [one for one in json.load(told) if one["type"] == "page"]
            self._socket = client.connect(pages[0]["webSocketDebuggerUrl"], max_size=None)
            for domain in ("Page", "Runtime"):
                self._call(f"{domain}.enable")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def open(self, address):
        """Goes to a page, and waits for it."""
        self._call("Page.navigate", url=address)
        self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    def script(self, expression):
        """The value of an expression on the page."""
        told = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression):
        """Waits for an expression to be true, and gives it."""
        end = time.monotonic() + PATIENCE
        while not (found := self.script(expression)):
            assert time.monotonic() < end, f"{expression} is {found}"
            time.sleep(0.2)
        return found

    def text(self):
        """All words of the page."""
        return self.script("document.body.innerText")

    def click(self, element):
        """Clicks with the mouse into the middle of an element, an expression."""
        x, y = self.script(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'nearest'}}); "
            "const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )  # fmt: skip

    def write(self, field, text):
        """Writes into a field, an expression, and ends with Enter."""
        self.click(field)
        self.script(f"{field}.select()")
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter",
                windowsVirtualKeyCode=13, text="\r",
            )  # fmt: skip

    def picture(self, file=None):
        """What is to be seen, `[h, w, 3]`."""
        from PIL import Image

        content = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        if file is not None:
            file.write_bytes(content)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def _port(self, file):
        end = time.monotonic() + PATIENCE
        while not (file.exists() and file.read_text().count("\n")):
            assert time.monotonic() < end and self._process.poll() is None, "Chromium did not start"
            time.sleep(0.1)
        return int(file.read_text().split("\n")[0])

    def _call(self, method, **parameters):
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=PATIENCE))
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(told["params"]["exceptionDetails"])
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
