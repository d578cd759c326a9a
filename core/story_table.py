"""A story as a table to read: who is in each frame, the prompt as built, the seed, and what seems wrong."""

from collections.abc import Sequence

from .quoting import printable
from .story import Frame, Story

MOST_ROWS = 40
"""Frames that are shown; a longer story is cut in the middle."""

_LONGEST_PROMPT = 300


def story_table(story: Story, warnings: Sequence[str]) -> str:
    """Warnings first, then a paragraph per frame.

    Args:
        story: The story.
        warnings: What `story_warnings.story_warnings` says of it.
    """
    frames = story.frames
    shown = [*frames[: MOST_ROWS // 2], *frames[-MOST_ROWS // 2 :]] if len(frames) > MOST_ROWS else list(frames)
    rows = [_row(frame) for frame in shown]
    if len(shown) < len(frames):
        rows.insert(MOST_ROWS // 2, f"… {len(frames) - len(shown)} more frames …")
    noted = [f"⚠ {sentence}" for sentence in warnings]
    return "\n".join([*noted, *([""] if noted else []), *rows])


def _row(frame: Frame) -> str:
    who = ", ".join(printable(character.name, 60) for character in frame.cast) or "nobody"
    seed = "" if frame.seed is None else f" · seed {frame.seed}"
    return f"{frame.index + 1} · {who}{seed}\n{printable(frame.prompt, _LONGEST_PROMPT)}"
