"""A frame as text: nothing of it is lost, and nothing of the other frames is in it."""

import dataclasses

import pytest
from story_identity.core.frame_text import UNNUMBERED, frame_as_text, frame_from_text, frame_without_names
from story_identity.core.story import Story

CHARACTERS = "Mira | woman | a young woman with short red hair\nBen | man | an old man in a raincoat"
PROMPTS = ["Mira greets Ben; Mira's hat falls", "a beach, nobody around", "Ben wartet 雨の中, \U0001f600"]


def texts(characters: str, *prompts: str) -> list[str]:
    return [frame_as_text(frame) for frame in Story.from_lines(characters, "\n".join(prompts), "ink", "blurry").frames]


def test_everything_of_the_frame_comes_back():
    for frame in Story.from_lines(CHARACTERS, "\n".join(PROMPTS), "ink", "blurry").frames:
        back = frame_from_text(frame_as_text(frame))
        expected = dataclasses.replace(frame, index=UNNUMBERED, seed=None, story_names=(), wording="")
        assert back == expected
        assert frame_as_text(back) == frame_as_text(frame)


def test_other_frames_and_characters_who_are_elsewhere_do_not_change_it():
    first, second, third = texts(CHARACTERS, *PROMPTS)
    assert texts(CHARACTERS, "Ben sleeps", PROMPTS[2], *PROMPTS[:2]) == [
        texts(CHARACTERS, "Ben sleeps")[0],
        third,
        first,
        second,
    ]
    assert texts(f"{CHARACTERS}\nAda | girl | a girl with a kite", *PROMPTS) == [first, second, third]
    assert texts(CHARACTERS.replace("short", "long"), *PROMPTS)[1:] == [second, third]
    assert texts(CHARACTERS.replace("short", "long"), *PROMPTS)[0] != first


def test_a_frame_by_itself_is_called_by_its_caption_and_takes_any_name_for_somebody_elsewhere():
    frame = frame_from_text(texts(CHARACTERS, *PROMPTS)[2])
    assert frame.label.startswith('the frame "Ben wartet')
    assert frame.span_of("Mira") is None
    assert frame.span_of("Ben") is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"prompt":"a","negative":"","caption":"","cast":[{}]}', "\ud83d"])
def test_what_is_no_frame_is_refused(text):
    with pytest.raises(ValueError, match="is not the text of a frame"):
        frame_from_text(text)


def test_without_names_it_stays_the_same_when_people_are_renamed_and_nothing_else_is_left_out():
    def nameless(characters: str, prompt: str) -> str:
        return frame_without_names(Story.from_lines(characters, prompt, "ink", "blurry").frames[0])

    greeting = nameless(CHARACTERS, "Mira greets Ben")
    assert nameless(CHARACTERS.replace("Ben", "Otto").replace("Mira", "Ben"), "Ben greets Otto") == greeting
    for characters, prompt in (
        (CHARACTERS, "Ben greets Mira"),
        (CHARACTERS.replace("short", "long"), "Mira greets Ben"),
        (CHARACTERS.replace("| woman |", "| hair |"), "Mira greets Ben"),
    ):
        assert nameless(characters, prompt) != greeting
