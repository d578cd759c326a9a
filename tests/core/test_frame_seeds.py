"""Seeds of frames: typed, by number, by words, or the same."""

import pytest
from story_identity.core.frame_seeds import (
    BY_NUMBER,
    BY_WORDS,
    RULES,
    SAME,
    character_seeds,
    described_alike,
    frame_seeds,
)
from story_identity.core.story import Story
from story_identity.core.story_characters import typed_characters

CHARACTERS = "Mira | woman | a young woman with short red hair\nBen | man | an old man in a raincoat"
PROMPTS = ("Mira greets Ben", "a beach", "Ben waits", "a beach")


def seeds(*prompts: str, rule: str = BY_WORDS, seed: int = 7, characters: str = CHARACTERS, style: str = ""):
    return frame_seeds(Story.from_lines(characters, "\n".join(prompts), style).frames, seed, rule)


def test_by_number_adds_the_position_as_story_frames_always_did():
    assert seeds(*PROMPTS, rule=BY_NUMBER) == [7, 8, 9, 10]
    assert seeds(*PROMPTS, rule=BY_NUMBER, seed=2**64 - 2) == [2**64 - 2, 2**64 - 1, 0, 1]
    frames = Story.from_lines(CHARACTERS, "\n".join(PROMPTS)).frames
    assert frame_seeds(frames[2:], 7, BY_NUMBER) == [9, 10]


def test_the_same_is_the_same():
    assert seeds(*PROMPTS, rule=SAME) == [7] * 4


def test_by_words_frames_may_come_go_and_move():
    first, beach, third, again = seeds(*PROMPTS)
    assert len({first, beach, third, again}) == 4
    assert again == (beach + 1) % 2**64
    assert seeds("Ben", PROMPTS[2], PROMPTS[0], PROMPTS[1])[1:] == [third, first, beach]
    assert seeds("Mira greets Ben!")[0] != first
    assert seeds(PROMPTS[0], seed=8)[0] != first
    assert all(0 <= each < 2**64 for each in (first, beach, third, again))


def test_by_words_new_names_looks_and_styles_keep_the_seed():
    (first,) = seeds(PROMPTS[0])
    assert seeds("Maria greets Ben", characters=CHARACTERS.replace("Mira", "Maria")) == [first]
    assert seeds(PROMPTS[0], characters=CHARACTERS.replace("short red", "long black")) == [first]
    assert seeds(PROMPTS[0], style="ink") == [first]


def test_by_words_the_seed_is_worked_out_by_hand():
    # sha256 of "7\na beach" begins with these 8 bytes
    assert seeds("a beach") == [int("dc7f342043851f51", 16)]


@pytest.mark.parametrize("rule", RULES)
def test_a_seed_of_the_story_comes_before_all(rule):
    assert seeds("a beach", "seed 5 | a beach", rule=rule)[1] == 5
    assert seeds("a beach", rule=rule) == seeds("a beach", "seed 5 | a forest", rule=rule)[:1]


def test_a_typed_seed_belongs_to_its_line():
    frames = Story.from_lines(CHARACTERS, "Seed  0 ｜ Mira waits\nseed a tree | in the garden\nBen | waits").frames
    assert [frame.seed for frame in frames] == [0, None, None]
    assert [frame.caption for frame in frames] == ["Mira waits", "seed a tree | in the garden", "Ben | waits"]


@pytest.mark.parametrize("typed", ["seed", "seed x", "seed -1", "seed 1.5", "seed " + "9" * 20, "SEED " + "9" * 4000])
def test_what_is_no_seed_is_refused(typed):
    with pytest.raises(ValueError, match="Frame 2: ") as refused:
        Story.from_lines(CHARACTERS, f"a beach\n{typed} | Mira waits")
    assert "whole number from 0 to" in str(refused.value)
    assert len(str(refused.value)) < 500


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match='"random" is none of'):
        seeds("a beach", rule="random")


def test_characters_of_the_same_words_are_told_apart_by_their_place():
    lines = "A | boy | a boy\nB | boy | a  boy\nC | boy | a boy with a hat\nD | boy | a boy"
    people = typed_characters(lines)
    assert described_alike(people) == [(), ("A",), (), ("A", "B")]
    assert len(set(character_seeds(people, 0))) == 4


def test_a_characters_seed_depends_on_words_alone():
    def of(text: str, seed: int = 7) -> list[int]:
        return character_seeds(typed_characters(text), seed)

    mira, ben = of(CHARACTERS)
    assert of("\n".join(reversed(CHARACTERS.splitlines()))) == [ben, mira]
    assert of(f"Ada | girl | a girl\n{CHARACTERS.replace('Mira', 'Maria')}")[1:] == [mira, ben]
    assert of(CHARACTERS.replace("short", "long"))[0] != mira
    assert of(CHARACTERS, 8)[0] != mira
    twins = of(f"{CHARACTERS}\nMia | woman | a young woman with short red hair")
    assert twins[:2] == [mira, ben]
    assert abs(twins[2] - mira) > 1024  # their portraits have other seeds than hers
    # sha256 of "7\nman an old man in a raincoat" begins with these 8 bytes
    assert ben == int("1e0f858d348ca97e", 16)
