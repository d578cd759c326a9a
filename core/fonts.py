"""Fonts that have the letters of a text: Pillow's own, which has Latin, else one of the machine's."""

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from .quoting import printable, quote

BUILT_IN = "Aileron (Pillow's own)"
"""What reports call the font that Pillow brings along."""
ENDINGS = (".ttf", ".otf", ".ttc")

Font = ImageFont.FreeTypeFont

_NO_CHARACTER = "\U0010fffe"
"""No font has a letter for it, so that it is drawn as what is missing is drawn."""
_PROBE_PX = 24
_SHOWN = 12
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "narrow")
_SHAPED = (
    *(range(0x0590, 0x0900), range(0xFB1D, 0xFE00), range(0xFE70, 0xFF00)),  # Hebrew, Arabic and their kin
    *(range(0x0900, 0x0E00), range(0x0F00, 0x10A0), range(0x1780, 0x1800)),  # India, Tibet, Burma, Cambodia
)
"""Letters that are not drawn one after the other, from left to right: they need Raqm."""


def load_font(file: Path | None, size: int) -> Font:
    """A font in a size of pixels; None is Pillow's own.

    Raises:
        ValueError: If the file is no font, or this Pillow was built without FreeType.
    """
    if not features.check("freetype2"):
        raise ValueError("This Pillow cannot draw text: it was built without FreeType. Install Pillow from its wheels.")
    if file is None:
        own = ImageFont.load_default(size=size)
        assert isinstance(own, ImageFont.FreeTypeFont)  # with FreeType and a size it is one
        return own
    try:
        return ImageFont.truetype(str(file), size)
    except OSError as error:
        raise ValueError(f"{printable(str(file))} is not a font that can be read. Choose another.") from error


def missing_letters(text: str, file: Path | None) -> list[str]:
    """The characters of a text for which a font has no letter, each once, in order."""
    wanted = dict.fromkeys(each for each in text if not _is_blank(each))
    return [each for each in wanted if not _has(file, each)]


def fonts_for(texts: Sequence[str], files: Iterable[Path]) -> list[Path | None]:
    """A font for each text, one that has all its letters; None is Pillow's own, which is tried first.

    All texts get the same font where one has the letters of all.

    Args:
        texts: What is to be written.
        files: Fonts, the ones that are preferred first.

    Raises:
        ValueError: If no font has the letters of a text; it names those which the best one lacks. Also where the
            letters need to be joined or run from right to left, and this Pillow cannot do that.
    """
    check_shaping("".join(texts))
    known = list(files)
    whole, lacking = _complete("".join(texts), known)
    return [whole] * len(texts) if not lacking else [_font_for(text, known) for text in texts]


def _font_for(text: str, files: Sequence[Path]) -> Path | None:
    file, lacking = _complete(text, files)
    if lacking:
        raise ValueError(
            f"No font of this machine has the letters {_listed(lacking)}. Install a font that has them, such as one of "
            "the Noto fonts, or put its file into models/fonts and choose it as font."
        )
    return file


def _complete(text: str, files: Sequence[Path]) -> tuple[Path | None, list[str]]:
    """The first font that has all letters, or the one that lacks fewest, and which it lacks."""
    best: tuple[Path | None, list[str]] = None, missing_letters(text, None)
    for file in files if best[1] else ():
        try:
            lacking = missing_letters(text, file)
        except ValueError:  # one broken font of the machine does not matter where another serves
            continue
        best = min(best, (file, lacking), key=lambda each: len(each[1]))
        if not lacking:
            break
    return best


def check_letters(texts: Sequence[str], file: Path | None) -> None:
    """Raise a ValueError that names the letters of the texts which a chosen font lacks."""
    check_shaping("".join(texts))
    lacking = missing_letters("".join(texts), file)
    if lacking:
        name = BUILT_IN if file is None else file.name
        raise ValueError(f"The font {quote(name)} lacks the letters {_listed(lacking)}. Choose another as font.")


def check_shaping(text: str) -> None:
    """Raise a ValueError where letters must be joined or run from right to left, and Pillow cannot do that here."""
    shaped = [each for each in dict.fromkeys(text) if any(ord(each) in block for block in _SHAPED)]
    if shaped and not features.check("raqm"):
        raise ValueError(
            f"The letters {_listed(shaped)} need Raqm and FriBiDi to be drawn in the right order and form, and this "
            "Pillow does not find them. Install the library FriBiDi (libfribidi0 on Debian and Ubuntu)."
        )


@lru_cache(maxsize=1)
def system_fonts() -> tuple[Path, ...]:
    """The font files of this machine: upright ones of usual weight first, sans serif before others."""
    found = [
        Path(folder, name)
        for place in _folders()
        for folder, _, names in os.walk(place)
        for name in names
        if name.lower().endswith(ENDINGS)
    ]
    return tuple(sorted(found, key=_preference))


def _preference(path: Path) -> tuple[int, int, int, str]:
    name = path.stem.lower()
    styled = any(word in name for word in _STYLES)
    special = any(word in name for word in ("mono", "emoji", "symbol", "math", "icon", "serif", "lastresort"))
    return styled, special and "sansserif" not in name, "sans" not in name, str(path)


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", local / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return [own / "fonts", home / ".fonts", *(Path(place) / "fonts" for place in data.split(":") if place)]


@lru_cache(maxsize=4096)
def _has(file: Path | None, character: str) -> bool:
    """Whether a font has a letter of its own for a character, which is then not drawn as a missing one."""
    return _drawn(file, character) != _drawn(file, _NO_CHARACTER)


@lru_cache(maxsize=4096)
def _drawn(file: Path | None, character: str) -> tuple[float, bytes]:
    """How wide a character is, and what it looks like."""
    picture = Image.new("L", (4 * _PROBE_PX, 3 * _PROBE_PX))
    ImageDraw.Draw(picture).text((_PROBE_PX, _PROBE_PX), character, fill=255, font=_probe(file))
    return _probe(file).getlength(character), picture.tobytes()


@lru_cache(maxsize=64)
def _probe(file: Path | None) -> Font:
    return load_font(file, _PROBE_PX)


def _is_blank(character: str) -> bool:
    """Whether a character has no shape: space, and what only controls others."""
    return unicodedata.category(character)[0] in "ZC" or 0xFE00 <= ord(character) < 0xFE10


def _listed(characters: Sequence[str]) -> str:
    shown = " ".join(printable(each) for each in characters[:_SHOWN])
    more = len(characters) - _SHOWN
    return f'"{shown}"' + (f" and {more} more" if more > 0 else "")
