"""Which words are reported as misspelt names, and which ordinary ones are not."""

import pytest
from story_identity.core.near_misses import MOST_WARNINGS, unfound_names
from story_identity.core.story import Story


def warnings(names: str, *frames: str) -> list[str]:
    people = [{"name": name, "word": "woman", "description": "a woman with a rose"} for name in names.split(", ")]
    return unfound_names(Story.parse({"characters": people, "frames": list(frames)}))


@pytest.mark.parametrize(
    ("name", "prompt", "word"),
    [
        ("Mira", "Mria opens a letter", "Mria"),
        ("Mira", "the sea, then Mria", "Mria"),
        ("Mira", "Imra opens a letter", "Imra"),
        ("Mira", "mira's letter lies there", "mira"),
        ("Mira", "MIRA waits", "MIRA"),
        ("Mira", "Mirra waits", "Mirra"),
        ("Anna", "Ana waits", "Ana"),
        ("Mira", "a dog and Miro", "Miro"),
        ("Zoë", "Zoe waits", "Zoe"),
        ("Zoe", "Zoë waits", "Zoë"),
        ("Mira", "\uff2d\uff49\uff52\uff41 waits", "\uff2d\uff49\uff52\uff41"),
        ("Mira\u200b", "Mira waits", "Mira"),
        ("Kim Lee", "kim lee waits", "kim lee"),
        ("Kim Lee", "Kim  Lee waits", "Kim  Lee"),
        ("Kim\u00a0Lee", "Kim Lee waits", "Kim Lee"),
        ("Jonathan", "the end of Jonathon", "Jonathon"),
    ],
)
def test_a_word_that_is_nearly_a_name_is_reported(name: str, prompt: str, word: str):
    told = warnings(name, f"{name} waits", prompt)
    assert told == [f'Frame 2: "{word}" looks like the name "{name}", but is spelt differently.']


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("Mira", "Mira waits"),
        ("Tim", "Time passes"),
        ("Mary", "Many people wait"),
        ("Kate", "Kite in the sky"),
        ("Walter", "Water flows"),
        ("Ben", "Been there"),
        ("Mark", "Market day"),
        ("Rosa", "a rose"),
        ("Rose", "red roses and a rose"),
        ("Rose", "rose petals"),
        ("Will", "rain will fall"),
        ("Robot", "the robot waits"),
        ("Mila", "a street in Milan"),
        ("Mira", "embedding:mira, <lora:mira:1>, an empty beach"),
        ("Mira", "A Portrait Of The Mirror, Masterpiece, Best Quality"),
        ("Rose", "Rose with a rose"),
        ("Mira", "Mira and Mira's mirror"),
    ],
)
def test_ordinary_words_are_not_reported(name: str, prompt: str):
    assert warnings(name, f"{name} waits", prompt) == []


def test_a_name_that_its_author_uses_as_a_word_is_one():
    assert warnings("Sol", "Sol looks into bright sol", "bright sol above the sea") == []
    assert warnings("Sol", "Sol waits", "bright sol above the sea") != []


@pytest.mark.parametrize(
    ("name", "prompt", "word"),
    [
        ("Kate", "Kite in the sky", "Kite"),
        ("Rosa", "A Rosi in the sky", "Rosi"),
        ("Mira", "Miras Hut", "Miras"),
        ("Dr. Watson", "Watson sits", "Watson"),
        ("지은", "지은숙 걷는다", "지은숙"),
        ("Will", "rain will fall", "will"),
    ],
)
def test_of_somebody_in_no_frame_more_counts(name: str, prompt: str, word: str):
    sentence = f'"{name}" is in no frame. Names count as they are spelt, capitals included'
    assert warnings(name, "an empty beach") == [f"{sentence}."]
    assert warnings(name, "an empty beach", prompt, prompt) == [f'{sentence}; there is "{word}" in frames 2, 3.']


def test_one_sentence_for_all_frames_and_not_too_many_sentences():
    told = warnings("Mira", "Mira", *["mira waits"] * 9)
    assert told == ['Frames 2, 3, 4, 5, 6 and 4 more: "mira" looks like the name "Mira", but is spelt differently.']
    many = warnings(", ".join(f"Nobody {i}" for i in range(100)), "an empty beach")
    assert len(many) == MOST_WARNINGS + 1
    assert many[-1] == "80 more names are in no frame or misspelt."


def test_warnings_are_safe_to_log_and_short():
    name = "A\x1b[31m" + "b" * 150
    told = warnings(name, f"{name.lower()} waits", *[f"{name[:-1]}{i} waits" for i in range(50)])
    assert len(told) == 1
    assert told[0].isprintable()
    assert len(told[0]) < 1500


def test_published_characters_are_called_by_their_class_word_and_nothing_looks_like_it():
    pair = {"character": "a tall woman", "token": "woman", "prompts": ["a tall woman", "Women wait", "a beach"]}
    assert unfound_names(Story.parse(pair)) == []
