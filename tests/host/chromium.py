"""A page in a headless Chromium, driven through its DevTools port with nothing but the standard library."""

import base64
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
START_S = 60.0


class Page:
    """One page. Use as a context manager; `folder` becomes the browser's profile."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> "Page":
        assert CHROMIUM is not None
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={self.folder}", "--window-size=1920,1080", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = self._port()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=START_S) as answer:
                address = next(each for each in json.load(answer) if each["type"] == "page")["webSocketDebuggerUrl"]
            self._connect(port, address.split(str(port), 1)[1])
            self.call("Runtime.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if hasattr(self, "_socket"):
            self._answers.close()
            self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    def run(self, script: str) -> Any:
        """The value that the body of an asynchronous function returns in the page."""
        call = {"expression": f"(async () => {{ {script} }})()", "awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", **call)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def call(self, method: str, **params: Any) -> Any:
        """One command of the DevTools protocol; errors that the page reports meanwhile go to `complaints`."""
        number = next(self._numbers)
        self._send(json.dumps({"id": number, "method": method, "params": params}).encode())
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            event = message.get("params", {})
            if message.get("method") == "Runtime.exceptionThrown" or event.get("type") == "error":
                self.complaints.append(json.dumps(event)[:1000])

    def click(self, x: float, y: float, times: int = 1) -> None:
        """Move the mouse to a place, in pixels from the left upper corner of the page, and click there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for count in range(1, times + 1):
            for event in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=count)

    def type(self, text: str) -> None:
        """Put text where the cursor is, in place of what is marked."""
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        self.call("Input.dispatchKeyEvent", type="keyUp", **enter)

    def drop(self, path: Path, x: float, y: float) -> None:
        """Drag a file from outside to a place in the page, and let it go."""
        carried = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for event in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=event, x=x, y=y, data=carried)

    def _port(self) -> int:
        told, end = self.folder / "DevToolsActivePort", time.monotonic() + START_S
        while time.monotonic() < end:
            if told.exists() and "\n" in told.read_text():
                return int(told.read_text().split()[0])
            time.sleep(0.1)
        raise RuntimeError("Chromium did not start")

    def _connect(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade")
        request = "\r\n".join((*lines, f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""))
        self._socket.sendall(request.encode())
        self._answers = self._socket.makefile("rb")
        while self._answers.readline().strip():
            pass

    def _send(self, data: bytes) -> None:
        """One text frame; a mask of zeros is a mask."""
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", 0x81, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", 0x81, 0x80 | 126, size)
        else:
            head = struct.pack(">BBQ", 0x81, 0x80 | 127, size)
        self._socket.sendall(head + bytes(4) + data)

    def _receive(self) -> dict[str, Any]:
        message = b""
        while True:
            first, size = self._answers.read(2)
            if size == 126:
                (size,) = struct.unpack(">H", self._answers.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._answers.read(8))
            message += self._answers.read(size)
            if first & 0x80:
                return json.loads(message)
