"""Every shipped workflow in ComfyUI's editor, as pictures to look at: `python -m tests.host.write_screenshots FOLDER`.

FOLDER gets NAME_before.png of each workflow and, for the toy world's, which can be run here, NAME_after.png. The other
files are stand-ins with random weights. `--front-end-root` takes the editor of a comfyui-frontend-package in place of
the host's own: the folder `static` in it. `--thumbnails` also writes the pictures in `workflows/`: a result where there
is one, else the graph.
"""

import argparse
import base64
import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.stand_ins.folder import write_all
from tests.stand_ins.pictures import write_pictures

from .chromium import Page
from .comfyui import NOT_FOUND, REPOSITORY, find_comfyui
from .editor import open_editor, open_workflow, wait
from .server import PACK, SHRINK, TRANSFORMERS, Host
from .write_api_twins import WORKFLOWS

RUN_S = 600.0
WIDEST = 1600
QUALITY = 85


@contextmanager
def editor(options: list[str]) -> Iterator[tuple[Host, Page]]:
    """A host with stand-ins of all files, and its editor in a window of 1600 x 1000."""
    comfyui = find_comfyui()
    if comfyui is None:
        raise SystemExit(NOT_FOUND)
    packs = {PACK: REPOSITORY, **{name: Path(__file__).parent / name for name in (SHRINK, TRANSFORMERS)}}
    with tempfile.TemporaryDirectory() as folder:
        host = Host(comfyui, Path(folder) / "comfyui", packs, {"OMP_NUM_THREADS": "1"}, options)
        write_all(host.models_dir)
        write_pictures(host.input_dir)
        minimap = {"Comfy.Minimap.Visible": False}
        with host, open_editor(host, Path(folder) / "chromium", minimap) as page:
            yield host, page


def screenshot(page: Page) -> Image.Image:
    taken = page.call("Page.captureScreenshot", format="png")["data"]
    return Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB")


def run(host: Host, page: Page) -> dict[str, Any]:
    """Run what is open, and give what each node reports."""
    before = set(host.get("/history"))
    page.run("await app.queuePrompt(0)")
    wait(lambda: set(host.get("/history")) - before, RUN_S)
    time.sleep(3)  # until pictures are shown
    (done,) = set(host.get("/history")) - before
    return host.get(f"/history/{done}")[done]["outputs"]


def sheet(host: Host, path: Path, outputs: dict[str, Any]) -> Image.Image:
    """The widest sheet of a run."""
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    sheets = [str(node["id"]) for node in nodes if node["type"] == "StoryIdentityStorySheet"]
    pictures = [Image.open(host.files(outputs[each])[0].path).convert("RGB") for each in sheets]
    return max(pictures, key=lambda each: each.width)


def write_picture(picture: Image.Image, path: Path) -> None:
    picture.thumbnail((WIDEST, WIDEST))
    picture.save(path, quality=QUALITY, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--front-end-root", type=Path)
    parser.add_argument("--thumbnails", action="store_true")
    parser.add_argument("--only", nargs="*", default=[path.stem for path in WORKFLOWS], metavar="NAME")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    root = arguments.front_end_root
    with editor([] if root is None else ["--front-end-root", str(root)]) as (host, page):
        for path in (each for each in WORKFLOWS if each.stem in arguments.only):
            open_workflow(page, path)
            picture = screenshot(page)
            picture.save(arguments.folder / f"{path.stem}_before.png")
            if path.stem.startswith("toyworld"):
                outputs = run(host, page)
                screenshot(page).save(arguments.folder / f"{path.stem}_after.png")
                picture = sheet(host, path, outputs)
            if arguments.thumbnails:
                write_picture(picture, path.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
