"""The stories of a benchmark as they are published: files of ConsiStory-Human, folders of ViStoryBench."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.character_mentions import find_word
from ..core.quoting import printable, quote
from ..core.story import Story
from ..core.story_fields import read_json

CONSISTORY_HUMAN, VISTORYBENCH = "ConsiStory-Human", "ViStoryBench"
NAMES = (CONSISTORY_HUMAN, VISTORYBENCH)
_PEOPLE = ("woman", "man", "girl", "boy", "lady", "gentleman", "person", "child", "princess", "prince", "queen", "king")
_HUMAN = "realistic_human"
_PICTURES = (".png", ".jpg", ".jpeg")
_SHOT_KEYS = ("Static Shot Description", "Setting Description", "Characters Appearing")


@dataclass(frozen=True)
class BenchmarkStory:
    """One story of a set.

    Args:
        name: Its path within the set, without the ending.
        story: The story.
        references: Reference pictures by character.
        people: The characters whose faces count; all others are compared as figures.
    """

    name: str
    story: Story
    references: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    people: frozenset[str] = frozenset()


def open_set(benchmark: str, folder: Path, count: int | None = None) -> list[BenchmarkStory]:
    """The stories of a folder, all of them checked.

    Args:
        benchmark: One of `NAMES`.
        folder: With a .json file per story (ConsiStory-Human), or a folder with a story.json per story (ViStoryBench).
        count: How many, the first by name; all if None.

    Raises:
        FileNotFoundError: If there is no folder, or no story in it.
        ValueError: If a story is malformed; it is named.
    """
    if benchmark not in NAMES:
        raise ValueError(f"There is no benchmark {quote(benchmark)}; there are {' and '.join(NAMES)}.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {printable(str(folder))}.")
    pattern = "story.json" if benchmark == VISTORYBENCH else "*.json"
    files = sorted(folder.rglob(pattern))[:count]
    if not files:
        raise FileNotFoundError(f"There is no story in {printable(str(folder))}: {benchmark} has files {pattern}.")
    read = _read_vistory if benchmark == VISTORYBENCH else _read_consistory
    return [_named(read, file, folder) for file in files]


def _named(read: Any, file: Path, folder: Path) -> BenchmarkStory:
    try:
        return read(file, folder)
    except ValueError as error:
        raise ValueError(f"{printable(file.relative_to(folder).as_posix())}: {error}") from error


def _read_consistory(file: Path, folder: Path) -> BenchmarkStory:
    return BenchmarkStory(file.relative_to(folder).with_suffix("").as_posix(), Story.parse(read_json(file), True))


def _read_vistory(file: Path, folder: Path) -> BenchmarkStory:
    """A story of ViStoryBench, in English.

    A shot becomes a frame: its static description, then the setting. Their own prompts also have camera and plot, which
    text encoders of 77 tokens would not reach. A character's class word is the first word for a person in the
    description; where there is none, "person" (or "character" for those who are no people) is put before it.
    """
    content = read_json(file)
    raw = content.get("Characters") if isinstance(content, dict) else None
    shots = content.get("Shots") if isinstance(content, dict) else None
    if not isinstance(raw, dict) or not isinstance(shots, list):
        raise ValueError('It does not have the objects "Characters" and "Shots" of ViStoryBench.')
    characters = [_vistory_character(key, each) for key, each in raw.items()]
    names = {key: each["name"] for key, each in zip(raw, characters, strict=True)}
    frames = [_vistory_frame(number, shot, names) for number, shot in enumerate(shots, start=1)]
    story = Story.parse({"characters": characters, "frames": frames})
    references = {names[key]: _references(file.parent / "image" / key) for key in raw}
    people = frozenset(names[key] for key, each in raw.items() if each.get("tag") == _HUMAN)
    name = file.parent.relative_to(folder).as_posix()
    return BenchmarkStory(name, story, {who: files for who, files in references.items() if files}, people)


def _vistory_character(key: str, raw: Any) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise ValueError(f"Character {quote(key)} must be an object, not {quote(raw)}.")
    name, description = (raw.get(each) for each in ("name_en", "prompt_en"))
    if not isinstance(name, str) or not name.strip() or not isinstance(description, str):
        raise ValueError(f'Character {quote(key)} needs "name_en" and "prompt_en", which are text.')
    found = [(find_word(word, description)[0], word) for word in _PEOPLE if find_word(word, description)]
    if found:
        return {"name": name.strip(), "word": min(found)[1], "description": description.strip()}
    word = "person" if raw.get("tag") == _HUMAN else "character"
    return {"name": name.strip(), "word": word, "description": f"a {word}, {description.strip()}"}


def _vistory_frame(number: int, shot: Any, names: Mapping[str, str]) -> dict[str, Any]:
    english = {}
    for key in _SHOT_KEYS:
        value = shot.get(key) if isinstance(shot, dict) else None
        if not isinstance(value, dict) or "en" not in value:
            raise ValueError(f'Shot {number} needs "{key}" with an entry "en".')
        english[key] = value["en"]
    cast = english["Characters Appearing"]
    if not isinstance(cast, list):
        raise ValueError(f'Shot {number}: "Characters Appearing" must be a list, not {quote(cast)}.')
    unknown = [who for who in cast if who not in names]
    if unknown:
        raise ValueError(f"Shot {number}: {quote(unknown[0])} is none of the story's characters.")
    present = [names[who] for who in cast]
    said = f"{english['Static Shot Description']} {english['Setting Description']}".strip()
    missing = [who for who in present if not find_word(who, said)]
    return {"prompt": f"{', '.join(missing)}: {said}" if missing else said, "cast": present}


def _references(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES) if folder.is_dir() else []
