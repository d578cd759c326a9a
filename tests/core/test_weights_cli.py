"""The script, run the way users run it: by path, in a copy of the pack under another name."""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import signal as signals
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_identity.core import weights

ROOT = Path(__file__).parents[2]
CONTENT = b"weights of a toy"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):  # noqa: A002 - the base class's name for it
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "toy.bin").write_bytes(CONTENT)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/toy.bin"
        server.shutdown()
        thread.join()


@pytest.fixture
def pack(tmp_path: Path, url: str) -> Path:
    """The pack's weight files as a user has them: in custom_nodes, under a folder name that is no package name."""
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "ComfyUI-StoryIdentity-main"
    (pack / "core").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "models").mkdir()
    for path in (*(ROOT / "core").glob("weights*.py"), ROOT / "core" / "quoting.py"):
        shutil.copy(path, pack / "core")
    toy = {"id": "toy", "name": "toy.bin", "folder": "toys/small", "url": url, "size": len(CONTENT), "size_about": None}
    toy |= {
        "min_size": None,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "sha256_source": "publisher",
        "licence": "Apache-2.0",
    }
    toy |= {"licence_note": None, "non_commercial": False, "used_by": ["a workflow"]}
    entries = [toy, toy | {"id": "nc", "name": "nc.bin", "non_commercial": True}]
    (pack / "models.json").write_text(json.dumps({"files": entries}), encoding="utf-8")
    return pack


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COMFYUI_PATH", "PYTHONPATH")}
    own = {"HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1", "no_proxy": "127.0.0.1"}
    return kept | own | more


