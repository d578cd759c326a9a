"""What a StoryDB is built from: a user's folders of pictures, and the captions that lie beside them."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ...core.character_mentions import Character, find_word

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CHARACTERS_FILE = "characters.json"
METADATA_FILE = "metadata.jsonl"
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Source:
    """Pictures that show the same characters.

    Args:
        name: The folder's name, or a name for loose pictures that were found to be alike.
        files: Paths of the pictures below the root, sorted.
        captions: By file; not every file has one.
        characters: Who is shown, where `characters.json` says so; else empty, and one character is found.
        missing: Files that a metadata.jsonl names and that are not there.
    """

    name: str
    files: tuple[str, ...]
    captions: Mapping[str, str]
    characters: tuple[Character, ...] = ()
    missing: tuple[str, ...] = ()


def find_sources(root: Path) -> tuple[list[Source], Source | None]:
    """The folders of characters, and the loose pictures that lie beside them.

    Every folder directly in `root` is one set of characters, with all pictures in it and below. Names that begin with
    a dot are left out. A caption is the text of the `.txt` beside a picture, or of its line in a `metadata.jsonl` in
    the picture's folder or one above it: `{"file_name": ..., "text": ...}`, as Hugging Face's imagefolder has it.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no pictures, or a file that describes them is damaged.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'There is no folder "{root}".')
    told = _read_metadata(root)
    pictures = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in PICTURE_TYPES and path.is_file()]
    files = [path.relative_to(root) for path in pictures]
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    if not files:
        raise ValueError(f"There are no pictures in {root}; expected {', '.join(PICTURE_TYPES)}.")
    folders = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    sources = [_source(root, name, [file for file in files if file.parts[0] == name], told) for name in folders]
    loose = [file for file in files if len(file.parts) == 1]
    return sources, _source(root, "", loose, told) if loose else None


def _source(root: Path, name: str, files: list[Path], told: Mapping[str, str]) -> Source:
    """One folder's pictures; the name of the loose ones' is empty."""
    captions = {}
    for file in files:
        beside = (root / file).with_suffix(".txt")
        text = beside.read_text(encoding="utf-8") if beside.is_file() else told.get(file.as_posix(), "")
        if text.strip():
            captions[file.as_posix()] = " ".join(text.split())
    here = [file for file in told if Path(file).parts[0] == name or (not name and len(Path(file).parts) == 1)]
    return Source(
        name,
        tuple(file.as_posix() for file in files),
        captions,
        _read_characters(root / name / CHARACTERS_FILE),
        tuple(sorted(file for file in here if not (root / file).is_file())),
    )


def _read_metadata(root: Path) -> dict[str, str]:
    """Captions by file, from every metadata.jsonl; one nearer to the picture wins."""
    told: dict[str, str] = {}
    for path in sorted(root.rglob(METADATA_FILE), key=lambda path: len(path.parts)):
        folder = path.parent.relative_to(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                told[(folder / entry["file_name"]).as_posix()] = str(entry["text"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f'{path}, line {number}: expected {{"file_name": ..., "text": ...}}, found {line[:80]}'
                ) from error
    return told


def _read_characters(path: Path) -> tuple[Character, ...]:
    """Who a folder shows, as its user says: `[{"name": ..., "word": ..., "description": ...}, ...]`."""
    if not path.is_file():
        return ()
    expected = f'{path}: expected [{{"name": ..., "word": ..., "description": ...}}, ...]'
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
        people = tuple(Character(entry["name"], entry["word"], entry["description"]) for entry in entries)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{expected}; {type(error).__name__}: {error}.") from error
    if not people or len({person.name for person in people}) < len(people):
        raise ValueError(f"{expected}, one or more, each name once.")
    for person in people:
        if not find_word(person.word, person.description):
            raise ValueError(f'{path}: the class word "{person.word}" is not in "{person.description}".')
    return people


def open_picture(file: Path | io.BytesIO) -> Image.Image:
    """A picture as RGB, turned upright; what is transparent becomes white.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with Image.open(file) as found:
            picture = ImageOps.exif_transpose(found)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all are Pillow's for "damaged"
        raise ValueError(f"{type(error).__name__}: {error}") from error


def stored_picture(path: Path) -> tuple[str, bytes]:
    """Suffix and bytes of a picture as a database keeps it: an upright RGB PNG or JPEG as it is, others as PNG."""
    with Image.open(path) as found:
        plain = found.mode == "RGB" and "transparency" not in found.info
        if plain and found.format in ("PNG", "JPEG") and found.getexif().get(_ORIENTATION, 1) == 1:
            return {"PNG": "png", "JPEG": "jpg"}[found.format], path.read_bytes()
    return "png", png_bytes(open_picture(path))


def png_bytes(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
