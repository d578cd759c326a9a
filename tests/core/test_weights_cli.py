"""The script, run the way users run it: by path, in a copy of the pack under another name."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
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
    for name in ("weights.py", "weights_cli.py"):
        shutil.copy(ROOT / "core" / name, pack / "core")
    toy = {"id": "toy", "name": "toy.bin", "folder": "toys/small", "url": url, "size": len(CONTENT), "size_about": None}
    toy |= {"sha256": hashlib.sha256(CONTENT).hexdigest(), "sha256_source": "publisher", "licence": "Apache-2.0"}
    toy |= {"licence_note": None, "non_commercial": False, "used_by": ["a workflow"]}
    entries = [toy, toy | {"id": "nc", "name": "nc.bin", "non_commercial": True}]
    (pack / "models.json").write_text(json.dumps({"files": entries}), encoding="utf-8")
    return pack


def run(*command: str | Path, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COMFYUI_PATH", "PYTHONPATH")}
    kept |= {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "no_proxy": "127.0.0.1",
    } | environment
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(arguments, env=kept, cwd=home, capture_output=True, text=True, timeout=60, check=False)


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
    planned = {line.split()[1] for line in listed.stdout.splitlines() if line.endswith("(planned)")}
    assert "photomaker-v2" in planned
    assert "photomaker-v1" not in planned


def test_no_file_beside_the_script_hides_one_of_pythons_own():
    beside = {path.stem for path in (ROOT / "core").iterdir()}
    assert beside & sys.stdlib_module_names == set()