def run(*command: str | Path, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(
        arguments, env=environment(home, **more), cwd=home, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_script_lists_fetches_and_checks_wherever_the_pack_lies(pack: Path, tmp_path: Path):
    script = pack / "core" / "weights.py"
    before = sorted(tmp_path.rglob("*"))
    listed = run(script, "list", home=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    folder, *lines = listed.stdout.splitlines()
    assert folder.startswith(f"in {tmp_path / 'ComfyUI' / 'models'};")
    assert [line.split()[:2] for line in lines] == [["missing", "toy"], ["missing", "nc"]]
    checked = run(script, "check", home=tmp_path)
    assert checked.returncode == 0
    assert sorted(tmp_path.rglob("*")) == before

    fetched = run(script, "download", "toy", home=tmp_path)
    assert fetched.returncode == 0, fetched.stderr
    toy = tmp_path / "ComfyUI" / "models" / "toys" / "small" / "toy.bin"
    assert toy.read_bytes() == CONTENT
    assert "present  toy: size and sha256 as expected" in run(script, "check", home=tmp_path).stdout
    toy.write_bytes(CONTENT[::-1])
    spoilt = run(script, "check", home=tmp_path)
    assert spoilt.returncode == 1
    assert "CORRUPT  toy:" in spoilt.stdout
    assert "expected" in spoilt.stdout


def test_the_script_refuses_with_a_reason(pack: Path, tmp_path: Path):
    script = pack / "core" / "weights.py"
    refused = run(script, "download", "nc", home=tmp_path)
    assert refused.returncode == 1
    assert "--accept-licence" in refused.stderr
    assert run(script, "download", "nc", "--accept-licence", home=tmp_path).returncode == 0
    unknown = run(script, "download", "tou", home=tmp_path)
    assert unknown.returncode == 1
    assert "the ids are: toy, nc" in unknown.stderr
    nowhere = run(script, "list", home=tmp_path, COMFYUI_PATH=str(tmp_path / "nowhere"))
    assert nowhere.returncode == 1
    assert f"looked for {tmp_path / 'nowhere' / 'models'}" in nowhere.stderr


def test_the_script_finds_comfyui_in_the_usual_places(pack: Path, tmp_path: Path):
    outside = tmp_path / "elsewhere"
    pack.rename(outside)
    script = outside / "core" / "weights.py"
    assert run(script, "list", home=outside).returncode == 1
    assert run(script, "list", home=tmp_path).returncode == 0
    assert run(script, "list", home=outside, COMFYUI_PATH=str(tmp_path / "ComfyUI")).returncode == 0
    assert run(script, "list", "--models-dir", tmp_path / "ComfyUI" / "models", home=outside).returncode == 0


def test_the_module_runs_too(tmp_path: Path):
    listed = run("-m", "story_identity.core.weights", "list", "--models-dir", tmp_path, home=tmp_path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert len(listed.stdout.splitlines()) == 1 + len(weights.load_manifest())
    assert {"photomaker-v1", "photomaker-v2"} <= {line.split()[1] for line in listed.stdout.splitlines()[1:]}
    assert "(planned)" not in listed.stdout


def test_no_file_beside_the_script_hides_one_of_pythons_own():
    beside = {path.stem for path in (ROOT / "core").iterdir()}
    assert beside & sys.stdlib_module_names == set()


class StalledHandler(http.server.BaseHTTPRequestHandler):
    """Sends a part of the file and then nothing, until the test lets it go on."""

    released: threading.Event

    def do_GET(self):  # noqa: N802 - the name http.server looks for
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + 5])
        self.released.wait(60)
        with contextlib.suppress(OSError):  # the process that asked may have ended
            self.wfile.write(CONTENT[start + 5 :])

    def log_message(self, format, *args):  # noqa: A002 - the base class's name for it
        pass


@pytest.fixture
def stalled_url() -> Iterator[str]:
    StalledHandler.released = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StalledHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/toy.bin"
        StalledHandler.released.set()
        server.shutdown()
        thread.join()


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither signal")
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_a_download_that_is_killed_blocks_no_other_and_is_continued(
    pack: Path, tmp_path: Path, stalled_url: str, signal: str
):
    manifest = pack / "models.json"
    manifest.write_text(manifest.read_text("utf-8").replace(json.dumps(url_in(manifest)), json.dumps(stalled_url)))
    script, folder = pack / "core" / "weights.py", tmp_path / "ComfyUI" / "models" / "toys" / "small"
    # A chunk is read whole before it is written, so a small one is asked for.
    small = "import weights_download as d, weights_cli; d.CHUNK_BYTES = 5; weights_cli.main(['download', 'toy'])"
    own = environment(tmp_path, PYTHONPATH=str(pack / "core"))
    with subprocess.Popen([sys.executable, "-c", small], env=own, stderr=subprocess.DEVNULL) as first:
        part, end = folder / "toy.bin.part", time.monotonic() + 30
        while not (part.exists() and part.stat().st_size == 5) and time.monotonic() < end:
            time.sleep(0.01)
        refused = run(script, "download", "toy", home=tmp_path)
        first.send_signal(getattr(signals, signal))
    assert (refused.returncode, "Another download of toy.bin is under way" in refused.stderr) == (1, True)
    assert first.returncode == -getattr(signals, signal)
    assert part.read_bytes() == CONTENT[:5]
    StalledHandler.released.set()
    again = run(script, "download", "toy", home=tmp_path)
    assert (again.returncode, (folder / "toy.bin").read_bytes()) == (0, CONTENT), again.stderr
    assert [path.name for path in folder.iterdir()] == ["toy.bin"]


def url_in(manifest: Path) -> str:
    return json.loads(manifest.read_text("utf-8"))["files"][0]["url"]


def test_only_a_download_needs_more_than_python_itself(pack: Path, tmp_path: Path):
    script = pack / "core" / "weights.py"
    for command in ("list", "check"):
        done = run("-S", script, command, home=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    refused = run("-S", script, "download", "toy", home=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith("A download needs the Python package filelock, which ComfyUI installs")
    assert "-m pip install filelock" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_web_page_in_place_of_a_file_is_found_corrupt(pack: Path, tmp_path: Path):
    manifest = json.loads((pack / "models.json").read_text("utf-8"))
    manifest["files"][0] |= {"sha256": None, "sha256_source": None, "size": None, "min_size": 10}
    (pack / "models.json").write_text(json.dumps(manifest), encoding="utf-8")
    toy = tmp_path / "ComfyUI" / "models" / "toys" / "small" / "toy.bin"
    toy.parent.mkdir(parents=True)
    toy.write_text("<html>Sign in first</html>")
    checked = run(pack / "core" / "weights.py", "check", home=tmp_path)
    assert checked.returncode == 1
    assert "CORRUPT  toy: " in checked.stdout
    assert "it is a web page" in checked.stdout


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_what_was_typed_is_printed_safely(pack: Path, tmp_path: Path):
    script = pack / "core" / "weights.py"
    for arguments in (
        ("list", "--models-dir", "\x1b[31m" + os.fsdecode(b"\xff")),
        ("list", "--models-dir", "x" * 100_000),
        ("list", "--models-dir", ""),
        ("download", "\x1b[31m" + "é" * 20_000),
    ):
        refused = run(script, *arguments, home=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.removesuffix("\n").isprintable()
        assert 0 < len(refused.stderr) < 1500
    odd = tmp_path / os.fsdecode(b"models\xff\n")
    odd.mkdir()
    listed = run(script, "list", "--models-dir", odd, home=tmp_path, PYTHONIOENCODING="ascii")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert r"models\udcff\n;" in listed.stdout.splitlines()[0]
