"""The fixed words of the toy world: what its text encoder, its detector and its captions know."""

import re
from collections.abc import Sequence

CLASS_WORDS = ("man", "woman", "boy", "girl", "robot")
HAIR_COLOURS = ("black", "brown", "blond", "red", "white")
CLOTHES_COLOURS = ("red", "blue", "green", "yellow", "purple", "white", "black", "orange")
GARMENTS = ("shirt", "coat", "dress")
PROPS = ("dog", "cat", "ball", "balloon", "kite")
HOURS = ("day", "night")

POSE_WORDS = {
    "standing": ("standing", "stands"),
    "waving": ("waving", "waves"),
    "sitting": ("sitting", "sits"),
    "jumping": ("jumping", "jumps"),
}
"""Each pose, and the words a caption may use for it."""

PLACE_WORDS = {
    "beach": ("on a beach", "on the beach", "at the beach"),
    "forest": ("in a forest", "in the forest"),
    "city": ("in a city", "in the city"),
    "kitchen": ("in a kitchen", "in the kitchen"),
    "garden": ("in a garden", "in the garden"),
    "snow": ("in the snow",),
}
"""Each place, and the phrases a caption may use for it."""

POSES, PLACES = tuple(POSE_WORDS), tuple(PLACE_WORDS)

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"

PATTERN = r"\w+(?:-\w+)*|[^\w\s]"
"""What counts as one token: a word with its hyphens, or one other character."""

_OTHER_WORDS = "a an the of with and , . photo picture close-up left right on in at is are day night lamp hair".split()


def vocabulary() -> list[str]:
    """Every token: the special ones first (start, end and padding, unknown), then the words, sorted."""
    words = {*CLASS_WORDS, *HAIR_COLOURS, *CLOTHES_COLOURS, *GARMENTS, *PROPS, *_OTHER_WORDS}
    for phrases in (*POSE_WORDS.values(), *PLACE_WORDS.values()):
        words.update(word for phrase in phrases for word in phrase.split())
    return [START, END, UNKNOWN, *sorted(words)]


def tokenize(text: str, length: int, vocabulary: Sequence[str] = tuple(vocabulary())) -> list[int]:
    """Token ids of a text, padded to `length`; the tokenizer files in `weights/tokenizer` give the same ids.

    Args:
        text: Any text.
        length: How many ids there are to be.
        vocabulary: Every token, in the order of `vocabulary()`.

    Raises:
        ValueError: If the text has more tokens than fit.
    """
    known = {word: number for number, word in enumerate(vocabulary)}
    words = re.findall(PATTERN, text.lower())
    if len(words) + 2 > length:
        raise ValueError(f'"{text}" has {len(words)} tokens; {length - 2} fit.')
    ids = [known[START], *(known.get(word, known[UNKNOWN]) for word in words)]
    return ids + [known[END]] * (length - len(ids))
