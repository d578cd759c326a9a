"""What a StoryDB is built from: a user's folders of pictures, and their captions."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from ...core.character_mentions import Character, find_word
from ...core.quoting import printable, quote, quote_all
from .files import FoundFiles, Refusal, walk

PICTURE_TYPES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CHARACTERS_FILE = "characters.json"
METADATA_FILE = "metadata.jsonl"
_LONGEST_CAPTION = 2**16
"""In bytes. No caption is so long, and the search for the words that captions share takes time."""


@dataclass(frozen=True)
class Source:
    """Pictures that show the same characters.

    Args:
        name: The folder's name, or a name for loose pictures that were found to be alike.
        files: Paths of the pictures below the root, sorted.
        captions: By file; not every file has one.
        characters: Who is shown, where `characters.json` says so; else empty, and one character is found.
        refused: What is left out before any picture is opened, and why: links that lead outside, captions that are no
            text, files that a metadata.jsonl names and that are not there.
    """

    name: str
    files: tuple[str, ...]
    captions: Mapping[str, str]
    characters: tuple[Character, ...] = ()
    refused: Mapping[str, Refusal] = field(default_factory=dict)


def find_sources(root: Path) -> tuple[list[Source], Source | None]:
    """The folders of characters, and the loose pictures that lie next to them.

    Every folder directly in `root` is one set of characters, with all pictures in it and below. Names that begin with
    a dot are left out; symbolic links are followed where they stay inside `root`. A caption is the text of a
    picture's `.txt`, which has its name, or of its line in a `metadata.jsonl` in the picture's folder or one above it:
    `{"file_name": ..., "text": ...}`, as Hugging Face's imagefolder has it. All text is UTF-8, with or without
    a byte order mark.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there are no pictures, or a file that describes them is damaged.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {quote(str(root))}.")
    found = walk(root)
    metadata = _read_metadata(root, found)
    pictures = [file for file in found.files if PurePath(file).suffix.lower() in PICTURE_TYPES]
    if not pictures:
        left_out = f" Left out are {quote_all(found.refused)}, links that lead outside." if found.refused else ""
        expected = ", ".join(PICTURE_TYPES)
        raise ValueError(f"There are no pictures in {quote(str(root))}; expected {expected}.{left_out}")
    parts = _by_source(pictures, metadata, found.refused)
    sources = {name: _source(root, name, each, metadata, found) for name, each in parts.items()}
    loose = sources.pop("", None)
    return list(sources.values()), loose


def _by_source(*kinds: Iterable[str]) -> dict[str, tuple[list[str], ...]]:
    """Files of several kinds by the source that they belong to, sorted; the loose pictures' name is empty."""
    parts: dict[str, tuple[list[str], ...]] = {}
    for kind, files in enumerate(kinds):
        for file in files:
            folder, slash, _ = file.partition("/")
            parts.setdefault(folder if slash else "", tuple([] for _ in kinds))[kind].append(file)
    return dict(sorted(parts.items()))


def _source(
    root: Path, name: str, parts: tuple[list[str], ...], metadata: Mapping[str, str], found: FoundFiles
) -> Source:
    """One folder's pictures, or the loose ones; of its parts the pictures, their captions, and what is refused."""
    pictures, described, left_out = parts
    refused = {file: found.refused[file] for file in left_out}
    files, captions = [], {}
    for file in pictures:
        text = _caption(root, file, metadata.get(file, ""), found)
        if isinstance(text, Refusal):
            refused[file] = text
            continue
        files.append(file)
        if text.strip():
            captions[file] = " ".join(text.split())
    for file in {*described} - {*pictures, *left_out}:
        refused[file] = Refusal("missing", "a metadata.jsonl names it, but there is no such picture")
    characters = f"{name}/{CHARACTERS_FILE}" if name else CHARACTERS_FILE
    people = _read_characters(root / characters) if characters in found.files else ()
    return Source(name, tuple(files), captions, people, dict(sorted(refused.items())))


def _caption(root: Path, picture: str, from_metadata: str, found: FoundFiles) -> str | Refusal:
    """The caption of a picture, empty where there is none."""
    text_file = PurePath(picture).with_suffix(".txt")
    if why := found.refused.get(text_file.as_posix()):
        return Refusal("unreadable caption", f"{text_file.name}: {why.detail}")
    if text_file.as_posix() not in found.files:
        return from_metadata
    try:
        if (root / text_file).stat().st_size > _LONGEST_CAPTION:
            return Refusal("caption too long", f"{text_file.name} has more than {_LONGEST_CAPTION:,} bytes")
        return (root / text_file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return Refusal(
            "unreadable caption", f"{text_file.name} is not UTF-8 text ({error.reason}); save it again as UTF-8"
        )
    except OSError as error:
        return Refusal("unreadable caption", f"{text_file.name}: {error.strerror}")


def _read_metadata(root: Path, found: FoundFiles) -> dict[str, str]:
    """Captions by file, from every metadata.jsonl; one nearer to the picture wins."""
    captions: dict[str, str] = {}
    files = [PurePath(file) for file in found.files if PurePath(file).name == METADATA_FILE]
    for file in sorted(files, key=lambda file: len(file.parts)):
        for number, line in _lines(root / file):
            try:
                entry = parse_json(line)
                name, text = entry["file_name"], entry["text"]
                _check_texts(name, text)
                if len(text) > _LONGEST_CAPTION:
                    raise ValueError(f"the text has more than {_LONGEST_CAPTION:,} characters")
                captions[(file.parent / _below(name)).as_posix()] = text
            except (ValueError, KeyError, TypeError) as error:
                why = printable(f"{type(error).__name__}: {error}", 200)
                raise ValueError(
                    f'{file}, line {number}: expected {{"file_name": ..., "text": ...}}, found {quote(line)} ({why}).'
                ) from error
    return captions


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a UTF-8 file that have something on them."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path.name}, line {number}, in {quote(str(path.parent))} is not UTF-8 text ({error.reason}); save "
                "the file again as UTF-8."
            ) from error
        if text:
            yield number, text


def _below(name: str) -> PurePath:
    """A path as a metadata.jsonl writes it, with either kind of slash."""
    path = PureWindowsPath(name)
    if not path.parts or path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError("file_name is a path below the file's own folder")
    return PurePath(path.as_posix())


def _read_characters(path: Path) -> tuple[Character, ...]:
    """Who a folder shows, as its user says: `[{"name": ..., "word": ..., "description": ...}, ...]`."""
    expected = f'{path}: expected [{{"name": ..., "word": ..., "description": ...}}, ...]'
    try:
        entries = parse_json(path.read_text(encoding="utf-8-sig"))
        people = tuple(Character(entry["name"], entry["word"], entry["description"]) for entry in entries)
        for person in people:
            _check_texts(person.name, person.word, person.description)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); save it again as UTF-8.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{expected}; {printable(f'{type(error).__name__}: {error}', 200)}.") from error
    if not people or len({person.name for person in people}) < len(people):
        raise ValueError(f"{expected}, one or more, each name once.")
    for person in people:
        if not (person.name.strip() and person.word.strip() and find_word(person.word, person.description)):
            raise ValueError(
                f"{path}: the class word {quote(person.word)} is not in {quote(person.description)}, the description "
                f"of {quote(person.name)}."
            )
    return people


def _check_texts(*texts: Any) -> None:
    """Raise a TypeError if one is no string, a ValueError if one cannot be written as UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{quote(text)} is no string")
        text.encode()


def parse_json(text: str) -> Any:
    """Parse JSON in which no key may be given twice.

    Raises:
        ValueError: If it is none, has a key twice, or is nested without end.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is given twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
