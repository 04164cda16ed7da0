# SPDX-License-Identifier: BSD-3-Clause
"""A headless Chromium that looks at a file, by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip

# What is wider than the page, or sticks out of it, unless something around it can be scrolled.
_STICKS_OUT = """
(() => {
  const wide = document.documentElement.clientWidth + 1, found = [];
  const scrolls = (e) => e && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  for (const e of document.body.querySelectorAll('*')) {
    if (e.getBoundingClientRect().right > wide && !scrolls(e))
      found.push(e.tagName + ' ' + e.textContent.slice(0, 60));
  }
  if (document.documentElement.scrollWidth > wide) found.push('the page scrolls sideways');
  return found;
})()
"""


def program() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    def __init__(self, folder: Path) -> None:
        path = program()
        assert path is not None
        read_orders, self._orders = os.pipe()
        self._answers, write_answers = os.pipe()

        # --remote-debugging-pipe: orders come on descriptor 3, answers go to 4.
        shell = f'exec "$@" 3<&{read_orders} 4>&{write_answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", path, *OPTIONS, f"--user-data-dir={folder}/chromium",
             "about:blank"],
            pass_fds=(read_orders, write_answers), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_orders)
        os.close(write_answers)
        self._sent = 0
        self._rest = b""
        self._session = ""
        self.heard: list[dict[str, Any]] = []  # events
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self._session = ""
            self.ask("Browser.close")
        os.close(self._orders)
        os.close(self._answers)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        order = {"id": self._sent, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._sent:
                assert "error" not in message, message["error"]
                return message["result"]
            self.heard.append(message)

    def show(self, file: Path, width: int) -> None:
        """Load it anew in a window of that width."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900,
                 deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.ask("Page.navigate", url=file.resolve().as_uri())
        while not any(m.get("method") == "Page.loadEventFired" for m in self.heard):
            self.heard.append(self._message())
        self.heard = [m for m in self.heard if m.get("method") != "Page.loadEventFired"]

    def value(self, expression: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def sticks_out(self) -> list[str]:
        return self.value(_STICKS_OUT)

    def complaints(self) -> list[str]:
        """Whatever the console, the parser or the page's policy had to say."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(m["params"]) for m in self.heard if m.get("method") in kinds]

    def asked_for(self) -> list[str]:
        """Every address that was loaded."""
        return [
            m["params"]["request"]["url"]
            for m in self.heard
            if m.get("method") == "Network.requestWillBeSent"
        ]

    def picture(self, file: Path) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(shot))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    one = Browser(folder)
    try:
        yield one
    finally:
        one.close()
