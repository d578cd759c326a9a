"""The words that a group's captions share."""

import pytest
from story_identity.core.character_mentions import Character
from story_identity.lab.storydb.phrase import find_class_word, identifying_spans, phrase_span, shared_phrase

WORDS = ("woman", "man", "robot")


def test_the_longest_run_that_all_captions_share():
    captions = [
        "A tall woman with red hair reads in a garden",
        "at night a tall woman with red hair sits on the beach",
        "the beach, and on it a tall woman with red hair",
    ]
    assert shared_phrase(captions, "woman").lower() == "a tall woman with red hair"


def test_every_caption_of_an_agreeing_group_has_the_phrase_at_its_span():
    captions = [f"{start} a robot with a blue lamp {end}".strip() for start in ("", "see") for end in ("", "at night")]
    phrase = shared_phrase(captions, "robot")
    character = Character("R", "robot", phrase)
    for caption in captions:
        start, end = phrase_span(character, caption)
        assert caption[start:end] == "a robot with a blue lamp"


def test_one_stray_among_ten_does_not_change_the_phrase():
    captions = [f"a woman with red hair in the {place}" for place in "abcdefghi"]
    assert shared_phrase([*captions, "a man in a city"], "woman") == "a woman with red hair in the"
    assert shared_phrase([*captions, "a woman asleep"], "woman") == "a woman with red hair in the"


def test_what_most_but_not_all_pictures_show_is_not_taken_into_the_phrase():
    captions = ["a woman with red hair waving"] * 9 + ["a woman with red hair asleep"]
    assert shared_phrase(captions, "woman") == "a woman with red hair"


def test_too_few_captions_with_the_word_have_no_phrase():
    captions = ["a woman with red hair", "a woman with red hair", "a dog", "a cat"]
    assert shared_phrase(captions, "woman", 0.8) is None
    assert shared_phrase(captions, "woman", 0.5) == "a woman with red hair"


def test_where_nothing_else_is_shared_the_class_word_stays():
    assert shared_phrase(["a woman sits", "a woman reads", "there a woman ran"], "woman") == "a woman"


def test_a_comma_within_the_words_makes_them_other_words():
    assert shared_phrase(["a woman, tall and old", "a woman tall and old"], "woman") == "a woman"


def test_the_word_is_a_whole_word():
    assert shared_phrase(["a snowman in the snow"] * 3, "man") is None
    assert find_class_word(["a snowman and a woman"], WORDS) == "woman"


def test_the_class_word_of_most_captions_and_of_two_equals_the_first():
    assert find_class_word(["a man", "a man and a woman", "a robot"], WORDS) == "man"
    assert find_class_word(["a man and a woman"], WORDS) == "woman"
    assert find_class_word(["a tree"], WORDS) is None


def test_identifying_words_by_hand():
    character = Character("Mia", "woman", "a woman with red hair")
    caption = "There a woman with red hair sits"
    assert [caption[slice(*span)] for span in identifying_spans(character, caption)] == ["woman", "red", "hair"]
    assert identifying_spans(character, "a tree") == ()


@pytest.mark.parametrize("count", [1, 5])
def test_equal_captions_are_the_phrase(count):
    assert shared_phrase(["the old robot of tin"] * count, "robot") == "the old robot of tin"
