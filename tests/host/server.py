"""A real ComfyUI server in a process of its own, with everything it reads and writes inside one folder."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .comfyui import REPOSITORY, ComfyUI

PACK = "ComfyUI-StoryIdentity"
SHRINK = "shrink_encoders"
TRANSFORMERS = "shrink_transformers"
START_S = 240.0
RUN_S = 300.0


def environment(folder: Path) -> dict[str, str]:
    """Ours, without what pytest's own environment would lend the host, and with only `folder` to keep things in.

    Threads that wait busily for each other, torch's default, are many times slower where the cores are shared.
    """
    lent = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS"}
    own = {name: value for name, value in os.environ.items() if name not in lent}
    cache = str(folder / "cache")
    quiet = {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return own | quiet | {"XDG_CACHE_HOME": cache, "HF_HOME": cache}


class RunError(RuntimeError):
    """A prompt was refused or a node in it raised; the message has what ComfyUI says, traceback included."""


class File(NamedTuple):
    """An output file as ComfyUI reports it."""

    path: Path
    type: str


class Host:
    """ComfyUI on the CPU with this pack and no other. Use as a context manager."""

    def __init__(
        self,
        comfyui: ComfyUI,
        folder: Path,
        packs: dict[str, Path] | None = None,
        variables: dict[str, str] | None = None,
        options: Sequence[str] = (),
    ):
        """Lay the folder out; the server starts on entering the context.

        Args:
            comfyui: Which ComfyUI to run.
            folder: An empty folder that becomes the server's base directory.
            packs: Custom node packs by the name of their folder. By default this one and the one that lets the
                stand-in encoders load.
            variables: Environment variables that this server gets besides.
            options: What its command line gets besides.
        """
        self.comfyui = comfyui
        self.folder = folder
        self.options = options
        self.models_dir = folder / "models"
        self.input_dir = folder / "input"
        self.output_dir = folder / "output"
        self.packs = packs if packs is not None else {PACK: REPOSITORY, SHRINK: Path(__file__).parent / SHRINK}
        for place in (self.models_dir, self.input_dir, self.output_dir, folder / "user", folder / "custom_nodes"):
            place.mkdir(parents=True, exist_ok=True)
        for name, pack in self.packs.items():
            _put_pack(pack, folder / "custom_nodes" / name)
        self.environment = environment(folder) | (variables or {})
        self._log_path = folder / "log.txt"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Host":
        """Start the server and wait until it answers."""
        self._port = _free_port()
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self.folder, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def _command(self) -> list[str]:
        whitelist = ["--whitelist-custom-nodes", *self.packs] if self.packs else []
        return [
            *(str(self.comfyui.python), "-u", str(self.comfyui.root / "main.py"), "--cpu"),
            *("--port", str(self._port), "--base-directory", str(self.folder), "--disable-auto-launch"),
            *("--database-url", f"sqlite:///{self.folder / 'user' / 'comfyui.db'}"),
            *("--disable-api-nodes", "--disable-all-custom-nodes", *whitelist, *self.options),
        ]

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode} while starting:\n{self.log()}")
            try:
                self.get("/system_stats")
                return
            except urllib.error.URLError:
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not answer within {START_S:.0f} s:\n{self.log()}")

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log(self) -> str:
        """All that the server has printed so far, without the colours."""
        return re.sub(r"\x1b\[\d*m", "", self._log_path.read_text(errors="replace"))

    def read(self, path: str, body: Any = None) -> bytes:
        """GET `path`, or POST `body` to it as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}", data, {"Content-Type": "application/json"} if data else {}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def delete(self, path: str) -> None:
        """DELETE `path`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{path}", method="DELETE")
        with urllib.request.urlopen(request, timeout=60):
            pass

    def get(self, path: str) -> Any:
        return json.loads(self.read(path))

    def object_info(self) -> dict[str, Any]:
        """What the server says of every node, by node id."""
        return self.get("/object_info")

    def run(self, prompt: dict[str, Any], timeout_s: float = RUN_S) -> dict[str, dict[str, Any]]:
        """Run a workflow in API form and wait for its end.

        Returns:
            Per output node what it reported, such as `{"9": {"images": [{"filename": ...}]}}`; see `files`. A node
            that was not executed again because nothing it depends on has changed reports the same as before.

        Raises:
            RunError: With the node errors, or the exception and its traceback.
        """
        prompt_id = self._queue(prompt)
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                return _outputs(entry)
            assert self._process is not None
            if self._process.poll() is not None:
                raise RunError(f"ComfyUI ended with {self._process.returncode}:\n{self.log()[-4000:]}")
            time.sleep(0.05)
        self.read("/interrupt", {})
        raise RunError(f"not done after {timeout_s:.0f} s:\n{self.log()[-4000:]}")

    def forget(self) -> None:
        """Drop what ComfyUI remembers of earlier runs, so that the next one executes every node again."""
        self.read("/free", {"free_memory": True})
        # The server forgets between two prompts, so the one after this one is sure to come later.
        empty = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
        shown = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        self.run({"1": {"class_type": "EmptyImage", "inputs": empty}, "2": shown})

    def _queue(self, prompt: dict[str, Any]) -> str:
        try:
            return json.loads(self.read("/prompt", {"prompt": prompt}))["prompt_id"]
        except urllib.error.HTTPError as refusal:
            with refusal:
                answer = json.loads(refusal.read())
            raise RunError(_refusal(answer)) from None

    def files(self, output: dict[str, Any], kind: str = "images") -> list[File]:
        """The files of one node's report, in order."""
        roots = {"output": self.output_dir, "temp": self.folder / "temp", "input": self.input_dir}
        return [
            File(roots[file["type"]] / file.get("subfolder", "") / file["filename"], file["type"])
            for file in output[kind]
        ]


def _put_pack(pack: Path, place: Path) -> None:
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows, without the right to make links
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(".*", "__pycache__"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _refusal(answer: dict[str, Any]) -> str:
    error = answer["error"]
    lines = [f"{error['type']}: {error['message']} {error['details']}".strip()]
    for node_id, node in answer.get("node_errors", {}).items():
        for fault in node["errors"]:
            lines.append(f"node {node_id} ({node['class_type']}): {fault['message']}: {fault['details']}")
    return "\n".join(lines)


def _outputs(entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = entry["status"]
    if status["status_str"] == "success":
        return entry["outputs"]
    for event, data in status["messages"]:
        if event == "execution_error":
            where = f"node {data['node_id']} ({data['node_type']})"
            what = f"{data['exception_type']}: {data['exception_message']}"
            raise RunError(f"{where}: {what}\n{''.join(data['traceback'])}")
    raise RunError(f"not successful: {json.dumps(status)}")
