"""A frame as a line of text that has all of the frame and nothing of the others, and back.

The text has no number, and of the story's characters only those who are in the frame. So it stays the same when other
frames are edited, inserted, deleted or moved, and a host that keeps results by the text keeps them then. A second text
has no names either, for results in which names do not show.
"""

import json
from typing import Any

from .character_mentions import Character
from .quoting import quote
from .story import Appearance, Frame

UNNUMBERED = -1
"""The index of a frame that travels by itself."""


def frame_as_text(frame: Frame) -> str:
    """The frame as one line of JSON; equal for frames that are equal but for their number and the story's names."""
    known = {"caption": frame.caption, **_drawn(frame)}
    known["cast"] = [
        {"name": each.character.name, **drawn} for each, drawn in zip(frame.appearances, known["cast"], strict=True)
    ]
    return _as_line(known)


def frame_without_names(frame: Frame) -> str:
    """The frame as a line of JSON that stays the same when its characters get other names.

    It has no caption, and its cast is in the order of the prompt. A picture depends on this text alone where names only
    say which identity and which mask belong together.
    """
    return _as_line(_drawn(frame))


def _drawn(frame: Frame) -> dict[str, Any]:
    """Everything that decides what is drawn."""
    cast = [
        {
            "word": each.character.word,
            "description": each.character.description,
            "reference_images": each.character.reference_images,
            "class_word": each.class_word,
            "identifying_words": each.identifying_words,
        }
        for each in frame.appearances
    ]
    return {"prompt": frame.prompt, "negative": frame.negative, "style_prefix": frame.style_prefix, "cast": cast}


def _as_line(known: dict[str, Any]) -> str:
    return json.dumps(known, ensure_ascii=True, separators=(",", ":"))


def frame_from_text(text: str) -> Frame:
    """The frame of a text that `frame_as_text` made: without number, seed and the names of those who are elsewhere.

    Raises:
        ValueError: If it is no such text.
    """
    try:
        known: dict[str, Any] = json.loads(text)
        appearances = tuple(_appearance(each) for each in known["cast"])
        return Frame(
            index=UNNUMBERED,
            prompt=known["prompt"],
            appearances=appearances,
            negative=known["negative"],
            caption=known["caption"],
            style_prefix=known["style_prefix"],
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{quote(text)} is not the text of a frame.") from problem


def _appearance(known: dict[str, Any]) -> Appearance:
    character = Character(known["name"], known["word"], known["description"], tuple(known["reference_images"]))
    start, end = known["class_word"]
    return Appearance(character, (start, end), tuple((first, last) for first, last in known["identifying_words"]))
