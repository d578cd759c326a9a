"""`story-identity demo`: a small story with the toy world's weights, from its text to a sheet and a page to look at."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..core.atomic_files import atomic_write
from ..core.quoting import printable
from ..core.story import Story
from ..core.toyworld.recogniser import load_recogniser
from .demo_album import Album, ReadFace, count_evaluations, measure, open_album
from .demo_page import MADE_BY, build_page
from .demo_sheet import as_bytes, draw_sheet
from .detection import Detector
from .processes import cpu_threads
from .run import run_story
from .run_files import png_bytes, read_about
from .run_settings import RunSettings, toyworld_settings
from .studio import Report

STORY = Path(__file__).parent / "stories" / "one_long_day.json"


@dataclass(frozen=True)
class Demo:
    """Where the demo's files lie, and what they show."""

    sheet: Path
    page: Path
    album: Album


def demo_settings() -> RunSettings:
    """The toy world's, on two CPU threads; a character whom the detector does not find stays as drawn."""
    return toyworld_settings(on_missing="skip", threads=2)


def make_demo(
    out: Path,
    story: Story,
    settings: RunSettings,
    *,
    overwrite: bool = False,
    detector: Detector | None = None,
    read_face: ReadFace | None = None,
    report: Report = lambda what, done, total: None,
) -> Demo:
    """Make a story, or finish it, and draw `sheet.png` and `index.html` into its folder.

    Args:
        out: The folder, as for `run_story`.
        story: With a `title`, and in `told` one sentence per frame.
        settings: The settings of the run.
        overwrite: Start over if the folder has a run with other settings.
        detector: Used in place of the one the settings name.
        read_face: Used for Face-Sim in place of the toy world's detector and identity encoder.
        report: Called in every step, with what is being made and how far it is.

    Raises:
        ValueError, FileNotFoundError: As `run_story`; if the folder has a sheet or a page that no demo wrote.
    """
    sheet, page = out / "sheet.png", out / "index.html"
    _refuse_foreign(sheet, page)
    folder = run_story(story, settings, out, overwrite=overwrite, detector=detector, report=report)
    album = open_album(folder, story, settings)
    with cpu_threads(settings.threads):  # on which the last bits depend
        scores = measure(album, read_face or load_recogniser().embedding_of)
    picture = Image.fromarray(as_bytes(draw_sheet(album, scores)))
    _write(sheet, png_bytes(picture, {"sheet": album.title}))
    _write(page, build_page(album, scores).encode())
    return Demo(sheet, page, album)


def _refuse_foreign(sheet: Path, page: Path) -> None:
    """Refuse to write over a sheet or a page that no demo wrote; those of earlier versions had no mark on the sheet."""
    has_page = page.is_file() and MADE_BY in page.read_text(encoding="utf-8", errors="replace")
    for path, is_ours in ((page, has_page), (sheet, has_page or _is_sheet(sheet))):
        if os.path.lexists(path) and not is_ours:
            raise ValueError(
                f"{printable(str(path))} is there already, and no demo wrote it. Move it elsewhere, or choose another "
                "folder."
            )


def _is_sheet(path: Path) -> bool:
    try:
        return "sheet" in read_about(path)
    except ValueError:
        return False


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless it says the same already: a finished demo may lie in a folder in which nobody can write."""
    if not path.is_file() or path.read_bytes() != content:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)


def main(out: Path, overwrite: bool, report: Report) -> str:
    """Make the demo; returns what was made, at what cost, and where it lies."""
    started = time.monotonic()
    demo = make_demo(out, Story.load(STORY), demo_settings(), overwrite=overwrite, report=report)
    cost, album = count_evaluations(demo.album), demo.album
    portraits = sum(len(each.pictures) for each in album.portraits)
    return (
        f"{len(album.pages)} frames and {portraits} portraits, {cost.total:,} UNet evaluations; this time it took "
        f"{time.monotonic() - started:.0f} s.\nContact sheet: {printable(str(demo.sheet.resolve()))}\n"
        f"Page: {printable(str(demo.page.resolve()))}"
    )
