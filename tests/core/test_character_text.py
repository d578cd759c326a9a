"""A character as text: nothing of them is lost, and the name is not of what decides their pictures."""

import dataclasses

import pytest
from story_identity.core.character_mentions import Character
from story_identity.core.character_text import character_as_text, character_from_text, character_without_name

MIRA = Character("Mira \u96e8", "woman", "a woman with red hair", ("mira.png",))


def test_everything_comes_back():
    assert character_from_text(character_as_text(MIRA, ["d1"])) == MIRA


def test_only_the_name_is_left_out():
    changes = {"name": "Ada", "word": "red", "description": "a woman", "reference_images": ()}
    for field, value in changes.items():
        other = dataclasses.replace(MIRA, **{field: value})
        assert character_as_text(other) != character_as_text(MIRA)
        assert (character_without_name(other) == character_without_name(MIRA)) is (field == "name")
    assert character_without_name(MIRA, ["d1"]) != character_without_name(MIRA, ["d2"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name":"a"}', "\ud83d"])
def test_what_is_no_character_is_refused(text):
    with pytest.raises(ValueError, match="is not the text of a character"):
        character_from_text(text)
