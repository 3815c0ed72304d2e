"""A headless Chromium by its DevTools protocol, over a pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "ArrowUp": 38}
ERRORS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


def program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One page. errors: what its console complains of; requests: what it asked for."""

    def __init__(self) -> None:
        self.errors: list[Any] = []
        self.requests: list[str] = []
        self.folder = tempfile.mkdtemp()
        read, self.to = os.pipe()
        self.back, write = os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--remote-debugging-pipe", f"--user-data-dir={self.folder}", "--hide-scrollbars", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read} 4>&{write}', str(program()), *options],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.number, self.left, self.session = 0, b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)
        os.close(self.to)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)

    def message(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.back], [], [], max(0.0, end - time.monotonic()))
            some = os.read(self.back, 1 << 20) if ready else b""
            assert some, "the browser is silent, or it ended"
            self.left += some
        text, _, self.left = self.left.partition(b"\0")
        found = json.loads(text)
        about = found.get("params", {})
        if found.get("method") == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif found.get("method") in ERRORS and "error" in (
            about.get("type", "error"),
            about.get("entry", {}).get("level"),
        ):
            self.errors.append(about)
        return found

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        data = json.dumps({"id": self.number, "method": method, "params": params, **session}).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data) :]
        while (found := self.message()).get("id") != self.number:
            pass
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def open(self, file: Path, width: int, scheme: str = "light", height: int = 800) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=file.resolve().as_uri())
        while self.message().get("method") != "Page.loadEventFired":
            pass
        self.run("Promise.all([...document.images].map((image) => image.decode()))")

    def run(self, script: str) -> Any:
        """The value of a script, of a promise what it holds."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Keys by name, or a text letter by letter."""
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            about = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": KEYS.get(key, 0)}
            self.send("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
            self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
