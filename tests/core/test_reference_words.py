"""Prompts that say which reference picture shows whom."""

import pytest
from story_identity.core.character_mentions import find_word
from story_identity.core.reference_words import with_reference
from story_identity.core.story import CHARACTER, Story

MIRA = "a young woman with short red hair"


@pytest.mark.parametrize(
    ("prompt", "pictures", "expected"),
    [
        (f"{MIRA} waits", 1, f"{MIRA}, the woman in image 1, waits"),
        (f"{MIRA}, rain", 2, f"{MIRA}, the woman in images 1 and 2, rain"),
        (f"oil painting, {MIRA}", 3, f"oil painting, {MIRA}, the woman in images 1 to 3"),
        (f"({MIRA}:1.2) waits", 1, f"({MIRA}, the woman in image 1:1.2) waits"),
        (MIRA.capitalize(), 1, f"{MIRA.capitalize()}, the woman in image 1"),
        ("the woman waits", 1, "the woman in image 1 waits"),
        ("a woman waits", 1, "the woman in image 1 waits"),
        ("A woman's hat", 1, "The woman in image 1's hat"),
        ("rain, an old woman waits", 1, "rain, the old woman in image 1 waits"),
        ("a man in a red coat and a woman wait", 1, "a man in a red coat and the woman in image 1 wait"),
        ("a man and the old woman wait", 1, "a man and the old woman in image 1 wait"),
        ("a boat, woman", 1, "a boat, woman in image 1"),
        ("a (woman:1.3) waits", 1, "a (woman in image 1:1.3) waits"),
    ],
)
def test_the_words_stand_after_the_description_or_the_class_word(prompt, pictures, expected):
    assert with_reference(prompt, find_word("woman", prompt)[0], MIRA, pictures) == expected


def test_the_rest_of_the_prompt_stays():
    prompt = f"cinematic, {MIRA} and an old man wait, a woman walks past"
    span = find_word("woman", prompt)[0]
    found = with_reference(prompt, span, MIRA, 1, "picture")
    assert found.replace(", the woman in picture 1,", "", 1) == prompt
    second = find_word("woman", prompt)[1]
    assert with_reference(prompt, second, MIRA, 1).endswith("wait, the woman in image 1 walks past")


def test_every_appearance_of_a_story_is_said_once():
    people = [
        {"name": "Mira", "word": "woman", "description": MIRA},
        {"name": "Ben", "word": "man", "description": "a man"},
    ]
    story = Story.parse(
        {
            "characters": people,
            "style": "watercolor",
            "frames": ["Mira meets Ben", "Ben waits", "a woman and a man"],
        }
    )
    for frame in story.frames:
        for each in frame.appearances:
            for prompt in ("frame", CHARACTER):
                text, span = frame.prompt_about(each, prompt)
                found = with_reference(text, span, each.character.description, 1)
                assert found.count(f"{each.character.word} in image 1") == 1
                assert found.startswith("watercolor, ")
