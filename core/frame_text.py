"""A frame as a line of text that has all of the frame and nothing of the others, and back.

The text has no number, and of the story's characters only those who are in the frame. So it stays the same when other
frames are edited, inserted, deleted or moved, and a host that keeps results by the text keeps them then.
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
    cast = [
        {
            "name": each.character.name,
            "word": each.character.word,
            "description": each.character.description,
            "reference_images": each.character.reference_images,
            "class_word": each.class_word,
            "identifying_words": each.identifying_words,
        }
        for each in frame.appearances
    ]
    known = {
        "prompt": frame.prompt,
        "negative": frame.negative,
        "caption": frame.caption,
        "style_prefix": frame.style_prefix,
        "cast": cast,
    }
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
