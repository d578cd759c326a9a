"""Characters as lines of text, by themselves and for a story that has lines of its own."""

import pytest
from story_identity.core.character_mentions import Character
from story_identity.core.story import Story
from story_identity.core.story_characters import typed_characters

MIRA = "Mira | woman | a woman with red hair"
PIP = "Pip | robot | a robot with a white lamp"


def test_a_line_is_a_character_and_may_name_pictures():
    found = typed_characters(f"\n{MIRA}\n  {PIP} \uff5c pip 1.png, pip_2.png\uff0c \u3001\n", with_pictures=True)
    assert found == (
        Character("Mira", "woman", "a woman with red hair"),
        Character("Pip", "robot", "a robot with a white lamp", ("pip 1.png", "pip_2.png")),
    )
    assert typed_characters(f"{MIRA} |", with_pictures=True) == found[:1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no characters"),
        (f"{MIRA}\nPip | robot", 'Character line 2 is "Pip . robot"; write "name . class word . description".*fourth'),
        (f"{MIRA} | a.png | b.png", "Character line 1"),
        (f"{MIRA}\n{MIRA}", 'Two characters are called "Mira"'),
        ("Mira | girl | a woman", 'class word "girl" is not a word of the description "a woman"'),
        ("Mira | woman | a \ud83d woman", "half of a character"),
        ("Mira || a woman", '"word" is missing or empty'),
    ],
)
def test_what_is_no_list_of_characters_is_refused_with_line_and_value(text, message):
    with pytest.raises(ValueError, match=message):
        typed_characters(text, with_pictures=True)


def test_a_story_with_its_own_lines_takes_no_pictures():
    with pytest.raises(ValueError, match="Character line 1"):
        Story.from_lines(f"{MIRA} | mira.png", "Mira waits")


def test_a_story_that_takes_a_list_is_the_one_that_has_the_lines():
    listed = typed_characters(f"{MIRA}\n{PIP} | pip.png", with_pictures=True)
    own = Story.from_lines(f"{MIRA}\n{PIP}", "Mira waits\nPip and Mira")
    for typed in ("", " \n", PIP, f"{PIP}\n{MIRA}"):
        story = Story.from_lines(typed, "Mira waits\nPip and Mira", character_list=listed)
        assert [each.name for each in story.characters] == ["Mira", "Pip"]
        assert [frame.prompt for frame in story.frames] == [frame.prompt for frame in own.frames]
        assert story.characters[1].reference_images == ("pip.png",)


def test_lines_that_contradict_the_list_are_one_error_with_the_fix():
    listed = typed_characters(f"{MIRA}\n{PIP}")
    with pytest.raises(ValueError, match=r'line 2: "Mira" is "woman \| a woman with black hair" here, but "woman \| a'):
        Story.from_lines(f"{PIP}\nMira | woman | a woman with black hair", "Mira", character_list=listed)
    with pytest.raises(ValueError, match='line 1: "Ben" is not in character_list.*empty the field characters'):
        Story.from_lines("Ben | man | a man", "Mira", character_list=listed)
