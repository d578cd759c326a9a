"""What the Story node shows of a story."""

from story_identity.core.story import Story
from story_identity.core.story_table import MOST_ROWS, story_table
from story_identity.core.story_warnings import story_warnings

CHARACTERS = "Mira | woman | a woman with red hair\nB\x1b[31m | man | a man"


def table(*prompts: str) -> list[str]:
    story = Story.from_lines(CHARACTERS, "\n".join(prompts), "ink")
    return story_table(story, story_warnings(story)).splitlines()


def test_warnings_come_first_then_who_is_where():
    assert table("seed 5 | Mira waits", "Mria waits") == [
        '⚠ "B\\x1b[31m" is in no frame. Names count as they are spelt, capitals included.',
        '⚠ Frame 2: "Mria" looks like the name "Mira", but is spelt differently.',
        "",
        "1 · Mira · seed 5",
        "ink, a woman with red hair waits",
        "2 · nobody",
        "ink, Mria waits",
    ]


def test_a_long_story_is_cut_in_the_middle():
    lines = table(*["Mira and B\x1b[31m wait"] * 1000)
    assert len(lines) == 2 * MOST_ROWS + 1
    assert lines[MOST_ROWS] == f"… {1000 - MOST_ROWS} more frames …"
    assert lines[-2].startswith("1000 · Mira")
